"""A part of the campaign of kills, which `make faults` runs whole, and the table that it made."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning")
from tests.faults.kills import RESULTS, WAYS, Campaign, markdown
from tests.faults.works import WORKS, shrink

PAGE = Path(__file__).parents[2] / "docs" / "lab" / "faults.md"
#: Of the cheap commands, and of training: what befalls in other ways than the other tests have.
PART = [
    ("flow", "SIGKILL, at a change"),
    ("flow", "full disk"),
    ("sample", "SIGTERM"),
    ("sample --shards", "SIGKILL, at a change"),
    ("train", "SIGKILL, at a change"),
]


@pytest.mark.skipif(sys.platform != "linux", reason="forks are timed as Linux does")
def test_what_is_struck_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch):
    shrink(monkeypatch.setattr)
    campaign = Campaign(tmp_path.resolve())
    for name, way in PART:
        assert campaign.case(name, way, f"{name}, {way}, part") == []


def test_the_page_shows_what_the_campaign_wrote():
    report = json.loads(RESULTS.read_text())
    table = markdown(report["rows"])
    assert table in PAGE.read_text()
    assert f"`{report['command']}`, commit {report['commit'][:7]}" in PAGE.read_text()
    assert report["faults"] == []
    total = table.splitlines()[-1].split(" | ")
    assert sum(counts.get(way, 0) for counts in report["rows"].values() for way in WAYS if "SIG" in way) >= 60
    assert total[-3:] == ["0", "0", "0 |"]
    assert set(report["rows"]) == set(WORKS)

"""The page of a judgement: whole by itself, whatever names hold, and it shows what was found."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmdflow import plots
from mmdflow.data import ImageSet
from mmdflow.evaluation.judge import judge
from mmdflow.evaluation.page import save_page
from mmdflow.metrics.extractors import ModuleExtractor


class Reader(HTMLParser):
    """What a page holds, once its elements are seen to be closed in order."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.cells, self.links = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.links += [value for key, value in attrs if key in ("src", "href")]
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        if tag == "td":
            self.cells.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def judged():
    """30 samples, the last 5 of them copies, of a source whose name is a trap."""
    pixels = np.random.default_rng(0).integers(0, 256, (125, 1, 8, 8), dtype=np.uint8)
    training = ImageSet(pixels[:60], source="training")
    samples = ImageSet(np.concatenate([pixels[60:85], pixels[5:10]]), source="a|b <i>*.png")
    held_out = ImageSet(pixels[85:], source="held out")
    torch.manual_seed(0)
    extractor = ModuleExtractor(nn.Conv2d(1, 4, 3), "conv")
    judgement = judge(samples, training, extractor, held_out=held_out, repeats=2)
    return replace(judgement, figures=judgement.figures | {"settings": {"sampler": "exact"}}), samples, training


def test_html_holds_everything(judged, tmp_path):
    judgement, samples, training = judged
    frames = torch.rand(20, 3, 1, 8, 8) * 2 - 1
    page = save_page(judgement, samples, training, tmp_path / "page", frames)
    reader = Reader(page.read_text(encoding="utf-8"))
    files = ["samples.png", "neighbours.png", "closest.png", "trajectory.png"]
    assert reader.links == reader.images
    held = [base64.b64decode(address.removeprefix("data:image/png;base64,")) for address in reader.images]
    assert held == [(page.parent / name).read_bytes() for name in files]
    assert Image.open(io.BytesIO(held[3])).size == (12 * 50 + 2, 3 * 50 + 2)
    cells = dict(zip(reader.cells, reader.cells[1:], strict=False))
    assert cells["copying z"] == f"{judgement.figures['copying_z']:.5g}"
    assert cells["samples"] == "a|b <i>*.png"
    assert cells["settings"] == "sampler = exact"
    assert {p.name for p in page.parent.iterdir()} == {*files, "report.md", "report.html"}


def test_markdown_shows_names_as_they_are(judged, tmp_path):
    judgement, samples, training = judged
    page = save_page(judgement, samples, training, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert not (tmp_path / "trajectory.png").exists()
    assert text.startswith("# a\\|b \\<i\\>\\*.png\n")
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    for name in re.findall(r"!\[.*\]\((.*)\)", text):
        assert (tmp_path / name).is_file()
    assert "None" not in text + page.read_text()


def test_the_closest_are_the_copies(judged, tmp_path):
    judgement, samples, training = judged
    closest = judgement.neighbours.closest(5)
    assert set(closest.rows.tolist()) == set(range(25, 30))
    assert set(closest.nearest.tolist()) == set(range(5, 10))
    assert closest.distances.tolist() == [0] * 5
    assert judgement.neighbours.closest(99).distances.diff().min() >= 0
    save_page(judgement, samples, training, tmp_path)
    shown = np.asarray(Image.open(tmp_path / "closest.png"))
    upper, lower = shown[2:50], shown[52:100]
    np.testing.assert_array_equal(upper[:, : 5 * 50], lower[:, : 5 * 50])
    assert (upper[:, 5 * 50 :] != lower[:, 5 * 50 :]).any()


def test_a_trajectory_is_a_particle_a_row_from_first_to_last():
    values = torch.linspace(-1, 1, 7 * 2).view(7, 2, 1, 1, 1).expand(7, 2, 1, 48, 48)
    shown = np.asarray(plots.trajectory_grid(values, moments=4))[2::50, 2::50]
    expected = ((values[[0, 2, 4, 6], :, 0, 0, 0].T + 1) * 127.5).round()
    np.testing.assert_array_equal(shown, expected.numpy())
    assert plots.trajectory_grid(values[:1]).size == (52, 102)

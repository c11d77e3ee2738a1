"""The pages: generated tables are current, links lead somewhere, names that they mention exist, lines are short."""

import ast
import importlib.util
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

import mmdflow
from mmdflow._settings import table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
docs_tables = importlib.import_module("docs_tables")
sys.path.pop(0)

PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: Pages whose code runs here, in one namespace a page; that of the others runs elsewhere.
ELSEWHERE = {"README.md": "test_examples", "flows.md": "test_examples", "extend.md": "test_extend"}
WITH_CODE = [page for page in PAGES if page.name not in ELSEWHERE and CODE.search(page.read_text())]
#: Pages that a stranger reads: the guide, and what of the lab the guide sends them to.
PLAIN = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
    *sorted((ROOT / "docs" / "baselines").glob("*.md")),
    *(ROOT / "docs" / "lab" / f"{name}.md" for name in ("comparison", "digits", "index", "names")),
]

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors(page):
    """Return the anchors of a page's headings, as Markdown makes them."""
    anchors = set()
    for heading in re.findall(r"^#+ +(.*)$", FENCE.sub("", page.read_text()), re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
        anchors.add(re.sub(r"[\s-]+", "-", plain))
    return anchors


@pages
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


@pages
def test_names_in_backticks_exist(page):
    for name in sorted(set(re.findall(r"`(mmdflow(?:\.\w+)+)", FENCE.sub("", page.read_text())))):
        if page.name != "CHANGELOG.md":
            assert resolves(name), f"{name}: no such module or name"


def is_module(name):
    """Return whether a module of that name exists; it is not imported, as some load much."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def resolves(name):
    """Return whether a dotted name is a module, or a name in one."""
    module, attributes = name, []
    while not is_module(module):
        module, _, attribute = module.rpartition(".")
        if not module:
            return False
        attributes.insert(0, attribute)
    value = importlib.import_module(module) if attributes else None
    for attribute in attributes:
        if not hasattr(value, attribute):
            return False
        value = getattr(value, attribute)
    return True


@pages
def test_imports_in_code_work(page):
    for code in CODE.findall(page.read_text()):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmdflow"):
                for alias in node.names:
                    assert resolves(f"{node.module}.{alias.name}"), f"{node.module}.{alias.name}: no such name"


REFERENCE = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "reference.md").read_text(), re.MULTILINE)
#: Rooms whose names are commands and reproductions, with pages of their own.
COMMANDS = {"cli", "studies"}


def test_modules_of_the_reference_exist():
    for name in REFERENCE:
        assert resolves(name), f"{name}: no such module"


@pytest.mark.parametrize("name", mmdflow.__all__)
def test_the_reference_has_every_public_name(name):
    home = getattr(mmdflow, name).__module__
    assert any(home == m or home.startswith(f"{m}.") for m in REFERENCE), f"{name} of {home}: not in docs/reference.md"


def test_the_reference_has_every_room():
    package = ROOT / "src" / "mmdflow"
    rooms = [path for path in (*package.iterdir(), *(package / "methods").iterdir()) if (path / "__init__.py").exists()]
    for room in rooms:
        if room.name in COMMANDS or room.name.startswith("_"):
            continue
        name = ".".join(["mmdflow", *room.relative_to(package).parts])
        assert any(module == name or module.startswith(f"{name}.") for module in REFERENCE), f"{name}: not there"


@pytest.mark.parametrize("name", mmdflow.__all__)
def test_public_names_have_an_example(name):
    assert ">>> " in (getattr(mmdflow, name).__doc__ or ""), f"{name}: its docstring has no example"


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for code in CODE.findall(page.read_text()):
        exec(compile(code, page.name, "exec"), names)


@pytest.mark.parametrize("page", PLAIN, ids=lambda page: str(page.relative_to(ROOT)))
def test_sentences_are_short(page):
    for block in re.split(r"\n\s*\n|\n(?=\||#|\s*- )", FENCE.sub("\n", page.read_text())):
        for part in block.split("|") if block.lstrip().startswith("|") else [block]:
            plain = re.sub(r"`[^`]*`", "code", re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", part))
            for sentence in re.split(r"(?<=[.!?])\s+", plain):
                assert len(sentence.split()) <= 35, f"{page.name}: {' '.join(sentence.split())}"


@pages
def test_lines_are_short(page):
    for number, line in enumerate(FENCE.sub(lambda m: "\n" * m[0].count("\n"), page.read_text()).splitlines(), 1):
        assert len(line) <= 130 or line.startswith(("|", "![")), f"{page.name}:{number} has {len(line)} characters"


def test_tables_of_settings_are_current():
    stale = [str(page.relative_to(ROOT)) for page in docs_tables.stale_pages(ROOT / "docs")]
    assert not stale, f"stale: {stale}; run python tools/docs_tables.py"


def test_a_stale_page_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "page.md"
    page.write_text("<!-- settings: mmdflow.recipe.flow:FlowSpec as flow -->\n| old |\n<!-- end -->\n")
    monkeypatch.setattr(docs_tables, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["docs_tables.py", "--check"])
    assert docs_tables.main() == 1
    assert "page.md" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["docs_tables.py"])
    assert docs_tables.main() == 0
    assert "| `flow.divergence.name` |" in page.read_text()
    monkeypatch.setattr(sys, "argv", ["docs_tables.py", "--check"])
    assert docs_tables.main() == 0


def test_pictures_of_the_pages_lie_in_one_place():
    results = {picture.read_bytes() for picture in (ROOT / "results").rglob("*.png")}
    assert not [picture.name for picture in (ROOT / "docs").rglob("*.png") if picture.read_bytes() in results]


@dataclass(frozen=True)
class Inner:
    """Settings within others.

    Attributes:
        size: how large | how wide.
    """

    size: int = 3


@dataclass(frozen=True)
class Outer:
    """Settings.

    Attributes:
        kind: which.
        inner: more of them.
    """

    kind: Literal["a", "b"] | None
    inner: Inner = field(default_factory=lambda: Inner(size=5))


def test_table_has_nested_fields_with_their_own_defaults():
    assert table(Outer).splitlines()[2:] == [
        "| `kind` | `a`, `b` |  | which. |",
        r"| `inner.size` | int | `5` | how large \| how wide. |",
    ]

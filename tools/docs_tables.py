"""Fill the tables in docs that the code knows: python tools/docs_tables.py [--check]

A table stands between `<!-- settings: package.module:Class -->` and `<!-- end -->`, made from the dataclass and its docstring.
With `package.module:Class as loss` the fields are written `loss.NAME`, as recipes and the command line have them. Other tables
stand after `<!-- table: package.module:function -->`, which returns them. --check writes nothing and exits 1 where a page is
stale.
"""

import argparse
import importlib
import re
import sys
from pathlib import Path

from mmdflow._settings import table

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(<!-- (settings|table): ([\w.]+):(\w+)(?: as ([\w.]+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Return a page with its tables as the code has them now."""

    def block(match: re.Match[str]) -> str:
        start, what, module, name, prefix, end = match.groups()
        source = getattr(importlib.import_module(module), name)
        text = source() if what == "table" else table(source, f"{prefix}." if prefix else "")
        return f"{start}{text}\n{end}"

    return BLOCK.sub(block, text)


def stale_pages(folder: Path) -> list[Path]:
    """Return the pages below a folder whose tables are not those of the code."""
    return [page for page in sorted(folder.rglob("*.md")) if filled(page.read_text()) != page.read_text()]


def main() -> int:
    """Fill the tables, or name the pages that are stale."""
    parser = argparse.ArgumentParser(description="Fill the tables in docs that the code knows.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is stale")
    check = parser.parse_args().check
    stale = stale_pages(ROOT / "docs")
    for page in stale:
        name = page.relative_to(ROOT)
        if check:
            print(f"{name}: a table is stale; run python tools/docs_tables.py", file=sys.stderr)
        else:
            page.write_text(filled(page.read_text()))
            print(f"written: {name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())

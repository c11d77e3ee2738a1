"""A page to look at: the figures of a judgement, samples, suspected copies and the run of the sampler, as HTML and Markdown."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mmdflow import plots
from mmdflow._files import make_folder, new_file
from mmdflow.data import ImageSet
from mmdflow.evaluation.figures import MEANINGS, REFERENCE, text
from mmdflow.evaluation.judge import Judgement
from mmdflow.evaluation.neighbours import Neighbours

#: What is shown: samples in the grid, pairs of neighbours, moments of a trajectory.
_SAMPLES, _PAIRS, _MOMENTS = 64, 16, 12
_STYLE = """\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; }
td { padding: 0.25rem 1rem 0.25rem 0; border-bottom: 1px solid #8884; vertical-align: top; overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; }
td.figure { white-space: nowrap; font-variant-numeric: tabular-nums; }
td.meaning, figcaption { color: #777; }
figure { margin: 0; }
img { max-width: 100%; image-rendering: pixelated; }"""


@dataclass(frozen=True)
class _Picture:
    file: str
    heading: str
    caption: str
    image: Image.Image


def save_page(
    judgement: Judgement,
    samples: ImageSet,
    training: ImageSet,
    folder: Path,
    trajectory: Float[Tensor, "S n c h w"] | None = None,
) -> Path:
    """Write the page: `report.html`, which holds its pictures, and `report.md` beside them.

    Args:
        judgement: of the samples; its figures may have been added to.
        samples: what was judged.
        training: the images that the neighbours are of.
        folder: where; made where it is missing.
        trajectory: particles at each step of the sampler that made such samples.

    Returns:
        `report.html`.
    """
    make_folder(folder)
    neighbours = judgement.neighbours
    pictures = [_grid(samples, neighbours), *_pairs(samples, training, neighbours)]
    if trajectory is not None:
        pictures.append(_run(trajectory))
    figures, facts = _rows(judgement.figures)
    for picture in pictures:
        plots.save_picture(picture.image, folder / picture.file)
    with new_file(folder / "report.md") as aside:
        aside.write_text(_markdown(judgement.figures["samples"], figures, facts, pictures), encoding="utf-8")
    files = {picture.file: (folder / picture.file).read_bytes() for picture in pictures}
    with new_file(folder / "report.html") as aside:
        aside.write_text(_html(judgement.figures["samples"], figures, facts, pictures, files), encoding="utf-8")
    return folder / "report.html"


def _grid(samples: ImageSet, neighbours: Neighbours) -> _Picture:
    shown = samples[neighbours.first(_SAMPLES).rows]
    return _Picture(
        "samples.png", "Samples", f"{len(shown)} of {len(samples)}, drawn at random.", plots.image_grid(shown)
    )


def _pairs(samples: ImageSet, training: ImageSet, neighbours: Neighbours) -> list[_Picture]:
    count, median = len(neighbours.rows), float(neighbours.distances.median())

    def picture(file: str, heading: str, pairs: Neighbours) -> _Picture:
        low, high = float(pairs.distances.min()), float(pairs.distances.max())
        caption = (
            f"Above samples, below each the image of {training.source} that is nearest by the distance of pixels: "
            f"from {low:.3g} to {high:.3g}; the median of {count} samples is {median:.3g}."
        )
        both = plots.above_each_other(samples[pairs.rows], training[pairs.nearest])
        return _Picture(file, heading, caption, both)

    closest = f"The {min(_PAIRS, count)} samples closest to training images: copies, if there are any"
    first, nearest = neighbours.first(_PAIRS), neighbours.closest(_PAIRS)
    return [
        picture("neighbours.png", "Samples drawn at random and their nearest training images", first),
        picture("closest.png", closest, nearest),
    ]


def _run(trajectory: Tensor) -> _Picture:
    image = plots.trajectory_grid(trajectory, _MOMENTS)
    caption = (
        f"{trajectory.shape[1]} particles that flow together, one a row: the source on the left, samples on the right."
    )
    return _Picture("trajectory.png", "The run of the sampler", caption, image)


def _rows(report: dict[str, Any]) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Return the figures with how to read them, and what else the report says."""
    meanings: dict[str, str] = {}
    for key, meaning in MEANINGS.items():
        meanings |= {key: meaning, f"{key}{REFERENCE}": "the same of images that were held out"}
    figures = [(_words(key), text(report[key]), meaning) for key, meaning in meanings.items() if key in report]
    facts = []
    for key, value in report.items():
        if isinstance(value, dict):  # settings; provenance and others that nest stay in the JSON
            value = ", ".join(f"{k} = {v}" for k, v in value.items() if not isinstance(v, dict | list))
        if key not in meanings and key != "trained" and value not in (None, ""):
            facts.append((_words(key), text(value)))
    return figures, facts


def _words(key: str) -> str:
    return key.replace("_", " ")


def _markdown(
    title: str, figures: Sequence[Sequence[str]], facts: Sequence[Sequence[str]], pictures: Sequence[_Picture]
) -> str:
    lines = [f"# {_escaped(title)}", ""]
    for heads, rows in ((("figure", "", "how to read it"), figures), (("how it was measured", ""), facts)):
        lines += [
            _line(heads),
            "|" + "---|" * len(heads),
            *(_line([_escaped(cell) for cell in row]) for row in rows),
            "",
        ]
    for p in pictures:
        lines += [f"## {_escaped(p.heading)}", "", _escaped(p.caption), "", f"![{_escaped(p.heading)}]({p.file})", ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Return text on one line that Markdown shows as it is, in cells of tables too."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def _html(
    title: str,
    figures: Sequence[Sequence[str]],
    facts: Sequence[Sequence[str]],
    pictures: Sequence[_Picture],
    files: dict[str, bytes],
) -> str:
    kinds = ("name", "figure", "meaning")
    tables = []
    for rows, classes in ((figures, kinds), (facts, ("name", "fact"))):
        cells = (
            "".join(f'<td class="{kind}">{html.escape(cell)}</td>' for kind, cell in zip(classes, row, strict=True))
            for row in rows
        )
        tables.append("<table>\n" + "\n".join(f"<tr>{row}</tr>" for row in cells) + "\n</table>")
    sections = []
    for p in pictures:
        address = "data:image/png;base64," + base64.b64encode(files[p.file]).decode()
        heading = html.escape(p.heading)
        width = p.image.width * max(1, 900 // p.image.width)  # small pictures are shown at whole multiples
        sections.append(
            f'<h2>{heading}</h2>\n<figure>\n<img src="{address}" alt="{heading}" width="{width}">\n'
            f"<figcaption>{html.escape(p.caption)}</figcaption>\n</figure>"
        )
    body = [f"<h1>{html.escape(title)}</h1>", tables[0], *sections, "<h2>How it was measured</h2>", tables[1]]
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n"
    )
    return head + "\n".join(body) + "\n</body>\n</html>\n"

"""Write docs/lab/speed.md and docs/assets/speed/*.png from results/bench-*.json; growth.png is for lab/fast-sums.md.

pip install -r benchmarks/requirements.txt
python benchmarks/run.py
python tools/speed_page.py [FOLDER OF THE REPORTS]
"""

import itertools
import json
import math
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
ASSETS, PAGE = ROOT / "docs" / "assets" / "speed", ROOT / "docs" / "lab" / "speed.md"
SUITES = ("sums", "plain", "sliced", "drift", "scaling", "latency")
OTHER = "POT (W2)"  # another divergence

INTRODUCTION = """\
mmdflow beside other libraries and plain PyTorch, on the same work in the same process, taking turns. Times are medians,
and an error stands beside every time. A ratio is the method's time divided by mmdflow's: above 1 mmdflow is quicker.
Ratios say more than times, which are of one run on one machine. `python tools/speed_page.py` writes this page from
`results/bench-*.json`, and `python benchmarks/run.py` makes those (`pip install -r benchmarks/requirements.txt` first;
`make bench` does it all)."""
SUMS = """\
The velocity of the MMD of n = m = {n} points in float32, an [n, d] sum over all pairs of particles and of particles
and target samples. Gaussian kernel of bandwidth d^(1/2) and Riesz kernel -|x - y| (energy distance). Errors are
relative, of {checked} particles, against float64 with exact differences. KeOps is one reduction over both clouds with
signed weights; GeomLoss is `SamplesLoss("gaussian" or "energy", backend="tensorized")` with autograd; torch.cdist and
broadcast are autograd through all distances, and through all differences (up to 10 dimensions; it holds [n, m, d]).
Cells: milliseconds, ratio, error."""
PLAIN = """\
The same work, n = m = {n}, beside what one writes in ten lines who knows the gradient: squared distances by a matrix product,
{rows} rows at a time, the slope in place, a second product (`blocked` in `benchmarks/peers.py`), no autograd. *Two products* are
the bare matrix products over all pairs: no method of this kind goes below them. Times are those of the process, in turns; errors
are those of {checked} particles. Cells: milliseconds, ratio, error."""
LIMIT = """\
In many dimensions the two products are most of the work, and both methods have them. At d = {dim} mmdflow takes {share:.2f} of
the time of the peer's bare products, so that a gain of {most:.2f}x over the peer is what remains in all between them and the
passes. Symmetric halves of the particles' own pairs would save an eighth of the products. Products of bfloat16 parts with errors
below 1e-5 take three for one."""
AWAY = """\
Errors of {n} particles and as many targets that lie {offsets} standard deviations from the origin along every axis, relative,
against float64 on the same float32 points. Distances by matrix products of uncentred points lose their digits there."""
SLICED = """\
The velocity of `SlicedMMD`, r = 1, n = m points in float32, P slices. Drawing directions is part of the time, but for
*kept directions*. *Three sorts* is the algorithm of Hertrich, Wald, Altekrüger and Hagemann (2024) with the three
sorts a slice of their published code, written by us: random directions, `torch.mm`, sorts of both clouds together, of
that order, which inverts it, and of the particles. *Two sorts* is the quickest that we found in plain PyTorch: the
particles and the target are sorted, and the first looked up in the second. *Error* is the method's own: against float64
with the same points and directions. *Slicing error* is what the directions cost: the sliced gradient in float64 against
the exact gradient of the MMD, 100 particles, root mean square over {draws} draws. mmdflow's directions are orthogonal
unless said; for *binned* and *bfloat16* they are random, as the peers' are. How kinds of directions differ is measured
in [Directions](directions.md)."""
POT = """\
*POT (W2)* is the gradient of POT's `sliced_wasserstein_distance`, squared, by autograd. It is **another divergence**,
here for orientation only: it projects and sorts both clouds, then matches quantiles. POT has no sliced MMD."""
SCALING = """\
The median time of a velocity as one of the sizes grows, float32, {threads} thread(s): MMD with the Gaussian kernel,
SlicedMMD with 100 orthogonal directions drawn anew."""
DRIFT = """\
The velocity of {n} particles to {m} samples, d = {d}, float32, Laplace kernel of bandwidth {bandwidth:g}: the mean-shift drift of
`Drift`, the same formula from two matrices of weights in plain torch, and the batch form of Deng et al. (2026) in plain torch,
which holds all pairs. It is **another drift**: its softmax over columns needs all pairs at once. Every method has a process of
its own. Seconds are CPU seconds, the quickest of {repeats}; memory is what was added to the peak. Errors are relative, against
the same formula in float64, of {checked[0]} particles and {checked[1]} samples. *Two products* are the bare matrix products over
all pairs, which every form by products has: {share:.2f} of mmdflow's time, and {limit:.1f} times the speed of the batch form, the
limit in float32."""
GOALS = """\
What this version set out to reach, with the same kind of directions on both sides. Where it falls short, the reasons are:

| work | why |
|---|---|
| exact ranks of a million points | the radix sort of a row (16 MB) leaves the second-level cache: 15 ns an entry instead of 7 |
| binned ranks, 1000 points | drawing and products take 6 of the milliseconds; a histogram has half as many bins as points |
| two matrix products, d = 100 | `torch.mm` on small blocks has 0.8 to 0.9 of its best; the pass between takes 0.36 ns a pair |
| autograd, d = 10 | arithmetic: 44 vector operations for 16 pairs, at about two thirds of what the units can do |
| two threads | torch's threads spin for some milliseconds after a product, and hold a core |
| bfloat16 and structured directions | conversions, transforms, ranks and fresh memory are left, none of them most of it |"""
NOT_COMPARED = """\
- simple-torch-nfft, fast Fourier summation on slices by an author of the sliced MMD: it is not on the package index
that these measurements could install from.
- GPUs: KeOps and GeomLoss are made for them; here all run on a CPU.
- The published code of the sliced MMD flow itself: the same sorts, written by us, are compared instead."""


def main() -> None:
    """Write the page and its figures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "results"
    reports = {suite: json.loads((folder / f"bench-{suite}.json").read_text()) for suite in SUITES}
    ASSETS.mkdir(parents=True, exist_ok=True)
    sections = [
        section(reports[suite])
        for suite, section in zip(SUITES, (sums, plain, sliced, drift, scaling, latency), strict=True)
    ]
    slower = ["## Where mmdflow is not ahead", *behind(reports["sums"], reports["sliced"])]
    goals_met = ["## Goals", GOALS, goals(reports)]
    parts = [
        "# Speed",
        wrapped(INTRODUCTION),
        *itertools.chain(*sections),
        *goals_met,
        *slower,
        "## What is not compared",
        NOT_COMPARED,
    ]
    PAGE.write_text("\n\n".join(parts) + "\n")
    growth(json.loads((folder / "bench-growth.json").read_text())["rows"])
    print(f"written: {PAGE.relative_to(ROOT)}, figures in {ASSETS.relative_to(ROOT)}")


def sums(report: dict[str, Any]) -> list[str]:
    """Return the section of the sums over all pairs."""
    rows = report["rows"]
    names = methods(rows)
    table = [
        [row["kernel"], row["d"], *(cell(row["methods"].get(name), name == "mmdflow") for name in names)]
        for row in rows
    ]
    paragraphs = [wrapped(SUMS.format(n=report["n"], checked=min(500, report["n"])))]
    shares = [
        f"{row['of_sgemm_peak']:.2f} ({row['kernel']}, d = {row['d']}; peak {row['sgemm_gflops']:.0f} GFLOP/s)"
        for row in rows
        if "of_sgemm_peak" in row
    ]
    paragraphs.append(
        wrapped(
            f"Counting the 4 n (n + m) d operations of two matrix products, mmdflow reaches these parts of the best "
            f"rate that `torch.mm` had on 2048 x 2048 matrices beside it: {', '.join(shares)}."
        )
    )
    if "KeOps" in names:
        of_keops = [row["methods"]["KeOps"] for row in rows]
        compiling = [(of["first_call_ms"] - of["ms"]) / 1000 for of in of_keops]
        paragraphs.append(
            wrapped(
                f"KeOps compiles a formula at its first call, which took {min(compiling):.0f} to {max(compiling):.0f} "
                f"s here and is not in the times; mmdflow's first call is [below](#the-first-call)."
            )
        )
    figure, axes = panels(1, 2)
    for ax, kernel in zip(axes, ("gaussian", "riesz"), strict=True):
        for name in names:
            found = [row for row in rows if row["kernel"] == kernel and name in row["methods"]]
            curve(ax, name, [row["d"] for row in found], [row["methods"][name]["ms"] for row in found])
        ax.set(title=f"{kernel}, n = m = {report['n']}", xlabel="dimension d", ylabel="ms")
    save(figure, "sums")
    return [
        *heading("Sums over all pairs", report, paragraphs),
        markdown(["kernel", "d", *names], table),
        picture("sums", "Time of the MMD velocity against the dimension"),
    ]


def plain(report: dict[str, Any]) -> list[str]:
    """Return the section of plain torch, and of clouds away from the origin."""
    names, rows = ("mmdflow", "blocked torch", "two products"), report["rows"]
    table = [
        [row["kernel"], row["d"], *(cell(row["methods"][name], name == "mmdflow") for name in names)] for row in rows
    ]
    most = max((row for row in rows if row["kernel"] == "gaussian"), key=lambda row: row["d"])
    bare, peer = (1 / most["methods"][name]["ratio"] for name in ("two products", "blocked torch"))
    limit = LIMIT.format(dim=most["d"], share=bare, most=bare / peer)
    away = report["away"]["rows"]
    methods_away = list(away[0]["errors"])
    lost = [
        [row["kernel"], row["d"], f"{row['offset']:g}", *(f"{row['errors'][name]:.0e}" for name in methods_away)]
        for row in away
    ]
    offsets = ", ".join(f"{offset:g}" for offset in unique(away, "offset"))
    return [
        *heading("Beside plain torch", report, [wrapped(PLAIN.format(n=report["n"], rows=256, checked=200))]),
        markdown(["kernel", "d", *names], table),
        wrapped(limit),
        "### Away from the origin",
        wrapped(AWAY.format(n=report["away"]["n"], offsets=offsets)),
        markdown(["kernel", "d", "offset", *methods_away], lost),
    ]


def sliced(report: dict[str, Any]) -> list[str]:
    """Return the section of the sliced MMD."""
    rows = report["rows"]
    table = []
    for row in rows:
        for name, of in row["methods"].items():
            errors = [f"{of[key]:.1e}" if key in of else "" for key in ("error", "slicing_error")]
            size = [row["n"], row["d"], row["P"]] if name == "mmdflow" else ["", "", ""]
            table.append([*size, name, number(of["ms"]), f"{of['ratio']:.2f}", *errors])
    figure, axes = panels(1, 2, width=6.5)
    places = range(len(rows))
    for name in methods(rows):
        style = {"color": "black", "ms": 9} if name == "mmdflow" else {}
        for ax, key in zip(axes, ("ms", "error"), strict=True):
            values = [row["methods"].get(name, {}).get(key, math.nan) for row in rows]
            ax.semilogy(places, values, "o", label=name, **style)
    for name, label in (("mmdflow", "slicing, orthogonal"), ("three sorts", "slicing, random")):
        errors = [row["methods"][name]["slicing_error"] for row in rows]
        axes[1].semilogy(places, errors, "_", ms=22, mew=2, label=label)
    for ax, title in zip(axes, ("ms", "relative error of the gradient"), strict=True):
        ax.set_xticks(places, [f"n = {row['n']}\nd = {row['d']}\nP = {row['P']}" for row in rows])
        ax.set_title(title)
    save(figure, "sliced")
    notes = [POT] if OTHER in methods(rows) else []
    return [
        *heading(
            "Sums over slices", report, [wrapped(text) for text in (SLICED.format(draws=report["draws"]), *notes)]
        ),
        markdown(["n = m", "d", "P", "method", "ms", "ratio", "error", "slicing error"], table),
        picture("sliced", "Times and errors of the sliced velocity"),
    ]


def goals(reports: dict[str, dict[str, Any]]) -> str:
    """Return the table of what was aimed at and what was measured."""
    rows: list[list[Any]] = []
    of_slices = {(row["n"], row["d"]): row["methods"] for row in reports["sliced"]["rows"]}
    exact, binned = "mmdflow, random directions", "mmdflow, binned"
    half, structured = "mmdflow, binned, bfloat16", "mmdflow, structured, binned"
    aims = (
        *((exact, *size, goal) for size, goal in zip(of_slices, (12, 12, 12, 6, 6), strict=True)),
        *((binned, *size, goal) for size, goal in zip(list(of_slices)[:4], (50, 45, 45, 28), strict=True)),
        (half, 10_000, 784, 12),
        (structured, 10_000, 784, 25),
    )
    for name, n, d, goal in aims:
        methods = of_slices[n, d]
        ratio = methods["three sorts"]["ms"] / methods[name]["ms"]
        rows.append([f"{name}, n = {n}, d = {d}", "three sorts", f"{goal}x", f"{ratio:.1f}x"])
    of_sums = {row["d"]: row for row in reports["sums"]["rows"] if row["kernel"] == "gaussian"}
    aims_of_sums = (
        *(("KeOps", d, goal) for d, goal in zip(of_sums, (20, 12, 18, 25), strict=True)),
        *(("GeomLoss", d, goal) for d, goal in zip(of_sums, (100, 50, 9), strict=False)),
    )
    for peer, d, goal in aims_of_sums:
        ratio = of_sums[d]["methods"][peer]["ratio"]
        rows.append([f"mmdflow, Gaussian, n = 5000, d = {d}", peer, f"{goal}x", f"{ratio:.1f}x"])
    for d, goal in ((100, 0.75), (784, 0.9)):
        share = of_sums[d]["of_sgemm_peak"]
        rows.append([f"mmdflow, Gaussian, n = 5000, d = {d}", "the best of torch.mm", f"{goal} of it", f"{share:.2f}"])
    threads = {(row["series"], row["threads"]): row["ms"] for row in reports["scaling"]["rows"]}
    for (name, count), ms in threads.items():
        if name.startswith("threads") and count == 2:
            rows.append(
                [f"two threads, {name.removeprefix('threads: ')}", "one", "1.8x", f"{threads[name, 1] / ms:.1f}x"]
            )
    memory = reports["scaling"]["memory"]["methods"]["mmdflow"]["process_mb"]
    rows.append(["a step of a million particles, exact ranks", "", "1000 MB", f"{memory:.0f} MB"])
    first = next(row["first_ms"] for row in reports["latency"]["rows"] if row["cache"] == "empty")
    rows.append(["first velocity, nothing compiled yet", "", "2000 ms", f"{first:.0f} ms"])
    return markdown(["work", "against", "goal", "measured"], rows)


def drift(report: dict[str, Any]) -> list[str]:
    """Return the section of the drift."""
    repeats = next(iter(report["methods"].values()))["repeats"]
    ours, _, batch, bare = (of["seconds"] for of in report["methods"].values())
    shares = {"share": bare / ours, "limit": batch / bare}
    text = DRIFT.format(
        **{key: report[key] for key in ("n", "m", "d", "bandwidth", "checked")}, repeats=repeats, **shares
    )
    table = [
        [
            name,
            number(of["seconds"]),
            f"{of['ratio']:.2g}",
            number(of["mb"]),
            f"{of['error']:.0e}" if "error" in of else "",
        ]
        for name, of in report["methods"].items()
    ]
    header = ["method", "seconds", "ratio", "MB", "error"]
    return [*heading("A drift", report, [wrapped(text)]), markdown(header, table)]


def scaling(report: dict[str, Any]) -> list[str]:
    """Return the section of the growth with the sizes, of threads and of memory."""
    rows = report["rows"]
    series = [name for name in unique(rows, "series") if not name.startswith("threads")]
    threaded = [name for name in unique(rows, "series") if name.startswith("threads")]
    figure, axes = panels(2, math.ceil(len(series) / 2))
    for ax, name in zip(axes, series, strict=True):
        found = [row for row in rows if row["series"] == name]
        along = next(key for key in ("n", "d", "P") if len({row[key] for row in found}) > 1)
        curve(ax, name, [row[along] for row in found], [row["ms"] for row in found])
        fixed = ", ".join(f"{key} = {found[0][key]}" for key in ("n", "d", "P") if key != along and found[0][key])
        ax.set(title=f"{name.split(',')[0]}, {fixed}", xlabel=along, ylabel="ms")
    save(figure, "scaling", legend=False)
    times = {(row["series"], row["threads"]): row for row in rows}
    counts = unique(rows, "threads")
    table = []
    for name in threaded:
        first = times[name, counts[0]]
        size = ", ".join(f"{key} = {first[key]}" for key in ("n", "d", "P") if first[key])
        ms = [times[name, count]["ms"] for count in counts]
        table.append(
            [
                f"{name.removeprefix('threads: ').split(',')[0]}, {size}",
                *map(number, ms),
                f"{ms[0] / ms[-1]:.2f}",
            ]
        )
    memory = report["memory"]
    mb = {name: f"{of['step_mb']:.0f} MB ({of['process_mb']:.0f} MB in all)" for name, of in memory["methods"].items()}
    taken = {name: f"{of['seconds']:.1f} s" for name, of in memory["methods"].items()}
    used = (
        f"One step of a flow of {memory['n']} particles to as many target samples in {memory['d']} dimensions, exact "
        f"ranks, {memory['P']} slices, with the divergence's values before and after, in a process of its own: it "
        f"added {mb['mmdflow']} to the peak after imports and took {taken['mmdflow']}. A bare step by *three sorts*, "
        f"without values: {mb['three_sorts']}, {taken['three_sorts']}."
    )
    return [
        *heading("Growth", report, [wrapped(SCALING.format(threads=report["machine"]["threads"]))]),
        picture("scaling", "Time of a velocity against n, d and P"),
        "Threads, milliseconds:",
        markdown(["velocity", *(f"{count} thread{'s' * (count > 1)}" for count in counts), "speed-up"], table),
        f"### Memory\n\n{wrapped(used)}",
    ]


def growth(rows: list[dict[str, Any]]) -> None:
    """Draw the time and the memory of a step against the number of particles, beside n log n."""
    figure, axes = panels(1, 2)
    n = [row["n"] for row in rows]
    scale = rows[-1]["seconds"] / (n[-1] * math.log(n[-1]))
    curve(axes[0], "mmdflow", n, [row["seconds"] for row in rows])
    axes[0].loglog(n, [scale * k * math.log(k) for k in n], "--", color="tab:red", label="n log n")
    curve(axes[1], "mmdflow", n, [row["process_mb"] for row in rows])
    for ax, label in zip(axes, ("seconds of a step", "MB of the process at most"), strict=True):
        ax.set(xlabel="n = m", ylabel=label)
    save(figure, "growth")


def latency(report: dict[str, Any]) -> list[str]:
    """Return the section of the first call."""
    text = (
        f"Making the divergence and its first velocity in a fresh process, n = m = {report['n']}, d = {report['d']}, "
        f"counted from after the imports, with numba's cache empty (the code is compiled) and warm; then the velocity "
        f"once more. Medians of three processes, milliseconds."
    )
    table = [
        [row["divergence"], row["cache"], *(number(row[key]) for key in ("imports_ms", "first_ms", "next_ms"))]
        for row in report["rows"]
    ]
    header = ["divergence", "numba's cache", "`import torch, mmdflow`", "first velocity", "next velocity"]
    return [*heading("The first call", report, [wrapped(text)]), markdown(header, table)]


def behind(sums: dict[str, Any], sliced: dict[str, Any]) -> list[str]:
    """Return the rows in which another method is quicker, or errs less than half as much."""
    rows = [(f"MMD, {row['kernel']}, d = {row['d']}", row["methods"]) for row in sums["rows"]]
    rows += [(f"SlicedMMD, n = {row['n']}, d = {row['d']}, P = {row['P']}", row["methods"]) for row in sliced["rows"]]
    slower, less_exact = [], []
    for title, of in rows:
        for name, method in of.items():
            if name.startswith("mmdflow"):
                continue
            note = " (another divergence)" if name == OTHER else ""
            if method["ratio"] < 1:
                slower.append(f"- {title}: {name}{note} takes {method['ratio']:.2f} of the time.")
            if "error" in method and method["error"] < of["mmdflow"]["error"] / 2:
                less_exact.append(
                    f"- {title}: {name} errs by {method['error']:.1e}, mmdflow by {of['mmdflow']['error']:.1e}."
                )
    return [
        "Slower than another method, with mmdflow's defaults:"
        if slower
        else "In no row above is another method quicker.",
        *(["\n".join(slower)] if slower else []),
        "More than twice another's error:" if less_exact else "In no row is mmdflow's error more than twice another's.",
        *(["\n".join(less_exact)] if less_exact else []),
    ]


def heading(title: str, report: dict[str, Any], paragraphs: list[str]) -> list[str]:
    """Return the head of a section: what is measured, and how and where it was."""
    machine, versions = report["machine"], report["machine"]["versions"]
    commit = report["commit"] or "unknown"
    dirty = ", with changes that were not committed" if commit.endswith("-dirty") else ""
    small = "**Small sizes, to see that everything runs: not a measurement.** " if report["scale"] == "small" else ""
    measured = (
        f"{small}`{report['command']}`, {report['date']}: {machine['cpu']}, {machine['threads']} thread(s), load "
        f"before {report['load_before']:.1f}; {', '.join(' '.join(of) for of in versions.items())}; "
        f"commit {commit[:7]}{dirty}."
    )
    return [f"## {title}", *paragraphs, wrapped(measured)]


def methods(rows: list[dict[str, Any]]) -> list[str]:
    """Return the methods of all rows, in order."""
    return list(dict.fromkeys(name for row in rows for name in row["methods"]))


def unique(rows: list[dict[str, Any]], key: str) -> list[Any]:
    """Return the values that a key has, in order."""
    return list(dict.fromkeys(row[key] for row in rows))


def cell(of: dict[str, float] | None, base: bool) -> str:
    """Return a method's time, ratio and error."""
    if of is None:
        return ""
    ratio = "" if base else f", {of['ratio']:.2g}x"
    error = f", {of['error']:.0e}" if "error" in of else ""
    return f"{number(of['ms'])}{ratio}{error}"


def number(value: float) -> str:
    """Return a number with three digits, or all digits before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def markdown(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table."""
    written = [f"| {' | '.join(map(str, row))} |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(written)


def picture(name: str, caption: str) -> str:
    """Return the link to a figure."""
    return f"![{caption}](../assets/speed/{name}.png)"


def wrapped(text: str) -> str:
    """Return text in lines of at most 130 characters."""
    return textwrap.fill(text, 130, break_long_words=False, break_on_hyphens=False)


def panels(rows: int, columns: int, width: float = 4.2) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes in rows and columns, as one list."""
    figure = Figure(figsize=(width * columns, 3.4 * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def curve(axes: Axes, name: str, x: Sequence[float], y: Sequence[float]) -> None:
    """Draw a curve with logarithmic scales; mmdflow's is black."""
    style = {"color": "black", "lw": 2.5} if name == "mmdflow" else {}
    axes.loglog(x, y, "o-", label=name, **style)


def save(figure: Figure, name: str, legend: bool = True) -> None:
    """Write a figure, with whole decades on its vertical axes and one legend below all of them."""
    for axes in figure.axes:
        low, high = axes.dataLim.intervaly
        axes.set_ylim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))
    if legend:
        labels: dict[str, Any] = {}
        for axes in figure.axes:
            handles, names = axes.get_legend_handles_labels()
            labels |= dict(zip(names, handles, strict=True))
        figure.legend(
            labels.values(), labels.keys(), loc="outside lower center", ncols=6 if len(labels) < 7 else 4, frameon=False
        )
    figure.savefig(ASSETS / f"{name}.png", dpi=100)


if __name__ == "__main__":
    main()

"""Write the tables of the lab pages and the costs in dmmd.md from results/*.json: python tools/lab_tables.py

A table stands between the lines `<!-- NAME -->` and `<!-- end -->`. Galleries that `mmdflow compare` left in
results/compare move to docs/assets, where the pages show them.
"""

import math
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

from mmdflow.evaluation.figures import read_report
from mmdflow.studies._tables import markdown
from mmdflow.studies.compare import page as page_of, shown_number

ROOT = Path(__file__).parent.parent
JUDGES = ("frechet_distance", "report_distance", "random_distance")


def equal(suite: str) -> str:
    """Return every row and sampler of a suite at equal seconds, with mean and spread of its distances by every judge."""
    report = read_report(ROOT / "results" / f"equal-{suite}.json")
    lines = ["| row | sampler | NFE | steps | " + " | ".join(f"`{judge}`" for judge in JUDGES) + " |", "|---" * 7 + "|"]
    rows = report["rows"]
    seeds = len({row["seed"] for row in rows})
    for entry in report["summary"]:
        few = "" if len(entry["seeds"]) == seeds else f" (seed {', '.join(map(str, entry['seeds']))} alone)"
        cells = [f"| {entry['row']}{few} | {entry['sampler']} | {entry['nfe']} | {entry['steps']:,.0f}"]
        for judge in JUDGES:
            mean, spread = entry["mean"][judge], entry["spread"].get(judge)
            cells.append(f"{mean:.3g}" if spread is None else f"{mean:.3g} +- {spread:.2g}")
        lines.append(" | ".join(cells) + " |")
    number = next(iter(rows[0]["samplers"].values()))["num_samples"]
    held_out = ", ".join(f"{report['reference'][f'{judge}_reference']:.3g}" for judge in JUDGES)
    spread_of = f"mean +- standard deviation over {seeds} training seeds" if seeds > 1 else "one training seed"
    return "\n".join(
        [
            *lines,
            "",
            textwrap.fill(f"*`{report['command']}`:", 128, break_long_words=False, break_on_hyphens=False),
            f"{report['seconds']:g} s of one core a run; {spread_of}; {number} samples.",
            f"Held-out data have {held_out}. `results/equal-{suite}.json`.*",
        ]
    )


def trials() -> str:
    """Return the trials of one-step generators, with the distances of as many held-out images."""
    report = read_report(ROOT / "results" / "one-step-trials.json")
    keys = (*JUDGES, "precision", "recall", "nearest_distance")
    head = ["row", "steps", *(f"`{key}`" for key in keys)]
    lines = [[row["row"], row["steps"], *(f"{row[key]:.3g}" for key in keys)] for row in report["rows"]]
    lines.append(["held-out images", "-", *(f"{report['reference'][f'{key}_reference']:.3g}" for key in keys)])
    how = f"*`{report['command']}`, commit {report['commit']}: CPU seconds, seed {report['seed']}."
    how += " `results/one-step-trials.json`.*"
    return "\n\n".join([markdown(head, lines), how])


def of_data(data: str) -> str:
    """Return the trials of how many of the data one-step generators meet."""
    report = read_report(ROOT / "results" / "one-step-data.json")
    rows = [row for row in report["rows"] if row["data"] == data]
    lines = [[row["row"], row["seconds"], row["steps"], *(f"{row[key]:.3g}" for key in JUDGES)] for row in rows]
    how = f"*`{report['command']}`: CPU seconds, seed {report['seed']}. `results/one-step-data.json`.*"
    return "\n\n".join([markdown(["row", "CPU s", "steps", *(f"`{key}`" for key in JUDGES)], lines), how])


def witness(file: str) -> str:
    """Return the error of a witness's gradient by noise level, of models (witness) or of forms of training (witness-trials)."""
    report = read_report(ROOT / "results" / f"{file}.json")
    lines = []
    for row in report["rows"]:
        mean = f"{sum(row['errors']) / len(row['errors']):.4f}"
        seconds = f"{row['train_seconds']:.0f}"
        lines.append([row["row"], seconds, f"{row['steps']:,}", mean, *(f"{error:.3f}" for error in row["errors"])])
    head = ["model or form", "CPU s", "steps", "mean", *(f"t = {t:g}" for t in report["levels"])]
    how = report.get("made_by")
    note = f"*`{report['command']}`" + (f": {how}, seed {report['seed']}" if how else "") + f". `results/{file}.json`.*"
    return "\n\n".join([markdown(head, lines), note])


WAYS = {"products": "pairs, by products", "line": "sorted line"}


def planned() -> str:
    """Return what was planned of particle flows beside what was measured."""
    report = read_report(ROOT / "results" / "plan.json")
    head = [
        "sums",
        "d",
        "n",
        "m",
        "processes",
        "planned, s",
        "measured, s",
        "ratio",
        "planned, MB",
        "measured, MB",
        "ratio",
    ]
    lines = []
    for row in report["rows"]:
        cells = [WAYS.get(row["case"], row["case"]), row["d"], row["n"], row["m"], row["ranks"]]
        cells += [f"{row['planned_step']:.3g}", f"{row['measured_step']:.3g}", f"{row['step_ratio']:.2f}"]
        cells += [f"{row[f'{what}_memory'] / 2**20:.0f}" for what in ("planned", "measured")]
        lines.append([*cells, f"{row['memory_ratio']:.2f}"])
    load = f"load {report['load_before']:.1f} at the start"
    return "\n\n".join([markdown(head, lines), f"*`{report['command']}`, {load}. `results/plan.json`.*"])


def ahead() -> str:
    """Return what flows of 1e9 particles are planned to cost."""
    head = ["sums", "d", "processes", "a step", "memory of a process", "sent a step", "times what was measured"]
    lines = []
    for row in read_report(ROOT / "results" / "plan.json")["extrapolated"]:
        unit, name = next((u, n) for u, n in ((86400, "d"), (60, "min"), (1, "s"), (0.001, "ms")) if row["step"] > u)
        step = f"{row['step'] / unit:,.3g} {name}"
        memory, sent = (f"{row[what] / 1e9:,.3g} GB" for what in ("memory", "sent"))
        lines.append(
            [WAYS.get(row["way"], row["way"]), row["d"], row["ranks"], step, memory, sent, f"{row['beyond']:.2g}"]
        )
    return markdown(head, lines)


def walk() -> str:
    """Return the Frechet distance of the image models by levels and integrator."""
    report = read_report(ROOT / "results" / "walk.json")
    models = report["models"]
    nfes = sorted({cell["nfe"] for found in models.values() for cell in found["cells"]})
    lines = ["| NFE | " + " | ".join(str(nfe) for nfe in nfes) + " |", "|---" * (len(nfes) + 1) + "|"]
    shown = {"euler": "Euler", "adams_bashforth": "Adams-Bashforth"}
    for name, found in models.items():
        for integrator in dict.fromkeys(cell["integrator"] for cell in found["cells"]):
            by_nfe = {
                cell["nfe"]: cell["frechet_distance"] for cell in found["cells"] if cell["integrator"] == integrator
            }
            values = " | ".join(f"{by_nfe[nfe]:.3g}" if nfe in by_nfe else "-" for nfe in nfes)
            lines.append(f"| {name}, {shown[integrator]} | {values} |")
    first = next(iter(models.values()))
    held_out = " and ".join(f"{found['held_out']:.3g}" for found in models.values())
    note = f"*`{report['command']}`: models of {first['train_seconds']:.0f} s, {first['num_samples']} samples,"
    return "\n".join([*lines, "", note, f"on which held-out images have {held_out}.*"])


def label_dropout() -> str:
    """Return the distances of digits by the share of levels of all classes, with classes and without, over sampling seeds."""
    rows = [r for r in read_report(ROOT / "results" / "label-dropout.json")["rows"] if r["sampler"] == "exact"]
    keys = (*JUDGES, "copying_z")
    lines = ["| `label_dropout` | samples | " + " | ".join(f"`{key}`" for key in keys) + " |", "|---" * 6 + "|"]
    for share in sorted({row["label_dropout"] for row in rows}):
        for by_class, samples in ((True, "by class"), (False, "of no class")):
            found = [r for r in rows if (r["label_dropout"], r["by_class"]) == (share, by_class) and r["seed"] < 2]
            values = " | ".join(", ".join(f"{row[key]:.3g}" for row in found) for key in keys)
            lines.append(f"| {share:g} | {samples} | {values} |")
    return "\n".join([*lines, "", "*Exact flow, sampling seeds 0 and 1; `results/label-dropout.json`.*"])


def cost() -> str:
    """Return what steps and NFEs cost."""
    report = read_report(ROOT / "results" / "bench-dmmd.json")
    rows = report["rows"]
    names = [row["network"] for row in rows]
    lines = ["| times a DDPM step, or a forward | " + " | ".join(names) + " |", "|---" * (len(rows) + 1) + "|"]
    for call in rows[0]["ratio"]:
        lines.append(f"| {call} | " + " | ".join(f"{row['ratio'][call]:.2f}" for row in rows) + " |")
    rates = (f"{row['images_a_second_at_52_nfe']:.1f}" for row in rows)
    lines.append("| images a second at NFE 52 | " + " | ".join(rates) + " |")
    batches = ", ".join(str(row["batch"]) for row in rows)
    lines += ["", f"*`{report['command']}`, {report['device']}, torch {report['torch']}; batches of {batches}.*"]
    return "\n".join(lines)


def compared(data: str) -> str:
    """Return the table and the notes of `mmdflow compare`, from its page; its gallery moves to the assets."""
    folder = ROOT / "results" / "compare" / data
    gallery = folder / "compare.png"
    if gallery.exists():
        shutil.move(gallery, ROOT / "docs" / "assets" / f"compare-{data}.png")
    page = page_of(read_report(folder / "compare.json"))
    here, lab = f"../../../docs/assets/compare-{data}.png", f"../assets/compare-{data}.png"
    (folder / "compare.md").write_text(page.replace("(compare.png)", f"({here})"))
    return page.split("\n\n", 1)[1].replace("(compare.png)", f"({lab})").rstrip()


def searched(data: str) -> str:
    """Return every candidate of a search; the best of each method in bold."""
    report = read_report(ROOT / "results" / f"search-{data}.json")
    key = "frechet_distance" if data != "checkerboard" else "sliced_w2"
    unit = "Frechet distance" if key == "frechet_distance" else "sliced W_2"
    lines = [f"| method | candidate | training steps | {unit} | recall |", "|---" * 5 + "|"]
    for method, rows in report["rows"].items():
        best = min(row.get(key, float("inf")) for row in rows.values())
        for i, (name, row) in enumerate(rows.items()):
            start = f"| {method if i == 0 else ''} | {name} |"
            if key not in row:
                lines.append(f"{start} - | diverged | - |")
                continue
            shown = shown_number(row[key])
            value = f"**{shown}**" if row[key] == best else shown
            lines.append(f"{start} {row['steps']} | {value} | {row['recall']:.3g} |")
    count = next(row["num_samples"] for rows in report["rows"].values() for row in rows.values() if key in row)
    return "\n".join([*lines, "", f"*`{report['command']}`, seed 0, {count} samples.*"])


def corrector(data: str) -> str:
    """Return the distances of a model by what corrects its samples: of seed 0 by every judge, and means over several seeds."""
    report = read_report(ROOT / "results" / "corrector.json")
    rows = report["models"][data]
    lines = [
        "| sampler | NFE | the judge of settings | report | random | the same, means over seeds |",
        "|---" * 6 + "|",
    ]
    for name, row in rows.items():
        distances = list(row["distances"].values())
        shown = " | ".join(shown_number(values[0]) for values in distances)
        seeds = len(distances[0])
        means = ", ".join(shown_number(sum(values) / seeds) for values in distances)
        lines.append(f"| {name} | {row['nfe']} | {shown} | {f'{means} ({seeds} seeds)' if seeds > 1 else '-'} |")
    counts = " or ".join(str(count) for count in sorted({row["num_samples"] for row in rows.values()}))
    together = " or ".join(str(count) for count in sorted({row["particles"] for row in rows.values()}))
    command = f"{report['command']} {data} --num_samples {counts} --particles {together}"
    return "\n".join([*lines, "", f"*`{command}`: the shipped model.*"])


def growth() -> str:
    """Return the time and the memory of a step of large populations."""
    report = read_report(ROOT / "results" / "bench-growth.json")
    lines = ["| n = m | seconds a step | to n log n | MB at most | error |", "|---" * 5 + "|"]
    first = report["rows"][0]
    for row in report["rows"]:
        grown = row["n"] * math.log(row["n"]) / (first["n"] * math.log(first["n"]))
        lines.append(
            f"| {row['n']:,} | {row['seconds']:.3g} | {row['seconds'] / first['seconds'] / grown:.2f} | "
            f"{row['process_mb']:.0f} | {row['error']:.0e} |"
        )
    return "\n".join([*lines, "", _of_run(report)])


def solvers_before() -> str:
    """Return solvers beside those of an older checkout."""
    report = read_report(ROOT / "results" / "bench-solvers-before.json")
    measured = ("first step", "warm step", "MB", "MB above imports")
    lines = [f"| divergence | n | {' | '.join(f'{name}, before | now' for name in measured)} | apart |"]
    lines.append("|---" * 11 + "|")
    for row in report["rows"]:
        before, now = row["before"], row["now"]
        first, warm = (
            f"{before[key]:.3g} | {now[key]:.3g} ({before[key] / now[key]:.0f}x)" for key in ("first_s", "warm_s")
        )
        memory = " | ".join(
            f"{before[key]:.0f} | {now[key]:.0f} ({before[key] / now[key]:.1f}x)" for key in ("process_mb", "step_mb")
        )
        lines.append(f"| {row['divergence']} | {row['n']} | {first} | {warm} | {memory} | {row['error']:.0e} |")
    return "\n".join([*lines, "", _of_run(report)])


def power() -> str:
    """Return the share of rejections of each way to test two samples."""
    report = read_report(ROOT / "results" / "two-sample.json")
    shifts = [f"{shift:g}" for shift in report["shifts"]]
    lines = [f"| way | level | {' | '.join(f'shift {shift}' for shift in shifts[1:])} | ms |"]
    lines.append("|---" * (len(shifts) + 2) + "|")
    for way, row in report["ways"].items():
        shares = " | ".join(f"{share:.3f}" for share in row["rejected"])
        lines.append(f"| {way} | {shares} | {1000 * sum(row['seconds']) / len(row['seconds']):.1f} |")
    return "\n".join([*lines, "", _of_run(report)])


def large_tests() -> str:
    """Return the time of a test of large samples, by way."""
    report = read_report(ROOT / "results" / "two-sample.json")
    lines = ["| way | seconds | p-value |", "|---|---|---|"]
    for way, row in report["large_tests"].items():
        lines.append(f"| {way} | {row['seconds']:.2g} | {row['p_value']:.2f} |")
    return "\n".join(lines)


def _of_run(report: dict[str, Any]) -> str:
    """Return how, when and where something was measured."""
    machine, commit = report["machine"], report["commit"] or "unknown"
    dirty = ", with changes that were not committed" if commit.endswith("-dirty") else ""
    return (
        f"*`{report['command']}`, {report['date']}: {machine['cpu']}, {machine['threads']} thread, load before "
        f"{report['load_before']:.1f}; commit {commit[:7]}{dirty}.*"
    )


TABLES = {
    "lab/correctors.md": {
        "corrector-digits": lambda: corrector("digits"),
        "corrector-mnist": lambda: corrector("mnist"),
        "corrector-fashion": lambda: corrector("fashion"),
        "by-class-digits": lambda: equal("by-class-digits"),
        "by-class-mnist-3000": lambda: equal("by-class-mnist-3000"),
        "by-class-fashion-3000": lambda: equal("by-class-fashion-3000"),
        "label-dropout": label_dropout,
        "by-class-mnist-600": lambda: equal("by-class-mnist-600"),
    },
    "lab/digits.md": {
        "equal": lambda: equal("digits"),
        "parts": lambda: equal("digits-parts"),
    },
    "lab/images.md": {
        "equal": lambda: equal("mnist"),
        "walk": walk,
        "models": lambda: witness("witness"),
        "forms": lambda: witness("witness-trials"),
        "optimizers": lambda: witness("witness-optimizers"),
        "equal-1200": lambda: equal("mnist-1200"),
    },
    "lab/one-step-features.md": {
        "equal": lambda: equal("one-step-digits"),
        "features": lambda: equal("one-step-features"),
        "features-mnist": lambda: equal("one-step-mnist-600"),
    },
    "lab/one-step.md": {
        "mnist": lambda: equal("one-step-mnist"),
        "fashion": lambda: equal("one-step-fashion"),
        "short": lambda: equal("one-step-mnist-180"),
        "by-class-mnist": lambda: equal("by-class-mnist"),
        "data-mnist": lambda: of_data("mnist"),
        "data-fashion": lambda: of_data("fashion"),
        "trials": trials,
    },
    "dmmd.md": {"cost": cost},
    "lab/plan.md": {"planned": planned, "ahead": ahead},
    "lab/fast-sums.md": {"growth": growth, "before": solvers_before},
    "lab/two-sample.md": {"power": power, "large": large_tests},
    "lab/comparison.md": {
        "digits": lambda: compared("digits"),
        "digits-published": lambda: compared("digits-published"),
        "mnist": lambda: compared("mnist"),
        "fashion": lambda: compared("fashion"),
        "checkerboard": lambda: compared("checkerboard"),
        "search-mnist": lambda: searched("mnist"),
        "search-checkerboard": lambda: searched("checkerboard"),
    },
}


def wrapped(text: str) -> str:
    """Return text with lines of at most 130 characters, but for tables and pictures."""
    fill = textwrap.TextWrapper(130, break_long_words=False, break_on_hyphens=False).fill
    return "\n".join(line if line.startswith(("|", "![")) else fill(line) for line in text.splitlines())


def main() -> None:
    """Write every table in its place."""
    for page, tables in TABLES.items():
        path = ROOT / "docs" / page
        text = path.read_text()
        for name, table in tables.items():
            between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
            assert between.search(text), f"{page}: no place for {name}"
            text = between.sub(lambda m, t=table: m[1] + wrapped(t()) + "\n" + m[2], text)
        path.write_text(text)


if __name__ == "__main__":
    main()

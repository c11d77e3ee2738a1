"""Write the tables of digits.md, images.md and dmmd.md from results/*.json: python docs/generative.py

A table stands between the lines `<!-- NAME -->` and `<!-- end -->`.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def comparison(suite: str) -> str:
    """Return every row and sampler of a suite, with the mean and spread of its Frechet distance."""
    report = json.loads((ROOT / "results" / f"dmmd-{suite}.json").read_text())
    lines = ["| row | sampler | NFE | steps | samples | FD |", "|---" * 6 + "|"]
    counts = {(r["row"], sampler): s["num_samples"] for r in report["rows"] for sampler, s in r["samplers"].items()}
    for entry in report["summary"]:
        values = ", ".join(f"{value:.3g}" for value in entry["classifier_fd"])
        several = len(entry["classifier_fd"]) > 1
        found = f"**{entry['mean']:.3g}** +- {entry['spread']:.2g} ({values})" if several else f"**{values}**"
        number = counts[entry["row"], entry["sampler"]]
        lines.append(
            f"| {entry['row']} | {entry['sampler']} | {entry['nfe']} | {entry['steps']:,.0f} | {number} | {found} |"
        )
    held_out = report["reference"]["classifier_fd_reference"]
    split = report["reference"]["classifier_fd_random_split"]
    seconds = report["seconds"]
    time = "the steps stated" if seconds is None else f"{seconds:.0f} s of one core a run"
    lines += [
        "",
        f"*`{report['command']}`: {time}, mean +- standard deviation over seeds where there are",
        f"several; held-out data have FD {held_out:.3g}, random splits of all data {split:.3g}.*",
    ]
    return "\n".join(lines)


def cost() -> str:
    """Return what steps and NFEs cost."""
    report = json.loads((ROOT / "results" / "bench-dmmd.json").read_text())
    rows = report["rows"]
    names = [row["network"] for row in rows]
    lines = ["| times a DDPM step, or a forward | " + " | ".join(names) + " |", "|---" * (len(rows) + 1) + "|"]
    for call in rows[0]["ratio"]:
        lines.append(f"| {call} | " + " | ".join(f"{row['ratio'][call]:.2f}" for row in rows) + " |")
    for call in rows[0]["images_a_second_at_52_nfe"]:
        rates = (f"{row['images_a_second_at_52_nfe'][call]:.1f}" for row in rows)
        lines.append(f"| images a second at NFE 52, {call.split(', ')[1]} | " + " | ".join(rates) + " |")
    batches = ", ".join(str(row["batch"]) for row in rows)
    lines += ["", f"*`{report['command']}`, {report['device']}, torch {report['torch']}; batches of {batches}.*"]
    return "\n".join(lines)


def stability() -> str:
    """Return the monitors of long runs."""
    report = json.loads((ROOT / "results" / "dmmd-digits-stability.json").read_text())
    lines = [
        "| row | seed | exact FD | approximate FD | slope, last and most | participation, least and last |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        slope, part = row["monitors"]["slope"], row["monitors"]["participation"]
        fd = [row["samplers"][s]["classifier_fd"] for s in ("exact", "approximate")]
        lines.append(
            f"| {row['row']} | {row['seed']} | {fd[0]:.3g} | {fd[1]:.3g} | {slope['last']:.2f}, {slope['most']:.2f} | "
            f"{part['least']:.2f}, {part['last']:.2f} |"
        )
    return "\n".join([*lines, "", f"*`{report['command']}`.*"])


TABLES = {
    "digits.md": {
        "rivals": lambda: comparison("digits"),
        "ablation": lambda: comparison("digits-ablation"),
        "stability": stability,
    },
    "images.md": {"mnist": lambda: comparison("mnist"), "fashion": lambda: comparison("fashion")},
    "dmmd.md": {"cost": cost},
}


def main() -> None:
    """Write every table in its place."""
    for page, tables in TABLES.items():
        path = ROOT / "docs" / page
        text = path.read_text()
        for name, table in tables.items():
            between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
            assert between.search(text), f"{page}: no place for {name}"
            text = between.sub(lambda m, t=table: m[1] + t() + "\n" + m[2], text)
        path.write_text(text)


if __name__ == "__main__":
    main()

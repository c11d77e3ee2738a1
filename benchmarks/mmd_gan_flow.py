"""Why MMD-GAN-Flow fails: how long the critic's gradient is, and where it points, on the way from noise to data.

python benchmarks/mmd_gan_flow.py RUN [--dmmd digits] [--output FILE.json] [--figure FILE.png]

RUN is a trained MMD-GAN on digits. On the straight path x_t = (1 - t) x_0 + t z it takes grad f of the witness between all
x_t and data (the flow's), and of that between the generator's samples and data (which the critic was trained for), and compares
them with DMMD's at the same t. "Towards data" is the cosine of -grad f with x_0 - x_t. Then it flows from noise with several step
sizes and follows |grad f|, MMD^2 and, at the end, the Frechet distance of the classifier.
"""

import argparse
import json
import platform
from pathlib import Path

import torch
from torch import Tensor

from mmdflow import MMD, DMMDPipeline, plots
from mmdflow._files import commit
from mmdflow.data import DataSet, load
from mmdflow.errors import DivergedError
from mmdflow.evaluation.samples import evaluate_samples
from mmdflow.methods.mmd_gan import MMDGANPipeline
from mmdflow.metrics import train_classifier

N, STEPS, STEP_SIZES = 359, 100, (0.001, 0.01, 0.1, 1.0)
LEVELS = [0.02, *(round(0.05 * i, 2) for i in range(1, 21))]


def described(velocity: Tensor, towards: Tensor) -> dict[str, float]:
    """Return the mean |grad f| and the mean cosine of -grad f with the way to the data."""
    v, d = velocity.flatten(1), towards.flatten(1)
    return {"slope": float(v.norm(dim=1).mean()), "towards_data": float(torch.cosine_similarity(v, d).mean())}


def along_the_path(gan: MMDGANPipeline, dmmd: DMMDPipeline, data: DataSet) -> dict[str, list[dict[str, float]]]:
    """Return `described` at every level for the three witnesses."""
    clean, noise = data.train[:N], torch.randn(N, *data.event_shape, generator=torch.Generator().manual_seed(1))
    made = gan(N, generator=torch.Generator().manual_seed(2)).particles
    divergence = gan.divergence
    rows: dict[str, list[dict[str, float]]] = {"mmd_gan_flow": [], "mmd_gan_generator": [], "dmmd": []}
    for t in LEVELS:
        x = torch.lerp(clean, noise, t)
        target = MMD(data.train, dmmd.kernel.at(t))
        velocities = {
            "mmd_gan_flow": divergence.velocity(x),
            "mmd_gan_generator": divergence.velocity(made, x),
            "dmmd": target.velocity(x),
        }
        for name, velocity in velocities.items():
            rows[name].append({"t": t, **described(velocity, clean - x)})
        rows["mmd_gan_flow"][-1]["mmd2"] = 2 * float(divergence(x))
    return rows


def flows(gan: MMDGANPipeline, data: DataSet, judge) -> tuple[list[dict], list[Tensor]]:
    """Return a row and the last particles of every step size."""
    rows, last, divergence = [], [], gan.divergence
    for step_size in STEP_SIZES:
        how = {"sampler": "flow", "num_steps": STEPS, "step_size": step_size}
        row: dict = {"step_size": step_size}
        try:
            out = gan(N, generator=torch.Generator().manual_seed(0), return_trajectory=True, **how)
        except DivergedError as error:
            rows.append({**row, "diverged": str(error)})
            continue
        kept = range(0, STEPS + 1, 10)
        row["slope"] = [float(divergence.velocity(out.trajectory[i]).flatten(1).norm(dim=1).mean()) for i in kept]
        row["mmd2"] = [2 * float(divergence(out.trajectory[i])) for i in kept]
        row["moved"] = float((out.trajectory[-1] - out.trajectory[0]).flatten(1).norm(dim=1).mean())
        rows.append({**row, "steps": list(kept), "frechet_distance": judge(out.particles)})
        last.append(out.particles)
    return rows, last


def picture(path: dict, flowed: list[dict], file: Path) -> None:
    """Draw the slopes and the cosines along the path, and the slopes along the flows."""

    def fill(figure) -> None:
        axes = figure.subplots(1, 3)
        labels = {
            "mmd_gan_flow": "MMD-GAN, particles at t",
            "mmd_gan_generator": "MMD-GAN, its generator",
            "dmmd": "DMMD",
        }
        for axis, key, title in zip(
            axes, ("slope", "towards_data"), ("|grad f|", "cosine with the way to the data"), strict=False
        ):
            for name, label in labels.items():
                axis.plot([row["t"] for row in path[name]], [row[key] for row in path[name]], label=label)
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("noise level t of the straight path")
        axes[0].set_yscale("log")
        axes[0].legend(fontsize=8)
        for row in flowed:
            if "slope" in row:
                axes[2].plot(row["steps"], row["slope"], label=f"step size {row['step_size']:g}")
        axes[2].set_yscale("log")
        axes[2].set_title("|grad f| along MMD-GAN-Flow", fontsize=10)
        axes[2].set_xlabel("step")
        axes[2].legend(fontsize=8)
        figure.tight_layout()

    plots.save_picture(plots.draw(fill, size=(12.0, 3.6)), file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--dmmd", default="digits")
    parser.add_argument("--output", type=Path, default=Path("results/mmd-gan-flow.json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/assets/mmd-gan-flow.png"))
    options = parser.parse_args()
    gan, dmmd, data = (
        MMDGANPipeline.from_pretrained(options.run),
        DMMDPipeline.from_pretrained(options.dmmd),
        load("digits"),
    )
    classifier = train_classifier(data.train, data.train_labels, data.test, data.test_labels)

    def judge(samples: Tensor) -> float:
        return evaluate_samples(samples, data.train, data.test, extractor=classifier, seed=0)["frechet_distance"]

    path = along_the_path(gan, dmmd, data)
    flowed, last = flows(gan, data, judge)
    generator = torch.Generator().manual_seed(0)
    report = {
        "commit": commit(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "trained": {key: gan.provenance[key] for key in ("steps", "train_seconds", "recipe")},
        "frechet_distance": {
            "generator": judge(gan(N, generator=generator).particles),
            "noise": judge(torch.randn(N, *data.event_shape, generator=generator).clamp(-1, 1)),
        },
        "path": path,
        "flows": flowed,
    }
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    picture(path, flowed, options.figure)
    if last:
        rows = torch.cat([particles[:16] for particles in last])
        plots.save_picture(plots.image_grid(rows, 16), options.figure.with_stem(options.figure.stem + "-samples"))
    print(json.dumps({"frechet_distance": report["frechet_distance"], "flows": flowed}, indent=1))


if __name__ == "__main__":
    main()

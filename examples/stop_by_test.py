"""StopWhenIndistinguishable: stop once the MMD test can't tell the particles from target samples that the flow has not seen.

The flow stops as soon as the test accepts, so just barely; a higher level stops later. Other held-out samples judge again.

python examples/stop_by_test.py, or with other sizes: python examples stop_by_test --num_steps 50
"""

import torch

from mmdflow import MMD, Riesz, flow
from mmdflow.data import toy
from mmdflow.metrics import StopWhenIndistinguishable, gaussian_scales, mmd_test
from mmdflow.plots import draw


def main(output: str = "stop.png", num_steps: int = 1000, num_points: int = 500, level: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(0)
    target, held_out, others = (toy("pinwheel", num_points, generator) for _ in range(3))
    source = 0.3 * torch.randn(num_points, 2, generator=generator)
    stop = StopWhenIndistinguishable(held_out, level=level, every=max(1, num_steps // 50), generator=generator)
    result = flow(MMD(target, Riesz()), source, step_size=0.1, num_steps=num_steps, callback=stop)
    report = result.report
    print(f"steps made: {int(result.steps[-1])} of {num_steps}; accepted: {report['accepted']}")
    for step, p_value in zip(report["tested_at"], report["p_values"], strict=True):
        print(f"step {step:5d}: p = {p_value:.3f}")
    # tests that did not decide when to stop
    kernels = gaussian_scales(held_out)
    for name, x in {"particles": result.particles, "target samples": target}.items():
        print(f"{name} against other held-out samples: p = {mmd_test(x, others, kernels, generator=generator)[1]:.3f}")

    def drawing(figure) -> None:
        left, right = figure.subplots(1, 2)
        left.plot(report["tested_at"], report["p_values"], marker="o", markersize=4)
        left.axhline(level, color="0.5", linestyle=":", label=f"level {level:g}")
        left.set(xlabel="step", ylabel="p-value", title="MMD test against held-out samples", ylim=(0, None))
        left.legend(frameon=False)
        right.scatter(*held_out.T, s=6, color="0.75", linewidths=0, label="held out")
        right.scatter(*result.particles.T, s=6, color="C0", linewidths=0, label="particles")
        right.set(aspect="equal", title=f"step {int(result.steps[-1])}")
        right.legend(frameon=False)

    draw(drawing, (9.6, 4.4)).save(output)
    print(f"written: {output}")


if __name__ == "__main__":
    main()

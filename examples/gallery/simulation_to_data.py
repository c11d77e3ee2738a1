"""Correct a simulation by measured data, and then events that it had not simulated yet.

The simulated detector resolves too well and knows no correlation of energy and time. The flow from simulated to measured events
is learned once; fresh simulated events follow it.

python examples/gallery/simulation_to_data.py
"""

import numpy as np
from matplotlib.figure import Figure

from mmdflow import KernelTwoSampleTest, MMDTransport


def simulate(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.stack([rng.gamma(4, 0.5, n), rng.exponential(1, n)], 1)


def measure(rng: np.random.Generator, n: int) -> np.ndarray:
    energy, time = rng.gamma(5, 0.5, n), rng.exponential(1, n)
    return np.stack([energy + 0.3 * rng.normal(size=n), 0.7 * time + 0.3 * energy + 0.1 * rng.normal(size=n)], 1)


def main(output: str = "simulation_to_data.png", num_events: int = 1000, num_steps: int = 200) -> None:
    rng = np.random.default_rng(0)
    transport = MMDTransport(num_steps=num_steps).fit(simulate(rng, num_events), measure(rng, num_events))
    fresh, data = simulate(rng, num_events), measure(rng, num_events)
    corrected = transport.transform(fresh)
    test = KernelTwoSampleTest(random_state=0).fit(data)

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = {"simulated": fresh, "simulated, corrected": corrected, "measured": data}
    for axes, (title, events) in zip(figure.subplots(1, 3, sharex=True, sharey=True), panels.items(), strict=True):
        p_value = "" if title == "measured" else f"p = {test.test(events).p_value:.3f}"
        print(title, "mean", events.mean(0).round(2), "correlation", np.corrcoef(events.T)[0, 1].round(2), p_value)
        axes.hist2d(*events.T, bins=40, range=[[-0.5, 6], [-0.5, 5]], cmap="Blues", vmax=num_events / 100)
        axes.set(title=f"{title}\n{p_value}", xlabel="energy", ylabel="time")
    figure.savefig(output, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()

"""How wide particles end under each drift, from a start of a hundredth of the data's spread: python tools/drift_spread.py"""

import torch

from mmdflow import Drift, Laplace, flow


def main() -> None:
    """Print a table of spreads."""
    print("| n | normalization | self terms | spread of the particles / of the data |\n|---|---|---|---|")
    for n, m in ((100, 200), (300, 600)):
        generator = torch.Generator().manual_seed(0)
        target = torch.randn(m, 2, generator=generator)
        source = 0.01 * torch.randn(n, 2, generator=generator)
        for normalization, step_size in (("mean-shift", 0.3), ("sharp", 0.3), ("batch", 1.2), ("sinkhorn", 0.3)):
            for self_terms in (False, True):
                if (normalization, self_terms) == ("sinkhorn", False):
                    continue  # it runs away
                drift = Drift(target, Laplace(0.5), normalization=normalization, self_terms=self_terms)
                moved = flow(drift, source, step_size=step_size, num_steps=150).particles
                ratio = float(moved.std(0).mean() / target.std(0).mean())
                print(f"| {n} | {normalization} | {'yes' if self_terms else 'no'} | {ratio:.2f} |")


if __name__ == "__main__":
    main()

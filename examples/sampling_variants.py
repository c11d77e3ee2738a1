"""Sample the shipped digits model under conditions: asked classes, a known part, blurred digits to refine.

python examples/sampling_variants.py, or with other sizes: python examples sampling_variants --output 50
"""

from dataclasses import replace

import torch
from torch.nn.functional import avg_pool2d

from mmdflow import DMMDPipeline
from mmdflow.data import load
from mmdflow.methods.dmmd import target_means
from mmdflow.metrics import sliced_w2
from mmdflow.plots import draw, image_grid


def main(num_particles: int = 100, output: str = "sampling_variants.png") -> None:
    digits, pipe, n = load("digits"), DMMDPipeline.from_pretrained("digits"), num_particles

    def nearest_label(x: torch.Tensor) -> torch.Tensor:
        return digits.train_labels[torch.cdist(x.flatten(1), digits.train.flatten(1)).argmin(1)]

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    # samples of a class need target means of every class; guidance strengthens what sets a class apart
    means = target_means(
        pipe.kernel,
        pipe.schedule,
        [digits.train],
        pipe.target.levels[::5],
        labels=digits.train_labels,
        generator=generator(),
    )
    labels = torch.arange(n) % 10
    for guidance in (0.0, 10.0):
        classes = replace(pipe, target=means)(n, labels=labels, guidance=guidance, generator=generator()).particles
        share = float((nearest_label(classes) == labels).double().mean())
        print(
            f"classes:    {share:.0%} of the samples look like the asked digit with guidance {guidance:g} (chance: 10%)"
        )

    # inpainting: the upper half is kept, the lower half drawn
    known, mask = digits.test[:n], torch.zeros(8, 8, dtype=torch.bool)
    mask[:4] = True
    painted = pipe(len(known), known=known, mask=mask, generator=generator()).particles
    same = float((nearest_label(painted) == digits.test_labels[:n]).double().mean())
    kept = bool(torch.equal(painted[:, :, :4], known[:, :, :4]))
    print(f"inpainting: the upper half is kept exactly: {kept}; {same:.0%} look like the digit that it came from")

    # refining: any source, noised to t_max and brought back from there
    blurred = avg_pool2d(digits.test[:n], 3, 1, 1)
    refined = pipe(particles=blurred, noise_source=True, t_max=0.6, generator=generator()).particles
    before, after = (sliced_w2(x, digits.train) for x in (blurred, refined))
    print(f"refining:   sliced W2 to the training set {before:.3f} before, {after:.3f} after")

    def drawing(figure) -> None:
        hidden = known.masked_fill(~mask, -0.2)
        panels = {
            f"asked for 0 to 9, by column ({share:.0%} are)": (classes[:50], 10),
            "upper half known, completed": (torch.stack([hidden[:25], painted[:25]], 1).flatten(0, 1), 10),
            "blurred, refined": (torch.stack([blurred[:25], refined[:25]], 1).flatten(0, 1), 10),
        }
        for axes, (title, (images, columns)) in zip(figure.subplots(1, 3), panels.items(), strict=True):
            axes.imshow(image_grid(images, columns), cmap="gray", vmin=0, vmax=255)
            axes.set_title(title)
            axes.set_axis_off()

    draw(drawing, (13, 3)).save(output)
    print(f"written: {output}")


if __name__ == "__main__":
    main()

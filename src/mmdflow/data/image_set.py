"""Images kept as bytes, on disk where they are large, until a batch needs them."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import InputError

#: Images from which `second_moment` is estimated.
_MOMENT_IMAGES = 10_000


class ImageSet:
    """Images [n, c, h, w] in [-1, 1], kept as bytes and decoded by the batch: `images[index]`, index a tensor.

    With `flip` the set holds every image and its mirror image, 2 n in all: image n + i is image i mirrored. A permutation of
    the set then flips at random, and order, resume and ranks need no random numbers besides.

    Args:
        pixels: bytes, [n, c, h, w]; may be memory-mapped.
        labels: class indices, [n].
        source: where they come from, for reports.
        flip: whether to hold mirror images too.
        skipped: corrupt images that were left out.
        classes: the names of the classes 0, 1, ..., where they have names.

    Raises:
        InputError: for another dtype or shape, no images, or labels that do not belong to them.

    Example:
        >>> import numpy as np
        >>> images = ImageSet(np.zeros((5, 3, 8, 8), np.uint8), source="an example", flip=True)
        >>> len(images), images[torch.tensor([0, 9])].shape
        (10, torch.Size([2, 3, 8, 8]))
    """

    def __init__(
        self,
        pixels: NDArray[np.generic],
        labels: Int[Tensor, " n"] | None = None,
        *,
        source: str,
        flip: bool = False,
        skipped: int = 0,
        classes: tuple[str, ...] = (),
    ) -> None:
        if pixels.dtype != np.uint8:
            raise InputError(f"{source}: holds {pixels.dtype} {_span(pixels)}: must be uint8 in [0, 255]")
        if pixels.ndim != 4 or 0 in pixels.shape or pixels.shape[1] not in (1, 3):
            raise InputError(
                f"{source}: holds an array {list(pixels.shape)}: must be [n, c, h, w] with c = 1 or 3, n >= 1"
            )
        if labels is not None and tuple(labels.shape) != (len(pixels),):
            raise InputError(f"{source}: {len(pixels)} images with {list(labels.shape)} labels do not belong together")
        self._pixels, self.source, self.flip, self.skipped = pixels, source, flip, skipped
        self._rows = np.arange(len(pixels))
        self.classes = classes
        self._labels = labels

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The bytes, without mirror images, [n, c, h, w]; of a part they are copied."""
        whole = len(self._rows) == len(self._pixels)
        return self._pixels if whole else self._pixels[self._rows]  # type: ignore[return-value]

    @property
    def labels(self) -> Int[Tensor, " n"] | None:
        """Class indices, those of mirror images too; None where there are none."""
        return torch.cat([self._labels] * 2) if self._labels is not None and self.flip else self._labels

    def part(self, rows: Int[Tensor, " k"], source: str, *, flip: bool = False) -> ImageSet:
        """Return the images of some rows, in increasing order, without copying them.

        Args:
            rows: increasing, without mirror images.
            source: what the part is, for reports.
            flip: whether the part holds mirror images too.
        """
        part = copy(self)
        part._rows, part.source, part.flip = self._rows[rows.numpy()], source, flip
        part._labels = None if self._labels is None else self._labels[rows]
        return part

    def __len__(self) -> int:
        """Return the number of images, mirror images counted."""
        return len(self._rows) * (1 + self.flip)

    @property
    def event_shape(self) -> tuple[int, int, int]:
        """The shape of an image, (c, h, w)."""
        _, channels, height, width = self._pixels.shape
        return channels, height, width

    def __getitem__(self, index: Tensor) -> Float[Tensor, "k c h w"]:
        """Return the images of an index, a tensor [k] of integers, on its device."""
        rows = index.cpu().numpy()
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise InputError(f"index is {list(index.shape)} of {index.dtype}: must be [k] of integers")
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise InputError(f"index holds {rows.min()} to {rows.max()}: must lie in [0, {len(self) - 1}]")
        mirrored, row = np.divmod(rows, len(self._rows))
        bytes_ = torch.from_numpy(np.ascontiguousarray(self._pixels[self._rows[row]])).to(index.device)
        images = bytes_.float().div_(127.5).sub_(1)
        if mirrored.any():
            which = torch.from_numpy(mirrored.astype(bool)).to(index.device)
            images[which] = images[which].flip(3)
        return images

    def batches(self, size: int) -> Iterator[Float[Tensor, "k c h w"]]:
        """Yield all images in order, `size` at a time."""
        for part in torch.arange(len(self)).split(_checks.count("size", size)):
            yield self[part]

    def tensor(self) -> Float[Tensor, "n c h w"]:
        """Return all images in memory."""
        return self[torch.arange(len(self))]

    @property
    def second_moment(self) -> float:
        """Mean square of the entries, over at most 10 000 images evenly spaced."""
        count = min(len(self._rows), _MOMENT_IMAGES)
        rows = torch.linspace(0, len(self._rows) - 1, count).long()
        sums = [float(self[part].double().square().sum()) for part in rows.split(512)]
        return sum(sums) / (count * int(np.prod(self.event_shape)))


def _span(values: NDArray[np.generic]) -> str:
    few = np.asarray(values[:100])
    return f"in [{few.min():g}, {few.max():g}]" if few.size and few.dtype.kind in "fiub" else "values"

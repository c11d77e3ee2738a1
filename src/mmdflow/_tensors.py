"""Shapes of events, devices of generators, bytes of images, the end of memory: what every room does with tensors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow.errors import InputError


def flat(x: Tensor) -> Tensor:
    """Return x, [n, *event], as [n, d]."""
    return x.reshape(x.shape[0], -1)


def along(t: Tensor, x: Tensor) -> Tensor:
    """Shape t, [] or [n], so that it multiplies x, [n, *event], event by event."""
    return t.reshape(-1, *([1] * (x.ndim - 1))) if t.ndim else t


def device_of(generator: torch.Generator | None, default: torch.device | str = "cpu") -> torch.device | str:
    """Return the device on which to draw: the generator's.

    Raises:
        InputError: for what is no generator, such as a seed.
    """
    given: object = generator
    if given is not None and not isinstance(given, torch.Generator):
        raise InputError(f"generator = {given!r}: must be a torch.Generator, such as torch.Generator().manual_seed(0)")
    return default if generator is None else generator.device


def normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw standard normal noise shaped like x, on the generator's device, moved to x's."""
    drawn = torch.randn(x.shape, dtype=x.dtype, device=device_of(generator, x.device), generator=generator)
    return drawn.to(x.device)


def to_bytes(images: Tensor) -> Tensor:
    """Return images in [-1, 1] as uint8, as a saved picture would hold them; what lies outside is clamped."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte()


def eight_bits(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Return images clamped to [-1, 1] and rounded to 8 bits, as a saved picture would be."""
    return to_bytes(images).to(images) / 127.5 - 1


def digest_of(tensors: Iterable[Tensor]) -> str:
    """Return the first 12 digits of the SHA-256 of the entries of tensors, one after another."""
    digest = hashlib.sha256()
    for value in tensors:
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def events_at_once(event_shape: Sequence[int]) -> int:
    """Return the events to give a network at once: a million entries, which bounds its activations."""
    return max(1, min(1024, 2**20 // math.prod(event_shape)))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    complaints = ("not enough memory", "can't allocate", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in complaints)


def memory_left(device: torch.device | str = "cpu") -> int | None:
    """Return the free memory of a device in bytes; None where the system does not say."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, IndexError):
        return None
    return 1024 * int(kilobytes)

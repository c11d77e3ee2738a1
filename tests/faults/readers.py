"""Every reader of files with a whole file for it: what the campaign of damaged files mutates.

`python -m tests.faults.readers COUNT [SEED]` tries so many damaged files and prints a table.
"""

import gzip
import io
import struct
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mmdflow import DMMDPipeline, InputError
from mmdflow._files import read_json
from mmdflow.data import read_images, read_points
from mmdflow.data.idx import read_idx
from mmdflow.recipe.read import read_yaml

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(12, 2)).astype(np.float32)
GREY = RNG.integers(0, 256, (9, 7), np.uint8)


def _saved(save, *args, **settings):
    buffer = io.BytesIO()
    save(buffer, *args, **settings)
    return buffer.getvalue()


def _picture(kind, picture):
    return _saved(lambda buffer: picture.save(buffer, kind))


def _grey(path):
    return read_images(path, 1)


def _pipeline(path):
    """What a pipeline folder holds whose weights or means are this file."""
    pipe = DMMDPipeline.from_pretrained(path.parent)
    return torch.cat(
        [p.flatten() for p in pipe.features.parameters()] + [t.flatten() for t in pipe.target.tensors().values()]
    )


IDX = struct.pack(">HBBII", 0, 8, 2, *GREY.shape) + GREY.tobytes()
#: Kind -> (name of the file, its bytes when whole, its reader, whether a checksum tells every change of content).
READERS = {
    "npy": ("a.npy", _saved(np.save, POINTS), read_points, False),
    "npz": ("a.npz", _saved(np.savez_compressed, samples=POINTS), read_points, True),
    "csv": ("a.csv", b"x,y\n" + b"\n".join(b"%g,%g" % tuple(row) for row in POINTS), read_points, False),
    "pt": ("a.pt", _saved(lambda buffer: torch.save(torch.from_numpy(POINTS), buffer)), read_points, False),
    "idx": ("a.idx", IDX, read_idx, False),
    "idx.gz": ("a.gz", gzip.compress(IDX, mtime=0), read_idx, True),
    "png": ("a.png", _picture("PNG", Image.fromarray(GREY)), _grey, False),
    "16-bit png": ("a.png", _picture("PNG", Image.fromarray(GREY.astype(np.uint16) * 257)), _grey, False),
    "jpeg": ("a.jpg", _picture("JPEG", Image.fromarray(GREY)), _grey, False),
    "tiff": ("a.tif", _picture("TIFF", Image.fromarray(GREY.astype(np.float32))), _grey, False),
    "webp": ("a.webp", _picture("WEBP", Image.fromarray(GREY)), _grey, False),
    "json": ("a.json", b'{"a": [1, 2.5, {"b": null}], "c": "text"}', read_json, False),
    "yaml": ("a.yaml", b"a: 1\nb: {c: [1, 2.5], d: text}\n", read_yaml, False),
    "weights": ("model.safetensors", b"", _pipeline, True),
    "means": ("target_means.safetensors", b"", _pipeline, True),
}


def mutated(data, rng):
    """One damaged file: a bit, some bytes, a cut, a doubled or a missing piece, or bytes that formats give a meaning."""
    data, kind = bytearray(data), rng.integers(6)
    at = int(rng.integers(len(data)))
    length = int(rng.integers(1, 9))
    if kind == 0:
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        data[at : at + length] = rng.bytes(length)
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        data[at:at] = data[at : at + length] * int(rng.integers(1, 50))
    elif kind == 4:
        del data[at : at + length]
    else:
        words = (
            b"\xff" * 4,
            b"\x00" * 8,
            b"[" * 3000,
            b"nan",
            b"1e999",
            b"\x7f\xff\xff\xff",
            b"!!python/object:os.system",
        )
        word = words[int(rng.integers(len(words)))]
        data[at : at + len(word)] = word
    return bytes(data)


def _values(found):
    return torch.as_tensor(found) if isinstance(found, np.ndarray | torch.Tensor) else found


def _same(a, b):
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return a == b


def campaign(kind, count, folder, seed=0):
    """Read `count` damaged files of a kind; return how often it was refused, read, and read alike.

    Raises:
        AssertionError: for any error but InputError, a message of several lines, or another content that a checksum would tell.
    """
    name, whole, read, told = READERS[kind]
    rng, results = np.random.default_rng([seed, *kind.encode()]), Counter()
    file = Path(folder) / name
    if not whole:
        file = DMMDPipeline.from_pretrained("digits").save_pretrained(Path(folder) / "p", overwrite=True) / name
        whole = file.read_bytes()
    file.write_bytes(whole)
    right = _values(read(file))
    for number in range(count):
        file.write_bytes(mutated(whole, rng))
        try:
            found = _values(read(file))
        except InputError as error:
            message = str(error)
        except Exception as error:
            raise AssertionError(f"{kind}, seed {seed}, file {number}: {type(error).__name__}: {error}") from error
        else:
            message = None
        if message is not None:
            assert "\n" not in message, (kind, number, message)
            results["refused"] += 1
        else:
            alike = _same(found, right)
            assert alike or not told, f"{kind}, seed {seed}, file {number}: read, with another content"
            results["alike" if alike else "another"] += 1
    return results


def main(count, seed=0):
    """Print a table of a campaign over all readers."""
    print("| reader | tried | refused in one line | read alike | read, no checksum tells |\n|---|---|---|---|---|")
    total = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for kind in READERS:
            share = count // len(READERS)
            found = campaign(kind, share, folder, seed)
            total += found + Counter(tried=share)
            print(f"| {kind} | {share} | {found['refused']} | {found['alike']} | {found['another']} |", flush=True)
    print(f"| all | {total['tried']} | {total['refused']} | {total['alike']} | {total['another']} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

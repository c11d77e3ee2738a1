"""What it takes to score 50 000 images of 32x32: seconds, images a second, peak memory; and to load batches of them.

python benchmarks/evaluation.py [--images N] [--features K] [--output FILE]

The images are random bytes in a memory-mapped file, the features those of a small convolutional network with K outputs
(Inception has 2048): what is measured is the work around the network. Two threads.
"""

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mmdflow._files import commit
from mmdflow.data import images
from mmdflow.evaluation.judge import judge
from mmdflow.metrics.extractors import ModuleExtractor


def memory() -> float:
    """Return the peak memory of this process in GB, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def write(path: Path, count: int, seed: int) -> None:
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 3, 32, 32))
    generator = np.random.default_rng(seed)
    for start in range(0, count, 4096):
        array[start : start + 4096] = generator.integers(0, 256, array[start : start + 4096].shape, np.uint8)
    array.flush()


def batch_ms(source: Path, size: int) -> float:
    """Return the median milliseconds to read and decode a batch of random images."""
    data = images(source)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    times = []
    for rows in order[: 100 * size].split(size):
        start = time.perf_counter()
        data[rows]
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--output", default="results/bench-evaluation.json")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, stride=2), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2), nn.ReLU()),
        nn.Conv2d(64, options.features, 1),
    )
    extractor = ModuleExtractor(network, "random convolutions", block=256)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MMDFLOW_CACHE"] = folder
        sources = [Path(folder) / name for name in ("samples.npy", "reference.npy")]
        for seed, source in enumerate(sources):
            write(source, options.images, seed)
        loading = {str(size): batch_ms(sources[0], size) for size in (128, 512)}
        before, start = memory(), time.perf_counter()
        report = judge(*(images(source) for source in sources), extractor, progress=True).figures
        seconds = time.perf_counter() - start
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, 2 threads, torch {torch.__version__}",
        "commit": commit(),
        "images": options.images,
        "features": options.features,
        "seconds_in_all": round(seconds, 1),
        "images_a_second_of_features": report["images_a_second"],
        "peak_memory_gb": round(memory(), 3),
        "memory_before_gb": round(before, 3),
        "milliseconds_to_load_a_batch": {size: round(value, 2) for size, value in loading.items()},
        "frechet_distance": report["frechet_distance"],
    }
    print(json.dumps(result, indent=1))
    Path(options.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

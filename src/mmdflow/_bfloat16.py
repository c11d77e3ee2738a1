"""Where products in bfloat16 are quicker than in float32, and where they would kill the process.

On processors without AMX they are slower: a training step of 28x28 images took 1.3 times as long with AVX-512, and ten times with
AVX2 alone, where PyTorch has no kernels for them but plain loops (`benchmarks/precision.py`). Some virtual machines announce AMX
and refuse its instructions. There the first product kills the process (SIGILL), which no `except` sees. Hence the trial in a
process of its own.
"""

import os
import signal
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import torch

LIMIT = "ONEDNN_MAX_CPU_ISA"
BELOW_AMX = "AVX512_CORE_FP16"
_TRIAL = "import torch; a = torch.ones(64, 64, dtype=torch.bfloat16); a @ a"


def announced(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor says that it has AMX for bfloat16; False where there is no such file."""
    try:
        return " amx_bf16" in cpuinfo.read_text()
    except OSError:
        return False


@cache
def _refused() -> bool:
    """Return whether AMX kills a process. Costs the import of torch in another process (seconds)."""
    return subprocess.run([sys.executable, "-c", _TRIAL], capture_output=True).returncode == -signal.SIGILL


def spare_amx() -> None:
    """Limit oneDNN to AVX-512 where AMX is announced and does not run, and warn. Call it before computing in bfloat16.

    oneDNN reads the limit at its first use, so that this comes too late in a process that has convolved before.
    """
    if LIMIT in os.environ or not announced() or not _refused():
        return
    os.environ[LIMIT] = BELOW_AMX
    warnings.warn(
        f"this machine announces AMX and refuses its instructions: {LIMIT}={BELOW_AMX} is set for this process. Set it "
        "yourself if the process convolves before",
        stacklevel=2,
    )


def is_quick(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 quicker than float32: a GPU from Ampere on, a CPU whose AMX oneDNN may use."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    limit = os.environ.get(LIMIT, "DEFAULT").upper()
    return device.type == "cpu" and (limit == "DEFAULT" or "AMX" in limit) and announced() and not _refused()


def prepare(setting: str, device: torch.device) -> None:
    """Make ready for products in bfloat16 that were asked for; warn where float32 is quicker, as far as that is known.

    Args:
        setting: what asked for them, as "precision = 'bfloat16'".
        device: that computes.
    """
    if device.type == "cpu":
        spare_amx()
    if device.type in ("cpu", "cuda") and not is_quick(device):
        what = "processor" if device.type == "cpu" else "GPU"
        warnings.warn(f"{setting}: this {what} multiplies bfloat16 more slowly than float32", stacklevel=4)


def resolve(precision: str, device: torch.device) -> str:
    """Return float32 or bfloat16: the precision that was asked for, or for auto the quicker one."""
    if precision == "auto":
        return "bfloat16" if is_quick(device) else "float32"
    return precision

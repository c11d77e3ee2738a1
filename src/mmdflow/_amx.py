"""Keep oneDNN from AMX where the machine announces it and refuses its instructions, as some virtual machines do.

There the first product in bfloat16 kills the process (SIGILL), which no `except` sees. Hence the trial in a process of its own.
"""

import os
import signal
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

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
def spare_amx() -> None:
    """Limit oneDNN to AVX-512 where AMX is announced and does not run, and warn. Call it before computing in bfloat16.

    oneDNN reads the limit at its first use, so that this comes too late in a process that has convolved before. Costs the import
    of torch in another process (seconds), once, and only where AMX is announced.
    """
    if LIMIT in os.environ or not announced():
        return
    if subprocess.run([sys.executable, "-c", _TRIAL], capture_output=True).returncode == -signal.SIGILL:
        os.environ[LIMIT] = BELOW_AMX
        warnings.warn(
            f"this machine announces AMX and refuses its instructions: {LIMIT}={BELOW_AMX} is set for this process. Set it "
            "yourself if the process convolves before; float32 may be quicker than bfloat16 here",
            stacklevel=2,
        )

"""Try an installed mmdflow as a reader of the README does: python tools/try_release.py README.md

Runs each Python block of the page and a few commands, in a new folder, and stops at the first that fails.
It needs nothing of the checkout but the page.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path


def main() -> None:
    """Run the blocks and the command."""
    page = Path(sys.argv[1]).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert blocks, f"{sys.argv[1]}: no Python block"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = str(Path(sysconfig.get_path("scripts")) / "mmdflow")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for number, code in enumerate(blocks, 1):
            subprocess.run([sys.executable, "-I", "-c", code], check=True)
            print(f"block {number} of {len(blocks)}: ran", flush=True)
        flow = [command, "flow", "--target", "rings", "--num_steps", "50", "--save", "moved.npy"]
        subprocess.run(flow, check=True, env=environment)
        assert Path("moved.npy").exists()
        subprocess.run([command, "demo", "-o", "page"], check=True, env=environment)
        assert Path("page/index.html").exists()
        subprocess.run([command, "recipes"], check=True, env=environment, stdout=subprocess.DEVNULL)
    print(f"mmdflow {importlib.metadata.version('mmdflow')} works")


if __name__ == "__main__":
    main()

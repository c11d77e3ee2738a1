"""Try the live page in headless Chromium: `make web-test`, or python tools/web_test.py [--screenshots DIR] [WORD].

Needs node (18 or newer) and Chromium: `apt-get install nodejs chromium` on Debian; $CHROMIUM names another. The page is served on
the loopback, and the browser can reach nothing else. Screenshots lie in build/web-test. A WORD picks the checks whose names have
it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from mmdflow.cli.demo import serve

ROOT = Path(__file__).parents[1]
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def main() -> int:
    """Run the checks of numbers and those of the browser; return 0 if all hold."""
    parser = argparse.ArgumentParser(description="Try the live page in headless Chromium.")
    parser.add_argument("word", nargs="?", default="")
    parser.add_argument("--screenshots", type=Path, default=ROOT / "build" / "web-test")
    options = parser.parse_args()
    node = shutil.which("node")
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)
    if node is None or browser is None:
        print(
            f"{'node' if node is None else 'chromium'} is not installed: apt-get install nodejs chromium",
            file=sys.stderr,
        )
        return 2
    numbers = subprocess.run([node, "--test", str(ROOT / "tests/web/numerics.test.mjs")], check=False)
    with serve(0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        command = [node, str(ROOT / "tests/web/browser.mjs"), url, str(options.screenshots), options.word]
        page = subprocess.run(command, check=False, env=os.environ | {"CHROMIUM": browser})
        server.shutdown()
    print(f"screenshots: {options.screenshots}")
    return int(numbers.returncode != 0 or page.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())

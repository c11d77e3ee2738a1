"""`python -m mmdflow` is `mmdflow`."""

import sys

from mmdflow.cli import main

if __name__ == "__main__":
    sys.exit(main())

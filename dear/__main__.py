"""``python -m dear``; see :mod:`dear.cli`."""

import sys

from dear.cli import main

if __name__ == "__main__":
    sys.exit(main())

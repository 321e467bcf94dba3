"""`python -m continual_gateway`: the front door, an HTTP API and a dashboard."""

from __future__ import annotations

import sys


def main() -> int:
    return 0


if __name__ == "__main__":
    sys.exit(main())

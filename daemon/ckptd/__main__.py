"""`python -m ckptd` is the same as the `ckptd` command."""

from __future__ import annotations

import sys

from ckptd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

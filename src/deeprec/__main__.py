"""`python -m deeprec` is `deeprec`."""

import sys

from deeprec.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python cli.py ARGS` in a checkout is `progan ARGS`."""

import sys

from progan.commands import main

if __name__ == "__main__":
    sys.exit(main())

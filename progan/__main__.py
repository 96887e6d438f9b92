"""`python -m progan ARGS` and the console script `progan ARGS`."""

import sys

from progan.commands import main

if __name__ == "__main__":
    sys.exit(main())

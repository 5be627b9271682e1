"""`python -m simpool_viz` is the command line."""

import sys

from simpool_viz.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

"""The Space's entry: build the app and serve it. The same as `simpool-viz serve`."""

import sys

from simpool_viz.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))

"""`simpool-viz evaluate DATASET -o OUT` against the plain batched forwards of the same photos, already decoded.

    python benchmarks/evaluate.py DATASET -c resnet_simpool -c resnet_gap -m pooling -m contribution --rounds 3

Prints the seconds of each round, the median of the ratio, and where the time goes. The forwards are those of each
checkpoint alone, in the batches that the evaluation makes.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from benchmarks.evaluation_time import main

    main(str(__doc__))

"""The spatial entropy of the readout scores over trainings, from their logs:
`python benchmarks/entropy_curves.py runs/patch_vit_s1 runs/patch_vit_sar_s1 --results models/results.json`, then
`python docs/make_results.py`. Each figure is the mean of the 50 steps before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.measure import keep_table
from simpool_viz.checkpoints.bundle import read_config
from simpool_viz.errors import DataError, SimpoolError
from simpool_viz.scores.results import Cell, Column, Table
from simpool_viz.training.logs import read_entropies

TABLE = "scratch/entropy"
BATCH = 128


def table_of(runs: Sequence[Path], batch: int = BATCH) -> Table:
    """A row for each run, a column for each place of the log that all of them have.

    Args:
        runs: folders of trainings with one stage.
        batch: photos of a step.

    Raises:
        DataError: a run whose log holds no spatial entropy.
    """
    curves = {read_config(run)[1].name: dict(read_entropies(run, 1, batch)) for run in runs}
    if without := [name for name, curve in curves.items() if not curve]:
        raise DataError(f"no spatial entropy was logged for {', '.join(without)}; train with follow_entropy=true")
    places = sorted(set.intersection(*(set(curve) for curve in curves.values())))
    columns = [Column("run", "run", "text"), *(Column(str(place), f"{place:,}", "share") for place in places)]
    rows: list[dict[str, Cell]] = [
        {"run": name, **{str(place): round(curve[place], 4) for place in places}} for name, curve in curves.items()
    ]
    command = f"python benchmarks/entropy_curves.py {' '.join(f'runs/{name}' for name in curves)}"
    title = "**Spatial entropy (nats) of the class token's scores on the training's crops**, by photos seen"
    return Table(title, tuple(columns), tuple(rows), f"{command} --results models/results.json")


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of trainings with one stage")
    parser.add_argument("--batch-size", type=int, default=BATCH, help="photos of a step")
    parser.add_argument("--results", type=Path, help="the results file to put the table into")
    arguments = parser.parse_args(given)
    try:
        table = table_of(arguments.runs, arguments.batch_size)
        keep_table(TABLE, table, arguments.results)
    except SimpoolError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())

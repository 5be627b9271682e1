"""The log of a training: a CSV file and TensorBoard events."""

from __future__ import annotations

import csv
import time
from pathlib import Path

from simpool_viz.errors import needs_packages
from simpool_viz.outputs import CsvFile

COLUMNS = ("step", "loss", "lr", "photos_per_second")


class Log:
    """Step, mean loss, learning rate and photos per second, in log_stageN.csv and tensorboard/ of a folder.

    Args:
        folder: of the run.
        stage: number N of the stage, from 1.
        step: the step at which the stage begins or is resumed; rows of later steps are dropped.
        batch_size: photos of a step, over all processes.

    Raises:
        MissingPackageError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, stage: int, step: int, batch_size: int) -> None:
        with needs_packages("training", "tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

        path = folder / f"log_stage{stage}.csv"
        rows = list(csv.reader(path.open(newline=""))) if step and path.is_file() else []
        self._rows = CsvFile(path, COLUMNS, [row for row in rows[1:] if int(row[0]) <= step])
        self._board = SummaryWriter(folder / "tensorboard" / f"stage{stage}", purge_step=step + 1)
        self._last, self._since, self._batch_size = step, time.time(), batch_size

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()
        self._board.close()

    def write(self, step: int, loss: float, lr: float) -> None:
        """Add a row.

        Args:
            step: number of steps done.
            loss: mean loss since the last row.
            lr: learning rate of the step.
        """
        rate = (step - self._last) * self._batch_size / (time.time() - self._since)
        self._rows.add([step, f"{loss:.4f}", f"{lr:.2e}", f"{rate:.1f}"])
        for name, value in zip(COLUMNS[1:], (loss, lr, rate), strict=True):
            self._board.add_scalar(name, value, step)
        self._last, self._since = step, time.time()

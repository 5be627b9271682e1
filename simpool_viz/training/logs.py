"""What a training tells while it runs: a CSV for people and scripts, and TensorBoard's events beside it."""

from __future__ import annotations

import csv
import time
from pathlib import Path

from simpool_viz.errors import needs_packages
from simpool_viz.outputs import CsvFile

COLUMNS = ("step", "loss", "lr", "photos_per_second")


class Log:
    """Rows of step, mean loss, learning rate and photos per second in `folder`/log_stageN.csv and in
    `folder`/tensorboard.

    Taken up again at `step`, it keeps the rows up to there.
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
        rate = (step - self._last) * self._batch_size / (time.time() - self._since)
        self._rows.add([step, f"{loss:.4f}", f"{lr:.2e}", f"{rate:.1f}"])
        for name, value in zip(COLUMNS[1:], (loss, lr, rate), strict=True):
            self._board.add_scalar(name, value, step)
        self._last, self._since = step, time.time()

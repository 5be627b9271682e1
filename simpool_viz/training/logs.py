"""The log of a training: a CSV file and TensorBoard events."""

from __future__ import annotations

import csv
import time
from pathlib import Path

from simpool_viz.errors import needs_packages
from simpool_viz.outputs import CsvFile

COLUMNS = ("step", "loss", "lr", "photos_per_second", "spatial_entropy")


class Log:
    """Step, mean loss, learning rate, photos per second and, where it is measured, mean spatial entropy, in
    log_stageN.csv and tensorboard/ of a folder.

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
        kept = [row for row in _rows(path) if int(row["step"]) <= step] if step else []
        self._rows = CsvFile(path, COLUMNS, [[row.get(name) or "" for name in COLUMNS] for row in kept])
        self._board = SummaryWriter(folder / "tensorboard" / f"stage{stage}", purge_step=step + 1)
        self._last, self._since, self._batch_size = step, time.time(), batch_size

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()
        self._board.close()

    def write(self, step: int, loss: float, lr: float, entropy: float | None = None) -> None:
        """Add a row.

        Args:
            step: number of steps done.
            loss: mean loss since the last row.
            lr: learning rate of the step.
            entropy: mean spatial entropy in nats since the last row; None where it is not measured.
        """
        rate = (step - self._last) * self._batch_size / (time.time() - self._since)
        self._rows.add([step, f"{loss:.4f}", f"{lr:.2e}", f"{rate:.1f}", "" if entropy is None else f"{entropy:.4f}"])
        for name, value in zip(COLUMNS[1:], (loss, lr, rate, entropy), strict=True):
            if value is not None:
                self._board.add_scalar(name, value, step)
        self._last, self._since = step, time.time()


def read_entropies(folder: Path, stage: int, batch_size: int) -> list[tuple[int, float]]:
    """The spatial entropy over a stage, of the log in the folder of a run.

    Args:
        folder: of the run.
        stage: its number, from 1.
        batch_size: photos of a step.

    Returns:
        Photos seen and mean spatial entropy in nats since the row before; empty where it was not measured.
    """
    rows = _rows(folder / f"log_stage{stage}.csv")
    return [
        (int(row["step"]) * batch_size, float(row["spatial_entropy"])) for row in rows if row.get("spatial_entropy")
    ]


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a log, by column; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))

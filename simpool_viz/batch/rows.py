"""From the board of a picture to the rows of a parquet file: one for each checkpoint and map.

Maps are in half precision, divided by a power of two so that their largest value lies in [0.5, 1): `weights * scale` is
off by at most 2^-11 of a value that is above 2^-13 of the largest, and by 2^-24 of the largest below that. Attention
over thousands of tokens would otherwise vanish in half precision.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from simpool_viz.batch.boards import Job, batches_of_one_shape, boards_or_faults
from simpool_viz.batch.engine import Made, Rows, require_pyarrow
from simpool_viz.batch.inputs import find_items
from simpool_viz.batch.local import run_settings
from simpool_viz.batch.part_files import PICTURES, RUN, Cluster, run_parts
from simpool_viz.batch.preparing import Fault, Prepared, prepare
from simpool_viz.batch.writing import BatchReport, check_folder
from simpool_viz.board.board import Board, Row, Settings
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.drawing.render import LONGEST, SUFFIXES, render_row, row_scales
from simpool_viz.errors import OptionError
from simpool_viz.export import weights_digest
from simpool_viz.maps.request import MapRequest, parse_map
from simpool_viz.mask_files import run_lengths
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.refinement import refine

WHOLE = 2**31  # pixels, which no picture has: it is kept as it is


@dataclass(frozen=True)
class BoardWork:
    """Maps, masks and figures of pictures, as `engine.Work`.

    Attributes:
        job: checkpoints, maps, settings.
        drawn: how maps are drawn.
        pictures: format of overlays and masks, "jpeg" or "png", or "none" for none.
        batch: number of pictures of a forward pass.
    """

    job: Job
    drawn: DrawingStyle = field(default_factory=DrawingStyle)
    pictures: str = "none"
    batch: int = 16

    @property
    def fields(self) -> Sequence[Any]:
        """The columns, as docs/batch.md describes them."""
        pa = require_pyarrow()
        numbers, integers = pa.list_(pa.float16()), pa.list_(pa.int32())
        columns = {
            "checkpoint": pa.string(),
            "map": pa.string(),
            "method": pa.string(),
            "unit": pa.string(),
            "names": pa.list_(pa.string()),
            "width": pa.int32(),
            "height": pa.int32(),
            "input_width": pa.int32(),
            "input_height": pa.int32(),
            "grid_height": pa.int32(),
            "grid_width": pa.int32(),
            "weights": numbers,
            "scale": pa.float64(),
            "mask_size": integers,
            "mask_counts": integers,
            "level": pa.float64(),
            "boxes": pa.list_(integers),
            "coverage": pa.float64(),
            "components": pa.int32(),
            "prediction": pa.string(),
            "probability": pa.float64(),
            "found": pa.string(),
            "spatial_entropy": pa.float64(),
            "entropy_of": pa.string(),
            "note": pa.string(),
        }
        if self.pictures != "none":
            columns |= {"overlay": pa.binary(), "cut_out": pa.binary()}
        return [pa.field(name, kind) for name, kind in columns.items()]

    @property
    def read(self) -> Callable[[str, Any], Any]:
        """Reads a picture and resizes it."""
        longest = None if self.pictures == "none" else LONGEST
        if self.job.settings.refine:
            longest = WHOLE
        return partial(prepare, frames=self.job.frames, longest=longest)

    def on(self, device: str) -> BoardWork:
        """The same work, its models on a device."""
        return dataclasses.replace(self, job=self.job.on(device))

    def record(self, read: Iterator[Prepared | Fault]) -> Iterator[Made]:
        """Make boards in batches of one shape, and of each the rows.

        Raises:
            MapError: no checkpoint has any of the maps.
            OptionError: as in `record_rows`.
        """
        faults: list[Fault] = []
        for batch in batches_of_one_shape(read, self.batch, faults):
            for one, board in boards_or_faults(self.job, batch, faults):
                original = one.geometries[0].original
                yield Made(one.key, partial(self._rows, board, original), notes=board.skipped)
        for fault in faults:
            yield Made(fault.key, _no_rows, fault.sentence)

    def _rows(self, board: Board, original: tuple[int, int]) -> Rows:
        scales = row_scales(board, self.drawn)
        rows = []
        for row, scale in zip(board.rows, scales, strict=True):
            facts = _facts(row, board.pictures[row.picture].rgb, original)
            if self.pictures != "none":
                images = render_row(board, row, scale, self.drawn, LONGEST)
                facts |= {n: _encoded(i, self.pictures) for n, i in zip(("overlay", "cut_out"), images, strict=True)}
            rows.append(facts)
        return rows


def write_batch(
    inputs: Sequence[str | os.PathLike[str]],
    encoders: Sequence[Encoder],
    out: Path,
    maps: Sequence[str | MapRequest] = (),
    settings: Settings | None = None,
    *,
    drawn: DrawingStyle | None = None,
    pictures: str = "none",
    batch: int = 16,
    part: int | None = None,
    cluster: Cluster | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> BatchReport:
    """Write maps, masks and figures of many pictures as parquet files, a row for each picture, checkpoint and map.

    A run that was interrupted goes on where it ended, with the same result as one that was not. `read_batch` reads it.

    Args:
        inputs: folders, pictures, lists, parquet files and archives, by paths or addresses, as `find_items` takes them.
        encoders: the checkpoints, all on one device.
        out: folder to make, or that of a run to go on with.
        maps: the maps; each checkpoint's own where there are none.
        settings: size, mask rule and fusion.
        drawn: how maps are drawn, where they are.
        pictures: format of overlays and cut-outs that are written into the rows, "jpeg" or "png"; "none" for none.
        batch: number of pictures of a forward pass.
        part: pictures of a file; 512, or 64 with pictures, by default.
        cluster: the engine; worker processes of this machine by default.
        overwrite: discard an earlier run in `out` and start over.
        progress: whether to show a progress bar.

    Returns:
        Counts, pictures that could not be read, and duration.

    Raises:
        DataError: no picture in the inputs, or another run that writes to `out`.
        FileExistsError: `out` holds something else, or a run with other settings or pictures.
        FileNotFoundError: an input that does not exist.
        MapError: no checkpoint has any of the maps.
        MissingPackageError: pyarrow, or ray for its engine, is not installed.
        OptionError: a format, a number or a map that does not exist.

    Examples:
        >>> from pathlib import Path
        >>> from simpool_viz import load_checkpoint, write_batch
        >>> report = write_batch(["cat.jpg"], [load_checkpoint("resnet_simpool")], Path("out"), ["simpool", "gradcam"])
        >>> report.done, len(report.faults)
        (1, 0)
    """
    drawn = drawn or DrawingStyle()
    if pictures not in (*SUFFIXES, "none"):
        raise OptionError(f"pictures are written as {', '.join(SUFFIXES)} or none, not {pictures!r}")
    if batch < 1:
        raise OptionError("the number of pictures of a forward pass must be positive")
    require_pyarrow()
    out = Path(out)
    check_folder(out, RUN)
    requests = [parse_map(one) if isinstance(one, str) else one for one in maps]
    work = BoardWork(Job(encoders, requests, settings or Settings()), drawn, pictures, batch)
    facts = run_settings(work.job, drawn, pictures) | {"batch": batch, "weights": [weights_digest(e) for e in encoders]}
    size = (PICTURES if pictures == "none" else 64) if part is None else part
    options: dict[str, Any] = {"overwrite": overwrite, "progress": progress, "device": str(work.job.device)}
    return run_parts(work, find_items(inputs), out, facts, size=size, cluster=cluster, ahead=3 * batch, **options)


def _no_rows() -> Rows:
    return [{}]


def halved(weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Values in half precision and the power of two by which they are to be multiplied.

    Args:
        weights: of any shape, float32, finite.

    Returns:
        float16 of the same shape, whose largest magnitude lies in [0.5, 1] unless all are 0, and the power of two.
    """
    exponent = int(np.frexp(np.abs(weights).max(initial=0.0))[1])
    return np.ldexp(weights.astype(np.float64), -exponent).astype(np.float16), 2.0**exponent


def _facts(row: Row, rgb: np.ndarray, original: tuple[int, int]) -> dict[str, Any]:
    weights, scale = halved(row.attention.weights)
    pixels = row.mask.pixels()
    mask = run_lengths(refine(pixels, rgb, row.refine) if row.refine else pixels)
    width, height = row.input_size
    grid = row.attention.geometry.grid
    return {
        "checkpoint": row.checkpoint,
        "map": row.request.label,
        "method": row.attention.method,
        "unit": row.attention.unit,
        "names": list(row.attention.names),
        "width": original[0],
        "height": original[1],
        "input_width": width,
        "input_height": height,
        "grid_height": grid[0],
        "grid_width": grid[1],
        "weights": weights.ravel(),
        "scale": scale,
        "mask_size": mask["size"],
        "mask_counts": mask["counts"],
        "level": row.mask.level,
        "boxes": [list(box) for box in row.mask.boxes],
        "coverage": row.mask.coverage,
        "components": row.mask.components,
        "prediction": row.prediction[0] if row.prediction else None,
        "probability": row.prediction[1] if row.prediction else None,
        "found": row.found,
        "spatial_entropy": row.entropy,
        "entropy_of": row.entropy_of,
        "note": row.attention.note,
    }


def _encoded(picture: np.ndarray, kind: str) -> bytes:
    options: dict[str, Any] = {"quality": 90, "subsampling": 0} if kind == "jpeg" else {"compress_level": 1}
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind.upper(), **options)
    return buffer.getvalue()

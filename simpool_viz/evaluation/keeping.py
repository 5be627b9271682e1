"""An evaluation in a folder: a row per photo and map, tables, plots and boards; one that was stopped goes on.

OUT/parts/                 the scores and counts of so many photos each, as `batch.part_files` keeps a run
OUT/rows.parquet           when all is done: a row per photo and map, in the order of the set, faults with their reason
OUT/results.json, tables.md, TABLE.csv    the tables
OUT/plots/*.png, OUT/boards/*.jpg         curves, pairs of maps photo by photo, the best and the worst photos
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from simpool_viz.batch.boards import Job
from simpool_viz.batch.engine import Made, Rows
from simpool_viz.batch.part_files import RUN, Cluster, run_parts
from simpool_viz.batch.preparing import Fault
from simpool_viz.board.board import Settings, make_board
from simpool_viz.drawing.render import render_board
from simpool_viz.errors import needs_packages
from simpool_viz.evaluation.datasets import DataSet
from simpool_viz.evaluation.passes import Pace, Scored, Scoring, require_scores
from simpool_viz.evaluation.plots import draw_scatter, draw_threshold_curves
from simpool_viz.evaluation.protocols import MEANS, ProtocolCounts, protocols_table
from simpool_viz.evaluation.scorers import ReadSample, Scorers
from simpool_viz.evaluation.scoring import FIGURES, MapScores, score_photo
from simpool_viz.evaluation.table import Method, faithfulness_table, localization_table
from simpool_viz.export import plain_name, weights_digest
from simpool_viz.outputs import LOST, csv_text, write_picture, written_whole
from simpool_viz.scores.boxes import LEVELS, V2_IOUS
from simpool_viz.scores.results import FILE, Table, keep_tables
from simpool_viz.scores.threshold_curves import STEPS

PARTS, ROWS = "parts", "rows.parquet"
RANKED = "iou_at_true_area"  # by which photos are best or worst, and two maps are compared
EXAMPLES = 6  # boards of the best and of the worst photos
PAIRS = 6  # plots of the first map with another one
LINES = 12  # of the curves over thresholds
_TOLD = ("checkpoint", "picture", "map", "request", "fault")
_COUNTS = ("boxes", "steps")


@dataclass(frozen=True)
class Evidence:
    """What an evaluation in a folder gave.

    Attributes:
        tables: by name: localization, protocols and, where they were measured, faithfulness.
        scored: number of photos that have scores.
        earlier: how many of these an earlier run had scored.
        faults: photos without scores, with the reason.
        notes: what an earlier run had left in disorder, in sentences.
    """

    tables: dict[str, Table]
    scored: int
    earlier: int
    faults: list[Fault]
    notes: list[str]


def evaluate_into(
    out: Path,
    data: DataSet,
    job: Job,
    pace: Pace | None = None,
    object_ids: Sequence[int] = (),
    *,
    overwrite: bool = False,
    command: str = "",
    cluster: Cluster | None = None,
) -> Evidence:
    """Evaluate maps on a data set and write rows, tables, plots and boards into a folder.

    A run that was stopped, however that happened, goes on: parts that are there are not computed again, and the result
    is the same, whichever engine makes it.

    Args:
        out: the folder, which every node of a cluster sees; that of an earlier run with the same settings is resumed.
        data: photos with references.
        job: checkpoints, maps and settings.
        pace: how the set is gone through; its batch and its part are among the settings.
        object_ids: the labels that count as object.
        overwrite: discard what an earlier run has done.
        command: kept with the tables.
        cluster: the engine; processes of this machine, as many as `pace` says, by default.

    Raises:
        DataError: none of the photos can be scored, or another run writes to `out`.
        MapError: no checkpoint has any of the maps.
        FileExistsError: `out` holds something else, or a run with other settings or photos.
        MissingPackageError: pyarrow, or ray for its engine, is not installed.
    """
    _arrow()
    pace, out = pace or Pace(), Path(out)
    _check_out(out)
    workers = pace.workers_for(len(data))
    cluster = cluster or Cluster(workers=workers)
    counts: list[int] = []
    tables: dict[str, Table] = {}

    def write_results(parts: Sequence[Path]) -> None:
        kept = _Kept(parts)
        if not kept.count:  # they hold nothing but reasons, which may be mended
            for part in parts:
                part.unlink()
        require_scores(data, kept.count, kept.faults())
        counts.append(kept.count)
        _write_rows(out / ROWS, kept)
        with ThreadPoolExecutor(1) as beside:  # while the models run for the boards
            told = beside.submit(_write_tables_and_plots, out, data, kept, job.settings, command)
            _write_boards(out / "boards", data, kept, job, object_ids)
            tables.update(told.result())

    with Scorers(workers if cluster.engine == "local" else 0) as scorers:
        report = run_parts(
            EvaluationWork(Scoring(job, score_photo, tuple(object_ids), pace.batch, scorers)),
            [_Item(key, place) for key, place in data.places()],
            out / PARTS,
            _settings(data, job, pace, object_ids),
            size=pace.photos,
            cluster=cluster,
            ahead=pace.photos,
            device=str(job.device),
            overwrite=overwrite,
            progress=pace.progress,
            then=write_results,
        )
    return Evidence(tables, counts[0], report.earlier, report.faults, report.notes)


def _check_out(out: Path) -> None:
    """Check that an evaluation may write to a folder.

    Raises:
        FileExistsError: it holds something else.
    """
    if (out / PARTS / RUN).is_file() or not out.exists():
        return
    if not out.is_dir() or any(path.name not in (PARTS, LOST) for path in out.iterdir()):
        raise FileExistsError(f"{out} already exists and is no earlier run; choose another folder")


def _arrow() -> Any:
    with needs_packages("evaluating into a folder", "pyarrow"):
        import pyarrow as arrow
    return arrow


def _settings(data: DataSet, job: Job, pace: Pace, object_ids: Sequence[int]) -> dict[str, Any]:
    """What must be the same for a run to be resumed, beside the photos and the size of a part."""
    return {
        "data": {"name": data.name, "kind": data.kind},
        "object_ids": list(object_ids),
        "checkpoints": [[encoder.facts.name, weights_digest(encoder)] for encoder in job.encoders],
        "maps": [request.label for request in job.requests],
        "settings": asdict(job.settings),
        "batch": pace.batch,
    }


# --- parts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Item:
    """A photo, as `batch.engine.ListedItem`."""

    key: str
    place: Any
    label: str = ""


@dataclass(frozen=True)
class EvaluationWork:
    """The scores and counts of photos, as `batch.engine.Work`: a row for each map and baseline.

    Attributes:
        scoring: of photos.
    """

    scoring: Scoring[list[MapScores]]

    @property
    def fields(self) -> Sequence[Any]:
        """The columns: which map, its figures, and what the protocols count, packed."""
        arrow = _arrow()
        columns = {"checkpoint": arrow.int32(), "map": arrow.string(), "request": arrow.string()}
        columns |= dict.fromkeys(FIGURES, arrow.float64()) | dict.fromkeys(_COUNTS, arrow.binary())
        return [arrow.field(name, kind) for name, kind in columns.items()]

    @property
    def read(self) -> Callable[[str, Any], Any]:
        """Reads a photo and its reference."""
        return self.scoring.read

    def on(self, device: str) -> EvaluationWork:
        """The same work, its models on a device."""
        return replace(self, scoring=self.scoring.on(device))

    def record(self, read: Iterator[ReadSample | Fault]) -> Iterator[Made]:
        """Record photos in batches of one shape, and score each.

        Raises:
            MapError: no checkpoint has any of the maps.
            SimpoolError: a process that scores was ended.
        """
        for one in self.scoring.scored(read):
            if isinstance(one, Fault):
                yield Made(one.key, _no_rows, one.sentence)
            else:
                yield Made(one.key, partial(_rows_of, one), notes=one.notes)


def _no_rows() -> Rows:
    return [{}]


def _rows_of(photo: Scored[list[MapScores]]) -> Rows:
    return [_row_of(one) for one in (*photo.scores(), *photo.model)]


def _row_of(one: MapScores) -> dict[str, Any]:
    row: dict[str, Any] = {"checkpoint": one.checkpoint, "map": one.label, "request": one.request, **one.figures}
    if one.counts is not None:
        row["boxes"] = np.packbits(one.counts.boxes).tobytes()
        row["steps"] = zlib.compress(one.counts.steps.astype("<i4").tobytes(), 1)
    return row


class _Kept:
    """The scores in some parts, read map by map.

    Args:
        files: the parts.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        import pyarrow.dataset as dataset

        self._data = dataset.dataset([str(file) for file in files])
        table = self._data.to_table(columns=["index", *_TOLD, *FIGURES])
        self.table = table.replace_schema_metadata(None)  # which is about the first part
        self._faulty = np.asarray(self.table["fault"]) != ""
        self.count = len(np.unique(np.asarray(self.table["index"])[~self._faulty]))

    def faults(self) -> list[Fault]:
        """The photos without scores."""
        some = self.table.filter(self._faulty)
        pairs = zip(some["picture"].to_pylist(), some["fault"].to_pylist(), strict=True)
        return [Fault(key, sentence) for key, sentence in pairs]

    def maps(self, counted: bool = True) -> list[tuple[int, str, str]]:
        """(checkpoint, request, label) of each map, in their order, the baselines last.

        Args:
            counted: those that have counts; else those that have insertion and deletion.
        """
        figure = "iou" if counted else "deletion"
        chosen = self.table.filter(np.asarray(self.table[figure].is_valid()))
        columns = (chosen[name].to_pylist() for name in ("checkpoint", "request", "map"))
        keys = dict.fromkeys(zip(*columns, strict=True))
        return sorted(keys, key=lambda key: key[0] < 0)

    def figures(self, key: tuple[int, str, str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The numbers (n,) of the photos of a map, and its figures (n,) by name."""
        own = self._of(self.table, key)
        columns = {name: np.asarray(own[name].fill_null(np.nan)) for name in FIGURES}
        return np.asarray(own["index"]), columns

    def _of(self, table: Any, key: tuple[int, str, str]) -> Any:
        import pyarrow.compute as compute

        same = compute.and_(compute.equal(table["checkpoint"], key[0]), compute.equal(table["request"], key[1]))
        return table.filter(compute.and_(same, compute.equal(table["map"], key[2])))

    def counts(self, key: tuple[int, str, str]) -> ProtocolCounts:
        """What the protocols count of a map."""
        import pyarrow.dataset as dataset

        columns = ["checkpoint", "request", "map", *_COUNTS, *MEANS]
        wanted = (dataset.field("checkpoint") == key[0]) & (dataset.field("request") == key[1])
        own = self._of(self._data.to_table(columns=columns, filter=wanted), key)
        boxes = [np.unpackbits(np.frombuffer(one, np.uint8)) for one in own["boxes"].to_pylist()]
        size = (len(V2_IOUS) + 1, LEVELS)
        steps = [np.frombuffer(zlib.decompress(one), "<i4") for one in own["steps"].to_pylist()]
        return ProtocolCounts(
            key[2],
            np.stack([one[: size[0] * size[1]].reshape(size) for one in boxes]).astype(bool),
            np.stack(steps).reshape(-1, 2, STEPS + 1),
            {name: np.asarray(own[name]) for name in MEANS},
        )


# --- results ----------------------------------------------------------------------------------------------------------


def _write_rows(path: Path, kept: _Kept) -> None:
    """The rows of all photos, those that could not be scored among them."""
    import pyarrow.compute as compute
    import pyarrow.parquet as parquet

    table = kept.table.select([*_TOLD, *FIGURES])
    reasons = compute.if_else(compute.equal(table["fault"], ""), None, table["fault"])
    with written_whole(path) as part:
        parquet.write_table(table.set_column(_TOLD.index("fault"), "fault", reasons), part)


def _write_tables_and_plots(
    out: Path, data: DataSet, kept: _Kept, settings: Settings, command: str
) -> dict[str, Table]:
    """The tables, by name, when they and the plots are written."""
    tables = _tables(data, kept, settings, command)
    write_tables(out, tables, data.name)
    _write_plots(out / "plots", data, kept)
    return tables


def _tables(data: DataSet, kept: _Kept, settings: Settings, command: str) -> dict[str, Table]:
    methods = []
    for key in kept.maps():
        _, columns = kept.figures(key)
        methods.append(Method.of_columns(key[2], columns))
    tables = {
        "localization": localization_table(data, methods, settings),
        "protocols": protocols_table(data, (kept.counts(key) for key in kept.maps())),
    }
    if measured := kept.maps(counted=False):
        tables["faithfulness"] = faithfulness_table(data, [(key, kept.figures(key)) for key in measured], kept.count)
    return {name: replace(table, command=command) for name, table in tables.items()}


def write_tables(out: Path, tables: Mapping[str, Table], data: str) -> None:
    """Write tables into a folder: results.json, in which their names begin with that of the data, tables.md, and a CSV
    file for each."""
    (out / FILE).unlink(missing_ok=True)
    keep_tables(out / FILE, {f"{data}/{name}": table for name, table in tables.items()})
    with written_whole(out / "tables.md") as part:
        part.write_text("\n\n".join(table.markdown() for table in tables.values()) + "\n", encoding="utf-8")
    for name, table in tables.items():
        with written_whole(out / f"{plain_name(name)}.csv") as part:
            part.write_text(csv_text(csv_records(table)), encoding="utf-8", newline="")


def csv_records(table: Table) -> list[dict[str, Any]]:
    """The rows of a table for a CSV file: a figure with an interval is three columns, NAME, NAME_low and NAME_high."""
    records = []
    for row in table.rows:
        record: dict[str, Any] = {}
        for name, cell in row.items():
            if isinstance(cell, (list, tuple)):
                record |= {name: cell[0], f"{name}_low": cell[1], f"{name}_high": cell[2]}
            else:
                record[name] = "" if cell is None else cell
        records.append(record)
    return records


def _write_plots(folder: Path, data: DataSet, kept: _Kept) -> None:
    maps = kept.maps()
    own, plain = ([key for key in maps if (key[0] < 0) == baseline] for baseline in (False, True))
    curves = [kept.counts(key) for key in [*own[: LINES - len(plain)], *plain]]
    _save(draw_threshold_curves(curves, data.name), folder / "threshold_curves.png")
    first, *others = [*own, *plain[:1]]
    places, columns = kept.figures(first)
    for number, key in enumerate(others[:PAIRS], 1):
        other_places, other = kept.figures(key)
        _, one, two = np.intersect1d(places, other_places, return_indices=True)
        values = columns[RANKED][one], other[RANKED][two]
        _save(draw_scatter((first[2], key[2]), values, "IoU at true area"), folder / f"pair_{number}.png")


def _write_boards(folder: Path, data: DataSet, kept: _Kept, job: Job, object_ids: Sequence[int]) -> None:
    """Boards of the photos that the first map is best and worst on, all maps on each."""
    places, columns = kept.figures(kept.maps()[0])
    order = np.argsort(columns[RANKED], kind="stable")
    settings = replace(job.settings, faithfulness=0)
    for name, chosen in (("worst", order[:EXAMPLES]), ("best", order[::-1][:EXAMPLES])):
        samples = [data.samples[int(places[i])] for i in chosen]
        pictures = [sample.picture() for sample in samples]
        references = {
            i: sample.reference(picture.size, object_ids)
            for i, (sample, picture) in enumerate(zip(samples, pictures, strict=True))
        }
        board = make_board(pictures, job.encoders, job.requests, settings, references)
        _save(render_board(board), folder / f"{name}.jpg")


def _save(picture: Any, path: Path) -> None:
    with written_whole(path) as part:
        write_picture(picture, part)

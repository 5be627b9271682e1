"""A folder of parquet files, one for each part of a list of items, and the run that makes it.

OUT/run.json                 the settings, the size of a part and a digest of the names; written first
OUT/part-000000.parquet      the rows of a part; appears whole
OUT/manifest.json            what was made, with versions; written last, so that a folder that has it is complete
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from simpool_viz.batch.engine import (
    ListedItem,
    Part,
    PartReport,
    Work,
    cut_to_parts,
    local_parts,
    require_pyarrow,
)
from simpool_viz.batch.lock import locked
from simpool_viz.batch.workers import half_the_cores
from simpool_viz.batch.writing import PART, BatchReport, check_folder, require_folder
from simpool_viz.errors import DataError, OptionError
from simpool_viz.export import FORMAT, versions
from simpool_viz.outputs import written_whole

RUN, MANIFEST = "run.json", "manifest.json"
ENGINES = ("local", "ray")
PICTURES = 512  # of a part, whose last batches, one of each shape, are smaller than they could be
_ABOUT = b"simpool_viz"  # the key of a part's report in the metadata of its file


@dataclass(frozen=True)
class Cluster:
    """How an engine is set up, which never changes the rows.

    Attributes:
        engine: "local", worker processes of this machine and one device; or "ray", Ray Data.
        workers: processes that read, with "local"; half the cores by default, and 0 for none.
        models: copies of the models, with "ray", each on a device of its own; by default one for each GPU, or one.
        address: of an existing Ray cluster; by default the one of RAY_ADDRESS, else one is started here.
    """

    engine: str = "local"
    workers: int | None = None
    models: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise OptionError(f"the engine is {' or '.join(ENGINES)}, not {self.engine!r}")
        if (self.models is not None and self.models < 1) or (self.workers is not None and self.workers < 0):
            raise OptionError("the number of models must be positive, and that of workers must not be negative")
        if self.engine == "local" and (self.models is not None or self.address is not None):
            raise OptionError("several models at once and the address of a cluster go with --engine ray")


def run_parts(
    work: Work,
    items: Sequence[ListedItem],
    out: Path,
    settings: dict[str, Any],
    *,
    size: int = PICTURES,
    cluster: Cluster | None = None,
    ahead: int = 48,
    device: str = "cpu",
    overwrite: bool = False,
    progress: bool = False,
    then: Callable[[Sequence[Path]], None] | None = None,
) -> BatchReport:
    """Do some work on items and write its rows as parquet files, from where an earlier run ended.

    Args:
        work: what is done.
        items: with keys that differ.
        out: folder to write to, which every node of a cluster sees; that of an earlier run of the same settings and
            keys is gone on with, whichever engine that had.
        settings: what the rows depend on, for run.json and manifest.json.
        size: items of a part. Rows depend on it in their last digits, since batches do not go beyond a part.
        cluster: the engine; worker processes of this machine by default.
        ahead: how many items at most are read before the models need them, with "local".
        device: of the models, for the manifest and for "ray".
        overwrite: discard an earlier run and start over.
        progress: whether to show a progress bar.
        then: called with the files of all parts when they are there, before the manifest is written and another run may
            write to `out`.

    Returns:
        Counts, faults and duration.

    Raises:
        FileExistsError: `out` holds something else, or a run with other settings or pictures.
        DataError: another run writes to `out`, or it is gone before the end.
        MissingPackageError: pyarrow, or ray, is not installed.
        OptionError: a size that is not positive.
        SimpoolError: what the work raises.
    """
    require_pyarrow()
    started, cluster, out = time.perf_counter(), cluster or Cluster(), Path(out)
    if size < 1:
        raise OptionError("the number of pictures of a part must be positive")
    check_folder(out, RUN)
    parts = cut_to_parts(items, size)
    digest = hashlib.sha256("\n".join(item.key for item in items).encode()).hexdigest()
    facts = {"settings": json.loads(json.dumps(settings)), "part": size, "items": len(items), "keys": digest}
    with locked(out) as note:
        found = _begin(out, facts, parts, overwrite)
        notes = [note] if note else []
        if found.damaged:
            notes.append(f"{out} had {found.damaged} damaged parts, which are made again")
        waiting = [part for part in parts if part.number not in found.whole]
        reports = dict(found.whole)
        earlier = sum(report.items for report in reports.values())
        with _bar(len(items), earlier, progress) as bar:
            for report in _run(work, waiting, out, cluster, ahead, device):
                reports[report.number] = report
                bar.update(report.items)
        in_order = [reports[part.number] for part in parts]
        if then is not None:
            then([PartFiles(out).path(part.number) for part in parts])
        _finish(out, facts, in_order, device)
    faults = [fault for report in in_order for fault in report.faults]
    return BatchReport(
        len(items) - len(faults), earlier - _faulty(found.whole), faults, time.perf_counter() - started, notes
    )


def _run(
    work: Work, parts: Sequence[Part], out: Path, cluster: Cluster, ahead: int, device: str
) -> Iterator[PartReport]:
    if not parts:
        return
    write = PartFiles(out)
    if cluster.engine == "local":
        workers = half_the_cores() if cluster.workers is None else cluster.workers
        yield from local_parts(work, parts, write, workers=workers, ahead=ahead)
        return
    from simpool_viz.batch.ray_engine import ray_parts

    for report in ray_parts(work, parts, write, models=cluster.models, address=cluster.address, device=device):
        if not write.path(report.number).is_file():
            raise DataError(
                f"a node of the cluster wrote its part of {out} where this one does not see it; choose a folder that "
                "all nodes share"
            )
        yield report


def _faulty(reports: dict[int, PartReport]) -> int:
    return sum(len(report.faults) for report in reports.values())


def _bar(total: int, done: int, shown: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc="recording", unit="picture", disable=not shown)


class PartFiles:
    """Writes parts into a folder; it is pickled to the nodes of a cluster.

    Args:
        out: the folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()

    def path(self, number: int) -> Path:
        """The file of a part."""
        return self.out / f"part-{number:06}.parquet"

    def __call__(self, report: PartReport, table: Any) -> None:
        """Write the file of a part, which appears whole. What is there already is replaced by the same.

        Raises:
            DataError: the folder is gone.
            OSError: the file cannot be written.
        """
        require_folder(self.out)
        from pyarrow import parquet

        table = table.replace_schema_metadata({_ABOUT: report.text.encode()})
        with written_whole(self.path(report.number)) as part:
            parquet.write_table(table, part, compression="zstd")


def part_paths(out: Path) -> list[Path]:
    """The files of the parts of a folder, in order."""
    return sorted(Path(out).glob("part-*.parquet"))


def report_of(path: Path) -> PartReport | None:
    """The report that the file of a part holds, None where it is damaged."""
    pyarrow = require_pyarrow()
    from pyarrow import parquet

    try:
        return PartReport.parse(parquet.read_metadata(path).metadata[_ABOUT])
    except (pyarrow.ArrowInvalid, OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class _Earlier:
    """The parts of an earlier run, and how many of its files are damaged."""

    whole: dict[int, PartReport]
    damaged: int = 0


def _begin(out: Path, facts: dict[str, Any], parts: Sequence[Part], overwrite: bool) -> _Earlier:
    """Take over an earlier run, or begin anew."""
    for left in out.glob(f"{PART}*"):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    if (out / RUN).is_file() and not overwrite:
        _check_same(out, facts)
        files = PartFiles(out)
        there = {part.number: report_of(files.path(part.number)) for part in parts if files.path(part.number).exists()}
        whole = {
            part.number: report
            for part in parts
            if (report := there.get(part.number)) is not None and report.items == len(part.items)
        }
        return _Earlier(whole, len(there) - len(whole))
    (out / MANIFEST).unlink(missing_ok=True)
    for path in part_paths(out):
        path.unlink()
    with written_whole(out / RUN) as part_file:
        part_file.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return _Earlier({})


def _check_same(out: Path, facts: dict[str, Any]) -> None:
    try:
        before = json.loads((out / RUN).read_text(encoding="utf-8"))
        other = [name for name in facts if before[name] != facts[name]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{out / RUN} is damaged; add --overwrite to begin anew, or choose another folder ({error})"
        ) from error
    if set(other) & {"settings", "part"}:
        raise FileExistsError(
            f"{out} holds a run with other settings; add --overwrite to begin anew, or choose another folder"
        )
    if other:
        raise FileExistsError(
            f"{out} holds a run over other pictures ({before['items']} then, {facts['items']} now); give the same, add "
            "--overwrite to begin anew, or choose another folder"
        )


def _finish(out: Path, facts: dict[str, Any], reports: Sequence[PartReport], device: str) -> None:
    require_folder(out)
    manifest = {
        "format": FORMAT,
        "versions": versions(),
        "device": device,
        **facts,
        "parts": [
            {"file": PartFiles(out).path(report.number).name, "items": report.items, "rows": report.rows}
            for report in reports
        ],
        "skipped": list(dict.fromkeys(note for report in reports for note in report.notes)),
        "faults": [asdict(fault) for report in reports for fault in report.faults],
    }
    with written_whole(out / MANIFEST) as part:
        part.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

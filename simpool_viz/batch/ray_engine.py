"""The engine that runs parts on a Ray cluster: Ray Data reads and decodes in tasks, runs the models in a pool of actors
with one copy of them per device, and writes in tasks, all at once and in a stream.

What is done with a part is `engine.make_part`, as on one machine. The models travel with the work, so that nodes need
this package and no file of weights. A task whose process or node is lost is done again by Ray; since a part's file
appears whole and is the same each time, no row is lost or doubled.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from simpool_viz.batch.engine import Part, PartReport, Work, Write, make_part, require_pyarrow
from simpool_viz.batch.places import Remote, Stretch, contents
from simpool_viz.errors import OptionError, SimpoolError, needs_packages

_THREADS = 2  # of an actor, which make rows beside the model
_TASKS = 2  # one that reads and one that writes, for which Ray Data keeps a core each


def ray_parts(
    work: Work, parts: Sequence[Part], write: Write, *, models: int | None, address: str | None, device: str
) -> Iterator[PartReport]:
    """Do the work on a Ray cluster.

    Args:
        work: what is done.
        parts: what it is done with, in any order.
        write: writes a part; it is pickled to the nodes, where it writes to a place that all of them share.
        models: number of copies of the models; one for each GPU, or one on processors, by default.
        address: of an existing cluster; by default that of RAY_ADDRESS, else one is started here and ended.
        device: "cpu", or "cuda" for a GPU to each copy.

    Yields:
        Each part once it is written, in any order.

    Raises:
        MissingPackageError: ray is not installed.
        OptionError: pictures that lie in this process's memory, or more copies than devices.
        SimpoolError: what the work raises, no cluster at the address, or a process that was lost again and again.
    """
    with needs_packages("--engine ray", "ray"):
        import ray
    for part in parts:
        if any(isinstance(item.place, (Remote, Stretch)) and item.place.here for item in part.items):
            raise OptionError("what lies in the memory of this process (memory://) is read by --engine local alone")
    with _cluster(address, models):
        gpus = device.startswith("cuda")
        count = _copies(ray.cluster_resources(), models, gpus)
        try:
            yield from _stream(ray, work.on("cpu"), parts, write, count, "cuda" if gpus else device)
        finally:
            work.on(device)  # the models of this process, where they were


@contextmanager
def _cluster(address: str | None, models: int | None) -> Iterator[None]:
    """A connection to the cluster; one that is started here is ended with the block."""
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody unless the user says so
    cores = max(os.cpu_count() or 1, (models or 1) + _TASKS)
    options: dict[str, Any] = {"address": address} if address else {"num_cpus": cores, "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, **options)
    except Exception as error:  # of many kinds; the one that a slow start raises is a plain Exception
        raise SimpoolError(
            f"no Ray cluster can be {f'reached at {address}' if address else 'started here'}: {error}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _copies(resources: dict[str, float], models: int | None, gpus: bool) -> int:
    """The number of copies of the models, for which there must be room beside the tasks that read."""
    there = int(resources.get("GPU", 0)) if gpus else int(resources.get("CPU", 0)) - _TASKS
    count = models or (there if gpus else 1)
    if count < 1 or count > there:
        kind = "GPUs" if gpus else "cores, beside one that reads and one that writes,"
        raise OptionError(f"{count} copies of the models need as many {kind} of the cluster, which has {there}")
    return count


def _stream(ray: Any, work: Work, parts: Sequence[Part], write: Write, count: int, device: str) -> Iterator[PartReport]:
    import torch
    from ray.exceptions import RayError

    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"part": pickle.dumps(part)} for part in parts]
    kept = ray.put(work)
    place: dict[str, Any] = {"num_gpus": 1} if device == "cuda" else {"num_cpus": 1}
    listed = ray.data.from_items(rows, override_num_blocks=len(rows))
    read = listed.map(_read, fn_kwargs={"read": work.read}, num_cpus=1)
    made = read.map(
        _Recorder,
        fn_constructor_args=([kept], device, torch.get_num_threads()),  # in a list, or Ray puts its value in its place
        compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=2),
        **place,
    )
    written = made.map(_write, fn_kwargs={"write": write}, num_cpus=1)
    try:
        for row in written.iter_rows():
            yield _told(row)
    except RayError as error:
        raise SimpoolError(
            "the Ray cluster lost what it was doing, again and again (--engine local leaves out a picture that ends "
            f"its process): {str(error).strip().splitlines()[-1]}"
        ) from error


def _told(row: dict[str, Any]) -> PartReport:
    """The report of a part, or the error that a node had, raised here."""
    if row["error"]:
        raise pickle.loads(row["error"])
    return PartReport.parse(row["report"])


def _read(row: dict[str, Any], read: Any) -> dict[str, Any]:
    """In a task: read and decode the items of a part."""
    part: Part = pickle.loads(row["part"])
    results = [read(key, place) for key, place in contents((item.key, item.place) for item in part.items)]
    return {"part": row["part"], "read": pickle.dumps(results)}


class _Recorder:
    """An actor: the work with its models on one device.

    Args:
        work: a list of a reference to it.
        device: of the models.
        threads: of the processor for one operation, as many as the first process has, since sums depend on it in
            their last digits.
    """

    def __init__(self, work: list[Any], device: str, threads: int) -> None:
        import ray
        import torch

        torch.set_num_threads(threads)
        self.work: Work = ray.get(work[0]).on(device)
        self.pool = ThreadPoolExecutor(_THREADS)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part: Part = pickle.loads(row["part"])
        try:
            report, table = make_part(self.work, part, iter(pickle.loads(row["read"])), self.pool)
        except SimpoolError as error:
            return {"table": b"", "report": "", "error": pickle.dumps(error)}
        sink = require_pyarrow().BufferOutputStream()
        with require_pyarrow().ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return {"table": sink.getvalue().to_pybytes(), "report": report.text, "error": b""}


def _write(row: dict[str, Any], write: Write) -> dict[str, Any]:
    """In a task: write the rows of a part."""
    if not row["error"]:
        try:
            write(PartReport.parse(row["report"]), require_pyarrow().ipc.open_stream(row["table"]).read_all())
        except (SimpoolError, OSError) as error:
            return {"report": "", "error": pickle.dumps(error)}
    return {"report": row["report"], "error": row["error"]}

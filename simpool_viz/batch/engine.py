"""Items in, rows out: the loop that `batch` runs on one machine or on a Ray cluster, with the same result.

The list of items is cut into parts of a fixed number. A part is the unit of everything: its batches are made of its
own items in their order, so that its rows are the same to the last digit wherever and whenever they are computed; it
becomes one parquet file, which appears whole or not at all; and a run that goes on after an interruption computes the
parts that are missing. `Work` says what is done with the items of a part, and knows nothing of engines. `local_parts`
runs it here, `ray_engine.ray_parts` on a cluster; `part_files.run_parts` chooses, and keeps the folder.

`rows.BoardWork` is what `batch` does, `evaluation.keeping.EvaluationWork` what `evaluate` does; a further kind of work
is a class with the four members of `Work`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from simpool_viz.batch.places import contents
from simpool_viz.batch.preparing import Fault
from simpool_viz.batch.workers import half_the_cores, work_ahead
from simpool_viz.errors import needs_packages

if TYPE_CHECKING:
    import pyarrow

MOST_WAITING = 64  # items whose rows are being made while the model goes on
Rows = list[dict[str, Any]]


class ListedItem(Protocol):
    """What the engine needs to know of an item; `inputs.Item` is one.

    Attributes:
        key: its name, unique among all.
        place: what `Work.read` is given, after `places.contents` has read what only lies in an order; picklable.
        label: what the source says of it.
    """

    @property
    def key(self) -> str: ...
    @property
    def place(self) -> Any: ...
    @property
    def label(self) -> str: ...


@dataclass(frozen=True)
class Part:
    """Consecutive items of the list.

    Attributes:
        number: of the part, from 0.
        first: index of its first item in the list.
        items: at least one.
    """

    number: int
    first: int
    items: Sequence[ListedItem]


@dataclass(frozen=True)
class Made:
    """What a batch made of one item.

    Attributes:
        key: of the item.
        rows: called once, in another thread: the item's rows, each a value by column name; what is left out is null.
        fault: why there are none but one that says this; "" where all is well.
        notes: sentences on the run as a whole, such as that a checkpoint does not have a map.
    """

    key: str
    rows: Callable[[], Rows]
    fault: str = ""
    notes: Sequence[str] = ()


class Work(Protocol):
    """What is done with the items. It is pickled where other machines do it, models included.

    Attributes:
        fields: name and type of the columns that it makes, beside `index`, `picture`, `label` and `fault`.
        read: of a key and a place, what `record` takes of the item; a function of a module, or `functools.partial` of
            one, which runs in processes that do not load PyTorch, and returns a `Fault` instead of raising.
    """

    @property
    def fields(self) -> Sequence[pyarrow.Field]: ...
    @property
    def read(self) -> Callable[[str, Any], Any]: ...

    def on(self, device: str) -> Work:
        """The same work, its models on a device."""

    def record(self, read: Iterator[Any]) -> Iterator[Made]:
        """Run the models on what `read` made of the items of one part, in their order, in batches.

        Batches depend on these items alone. Every item is made once, those that are a `Fault` too.
        """


@dataclass(frozen=True)
class PartReport:
    """A part that is written.

    Attributes:
        number: of the part.
        items: how many it has.
        rows: how many its file has.
        faults: the items of which there is nothing but a reason.
        notes: of its items, each once.
    """

    number: int
    items: int
    rows: int
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """It as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def parse(cls, text: str | bytes) -> PartReport:
        """It from its `text`.

        Raises:
            ValueError: something else.
        """
        try:
            about = json.loads(text)
            return cls(**about | {"faults": [Fault(**fault) for fault in about["faults"]]})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a part's report: {error}") from error


Write = Callable[[PartReport, "pyarrow.Table"], None]


def cut_to_parts(items: Sequence[ListedItem], size: int) -> list[Part]:
    """The list in parts of `size` items; the last may be smaller."""
    starts = range(0, len(items), size)
    return [Part(number, start, items[start : start + size]) for number, start in enumerate(starts)]


def make_part(work: Work, part: Part, read: Iterator[Any], pool: ThreadPoolExecutor) -> tuple[PartReport, Any]:
    """The rows of a part, whichever engine asks for them.

    Args:
        work: what is done.
        part: its items.
        read: what `work.read` made of each of them, in their order; it is taken from as the models need it.
        pool: in whose threads rows are made while the models go on.

    Returns:
        A report, and a `pyarrow.Table` with the rows of the items in their order.
    """
    made: dict[str, Rows] = {}
    faults: dict[str, str] = {}
    notes: dict[str, None] = {}
    waiting: deque[tuple[str, Future[Rows]]] = deque()
    for one in work.record(islice(read, len(part.items))):
        waiting.append((one.key, pool.submit(one.rows)))
        notes |= dict.fromkeys(one.notes)
        if one.fault:
            faults[one.key] = one.fault
        while len(waiting) > MOST_WAITING:
            key, future = waiting.popleft()
            made[key] = future.result()
    made |= {key: future.result() for key, future in waiting}
    rows = [
        {"index": part.first + number, "picture": item.key, "label": item.label, "fault": faults.get(item.key, "")}
        | row
        for number, item in enumerate(part.items)
        for row in made[item.key]
    ]
    told = [Fault(item.key, faults[item.key]) for item in part.items if item.key in faults]
    return PartReport(part.number, len(part.items), len(rows), told, list(notes)), _table(work, rows)


def _table(work: Work, rows: Rows) -> Any:
    pyarrow = require_pyarrow()
    schema = pyarrow.schema(
        [
            pyarrow.field("index", pyarrow.int64(), False),
            *(pyarrow.field(name, pyarrow.string(), False) for name in ("picture", "label", "fault")),
            *work.fields,
        ]
    )
    columns = [pyarrow.array([row.get(one.name) for row in rows], one.type) for one in schema]
    return pyarrow.Table.from_arrays(columns, schema=schema)


def require_pyarrow() -> Any:
    """The package pyarrow.

    Raises:
        MissingPackageError: it is not installed.
    """
    with needs_packages("writing and reading parquet files", "pyarrow"):
        import pyarrow
    return pyarrow


def read_items(
    read: Callable[[str, Any], Any], items: Iterable[tuple[str, Any]], workers: int, ahead: int, stack: ExitStack
) -> Iterator[Any]:
    """What `Work.read` makes of items, in their order.

    Args:
        read: as in `Work`.
        items: key and place of each.
        workers: number of processes that read; 0 for none, and all is read here.
        ahead: how many at most are read before they are asked for.
        stack: ends the processes when it is closed.
    """
    if not workers:
        return (read(key, place) for key, place in contents(items))
    return work_ahead(read, ((key, (place,)) for key, place in contents(items)), workers, ahead, stack)


def local_parts(work: Work, parts: Sequence[Part], write: Write, *, workers: int, ahead: int) -> Iterator[PartReport]:
    """Do the work on this machine: processes read, this thread runs the models, threads make rows and write.

    Args:
        work: what is done, its models on the device of their choice.
        parts: in the order in which they are done.
        write: writes a part; called in a thread, one part at a time.
        workers: number of processes that read; 0 for none, and this thread reads.
        ahead: how many items at most are read before the models need them.

    Yields:
        Each part once it is written.
    """
    with ExitStack() as stack:
        items = ((item.key, item.place) for part in parts for item in part.items)
        count = min(workers, sum(len(part.items) for part in parts))
        read = read_items(work.read, items, count, ahead, stack)
        pool, writer = ThreadPoolExecutor(half_the_cores()), ThreadPoolExecutor(1)
        for one in (pool, writer):
            stack.callback(one.shutdown, wait=True, cancel_futures=True)
        before: tuple[PartReport, Future[None]] | None = None
        for part in parts:
            report, table = make_part(work, part, read, pool)
            if before is not None:
                before[1].result()
                yield before[0]
            before = report, writer.submit(write, report, table)
            del table
        if before is not None:
            before[1].result()
            yield before[0]

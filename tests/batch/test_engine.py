"""The loop over a part: rows in order whatever the order in which they are made, few waiting at a time, and nothing
read before it is needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpool_viz.batch import engine
from simpool_viz.batch.engine import Made, PartReport, cut_to_parts, local_parts, make_part
from simpool_viz.batch.inputs import Item
from simpool_viz.batch.preparing import Fault

pyarrow = pytest.importorskip("pyarrow")


class Slow:
    """A row for each item, made in a thread that waits for `go`."""

    def __init__(self, go: threading.Event | None = None) -> None:
        self.go, self.read_so_far, self.recorded = go, [], 0  # type: ignore[var-annotated]

    @property
    def fields(self) -> Sequence[Any]:
        return [pyarrow.field("length", pyarrow.int64())]

    @property
    def read(self) -> Callable[[str, Any], Any]:
        return lambda key, place: key

    def on(self, device: str) -> Slow:
        return self

    def record(self, read: Iterator[Any]) -> Iterator[Made]:
        for key in read:
            self.recorded += 1
            yield Made(key, lambda key=key: self._rows(key))  # type: ignore[misc]

    def _rows(self, key: str) -> list[dict[str, Any]]:
        if self.go is not None:
            assert self.go.wait(60)
        return [{"length": len(key)}]


def items(count: int) -> list[Item]:
    return [Item(f"key {i}", Path("nowhere")) for i in range(count)]


@given(st.integers(0, 40), st.integers(1, 12))
def test_parts_hold_every_item_once_in_order(count: int, size: int) -> None:
    parts = cut_to_parts(items(count), size)
    assert [item for part in parts for item in part.items] == items(count)
    assert all(0 < len(part.items) <= size and part.first == size * part.number for part in parts)
    assert [part.number for part in parts] == list(range(len(parts))) and all(
        len(part.items) == size for part in parts[:-1]
    )


def test_the_models_wait_where_rows_are_made_too_slowly() -> None:
    go = threading.Event()
    work, part = Slow(go), cut_to_parts(items(200), 200)[0]
    with ThreadPoolExecutor(2) as pool:
        result: list[Any] = []
        thread = threading.Thread(
            target=lambda: result.extend(make_part(work, part, (item.key for item in part.items), pool))
        )
        thread.start()
        thread.join(1)
        assert thread.is_alive() and work.recorded <= engine.MOST_WAITING + 1
        go.set()
        thread.join(60)
    report, table = result
    assert report == PartReport(0, 200, 200) and table.column("picture").to_pylist() == [f"key {i}" for i in range(200)]
    assert table.column("index").to_pylist() == list(range(200))


def test_a_part_takes_its_own_items_of_the_stream_and_no_more() -> None:
    first, second = cut_to_parts(items(6), 3)
    read = iter([item.key for item in items(6)])
    with ThreadPoolExecutor(1) as pool:
        assert make_part(Slow(), first, read, pool)[1].column("picture").to_pylist() == ["key 0", "key 1", "key 2"]
        assert next(read) == "key 3"
        rest = iter(["key 3", *read])
        assert make_part(Slow(), second, rest, pool)[1].column("index").to_pylist() == [3, 4, 5]


def test_parts_are_told_once_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "work_ahead", lambda read, given, *_: (read(key, *rest) for key, rest in given))
    written: list[int] = []
    parts = cut_to_parts(items(7), 2)
    for report in local_parts(Slow(), parts, lambda r, t: written.append(r.number), workers=1, ahead=1):
        assert report.number in written
    assert written == [0, 1, 2, 3]

    def failing(report: PartReport, table: Any) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        list(local_parts(Slow(), parts, failing, workers=1, ahead=1))


@given(
    st.builds(
        PartReport, st.integers(0), st.integers(0), st.integers(0), st.lists(st.builds(Fault, st.text(), st.text()))
    )
)
def test_a_report_comes_back_from_its_text(report: PartReport) -> None:
    assert PartReport.parse(report.text) == report


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"number": 1}', '{"faults": [{"a": 1}]}'])
def test_a_text_that_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        PartReport.parse(text)

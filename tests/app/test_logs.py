"""The log cannot be filled by what visitors send."""

from __future__ import annotations

import logging

from simpool_viz.app.logs import Bounded


def test_a_kind_of_line_passes_a_few_times_a_minute_and_others_still_do() -> None:
    now = [0.0]
    bounded = Bounded(3, lambda: now[0])

    def line(number: int, text: str) -> logging.LogRecord:
        return logging.LogRecord("x", logging.WARNING, "file.py", number, "%s", (text,), None)

    assert sum(bounded.filter(line(1, str(i))) for i in range(1000)) == 3
    assert bounded.filter(line(2, "another kind"))
    now[0] = 61.0
    record = line(1, "again")
    assert bounded.filter(record) and record.getMessage() == "again (and 997 like it before)"

"""Results: what was measured is kept as data, and every text that quotes it is made from that data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from simpool_viz.cli.main import main
from simpool_viz.errors import DataError
from simpool_viz.scores.results import (
    Column,
    Results,
    Table,
    fill_text,
    interval,
    keep_tables,
    measured,
    quoted,
    read_results,
)
from tests.helpers import make_mask_set

TABLE = Table(
    "**made up**, 3 photos",
    (
        Column("map", "map"),
        Column("iou", "IoU", "share"),
        Column("above", "above", "points"),
        Column("n", "scenes"),
        Column("w", "whole", "whole percent"),
    ),
    (
        {"map": "a | b", "iou": [0.5, 0.25, 0.75], "above": [0.0123, -0.02, 0.05], "n": 1234, "w": 0.326},
        {"map": "c", "iou": None, "above": None, "n": "12", "w": None},
    ),
    "simpool-viz evaluate x",
)


def test_table_is_written_with_digits_and_signs_of_its_columns() -> None:
    *_, first, second = TABLE.markdown().splitlines()
    assert TABLE.markdown().startswith("**made up**, 3 photos\n\n| map | IoU | above | scenes | whole |\n")
    assert first == "| a \\| b | 0.500 [0.250, 0.750] | +1.2 [-2.0, +5.0] | 1,234 | 33 |"
    assert second == "| c |  |  | 12 |  |"
    assert TABLE.figure("a | b", "iou") == "0.500" and TABLE.figure("a | b", "above", whole=True) == "+1.2 [-2.0, +5.0]"
    with pytest.raises(DataError, match=r"no 'iou' of 'c'; there are map, n"):
        TABLE.figure("c", "iou")
    with pytest.raises(DataError, match=r"no row 'd'; there are a \| b, c"):
        TABLE.figure("d", "iou")


def test_values_with_a_gap_are_no_figure() -> None:
    values = np.random.default_rng(0).random(50)
    assert measured(values) == pytest.approx(interval(values), abs=1e-5)
    assert measured(np.append(values, np.nan)) is None


def test_file_keeps_other_tables_and_reads_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    keep_tables(path, {"g/one": TABLE})
    keep_tables(path, {"g/two": TABLE, "a": Table("t", (Column("x", "x"),), ())})
    results = read_results(path)
    assert list(results.tables) == ["a", "g/one", "g/two"] and results.table("g/one") == results.table("g/two")
    assert results.table("g/one").markdown() == TABLE.markdown() and results.tables["g/one"].command == TABLE.command
    assert '"iou": [ 0.5, 0.25, 0.75 ]' in path.read_text(), "a figure is a line"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not readable as JSON"),
        ("[]", "not of format 1"),
        ('{"format": 2, "tables": {}}', "not of format 1"),
        ('{"format": 1, "tables": {"a": {"title": 3, "columns": [], "rows": []}}}', "does not hold results: .*title"),
        (
            '{"format": 1, "tables": {"a": {"title": "", "columns": [], "rows": [{"x": [1, 2]}]}}}',
            "does not hold results",
        ),
    ],
)
def test_file_of_something_else_is_refused_and_stays(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(DataError, match=told):
        keep_tables(path, {"x": TABLE})
    assert path.read_text() == content
    with pytest.raises(DataError, match="cannot be read"):
        read_results(tmp_path / "absent.json")


def test_texts_are_filled_where_they_name_a_figure() -> None:
    results = Results({"g/one": Table(TABLE.title, TABLE.columns, ({**TABLE.rows[0], "map": "a: b"},))})
    text = (
        "Before\n\n<!-- table g/one -->\nold | table\n\nmore\n<!-- end -->\n\n"
        "It has <!-- = g/one | a: b | iou -->9<!-- --> or <!-- = g/one | a: b | above * -->9 [1,\n 2]<!-- -->."
    )
    filled = fill_text(text, results)
    assert results.table("g/one").markdown() + "\n<!-- end -->" in filled and "old | table" not in filled
    assert filled.endswith("| iou -->0.500<!-- --> or <!-- = g/one | a: b | above * -->+1.2 [-2.0, +5.0]<!-- -->.")
    assert fill_text(filled, results) == filled
    assert quoted("It has {g/one | a: b | iou} of 1.", results) == "It has 0.500 of 1."
    with pytest.raises(DataError, match="no table 'other'; there are g/one"):
        fill_text("<!-- table other -->\n\n<!-- end -->", results)
    with pytest.raises(DataError, match=r"a figure is named TABLE \| ROW \| COLUMN, not 'x'"):
        quoted("{x}", results)


def test_command_keeps_what_it_prints(
    tmp_path: Path, shapes: Path, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path = make_mask_set(tmp_path / "discs"), tmp_path / "results.json"
    small, other = str(checkpoints["gap"]), str(checkpoints["simpool"])
    words = ["evaluate", str(folder), "--photos", str(shapes), "-c", small, "-c", other, "--device", "cpu"]
    assert main([*words, "--results", str(path), "--name", "mine", "--pair", "small_simpool:small_gap"]) == 0
    out, results = capsys.readouterr().out, read_results(path)
    assert set(results.tables) == {"mine/discs", f"mine/{shapes.name}", f"mine/{shapes.name}/pairs"}
    assert all(table.markdown() in out for table in results.tables.values())
    command = results.tables["mine/discs"].command
    assert command.startswith("simpool-viz evaluate ") and "--pair small_simpool:small_gap" in command
    assert "--results" not in command and "mine" not in command
    path.write_text(json.dumps({"format": 0}))
    assert main([*words, "--results", str(path)]) == 2 and "not of format 1" in capsys.readouterr().err
    assert main([*words, "--pair", "small_gap"]) == 2 and "--pair is written ONE:OTHER" in capsys.readouterr().err


def test_an_empty_place_for_a_table_takes_nothing_that_follows() -> None:
    table = Table("**made up**", (Column("map", "map"),), ({"map": "one"},), "simpool-viz evaluate")
    results = Results({"a": table, "b": table})
    text = "<!-- table a -->\n<!-- end -->\n\nBetween.\n\n<!-- table b -->\nold\n<!-- end -->\nAfter.\n"
    filled = fill_text(text, results)
    assert filled.count(table.markdown()) == 2 and "old" not in filled
    assert "<!-- end -->\n\nBetween.\n\n<!-- table b -->" in filled and filled.endswith("<!-- end -->\nAfter.\n")
    assert fill_text(filled, results) == filled

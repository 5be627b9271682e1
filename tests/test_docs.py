"""The page of poolings is what its script writes from the registry, and every figure in a text is a measured one."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from simpool_viz.board.tour import STOPS
from simpool_viz.bundled import bundled_folder
from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.modeling.pooling import poolings
from simpool_viz.scores.results import bundled_results

DOCS = Path(__file__).parent.parent / "docs"


def _uncounted(page: str) -> str:
    """Without the multiply-adds, whose count depends on how a version of PyTorch splits its fused kernels."""
    return re.sub(r"multiply-adds: [\d,]+", "", page)


@pytest.mark.skipif(not DOCS.is_dir(), reason="the docs travel with the repository, not with the package")
def test_the_page_of_poolings_is_up_to_date():
    script = _script("make_poolings")
    committed = (DOCS / "poolings.md").read_text(encoding="utf-8")
    assert _uncounted(script.page()) == _uncounted(committed), "run: python docs/make_poolings.py"
    for pooling in poolings().values():
        assert f"(`{pooling.name}`)" in committed and pooling.formula in committed
        assert (DOCS / "poolings" / f"{pooling.name}.jpg").is_file() == (script.map_of(pooling) is not None)


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.skipif(not DOCS.is_dir(), reason="the docs travel with the repository, not with the package")
def test_every_text_that_quotes_a_result_says_what_was_measured() -> None:
    script = _script("make_results")
    quoting = [path for path in script.texts() if "<!-- table " in path.read_text(encoding="utf-8")]
    assert DOCS.parent / "models" / "README.md" in quoting
    for path in script.texts():
        text = path.read_text(encoding="utf-8")
        assert script.filled(path) == text, f"{path.name} differs from models/results.json; run docs/make_results.py"
        assert "?<!-- -->" not in text


def test_every_table_of_the_results_says_how_it_was_measured_and_names_what_can_be_had() -> None:
    trained = set(re.findall(r"--set name=(\w+)", (bundled_folder("models") / "README.md").read_text(encoding="utf-8")))
    teacher = "teacher.pth"  # DINOv2 ViT-S/14, which is measured and not bundled
    known = set(catalogue()) | {"centre prior", "whole picture", teacher}
    given, shown = known | {f"runs/{name}" for name in trained}, known | trained
    for name, table in bundled_results().tables.items():
        if table.command.startswith("python benchmarks/precision.py "):  # of all bundled ones
            assert {str(row["checkpoint"]) for row in table.rows} <= set(catalogue()), name
            continue
        if table.command.startswith("python benchmarks/entropy_curves.py "):  # of logs of trainings
            assert {str(row["run"]) for row in table.rows} <= trained, name
            continue
        if table.command.startswith("python benchmarks/life.py "):  # of random weights: see test_benchmarks.py
            continue
        assert table.command.startswith(("simpool-viz evaluate ", "simpool-viz retrieve ")), name
        parser = argparse.ArgumentParser()
        parser.add_argument("-c", action="append")
        named = parser.parse_known_args(shlex.split(table.command)[2:])[0].c
        assert named and set(named) <= given, name
        if table.columns[0].name in ("map", "checkpoint", "features"):
            label = table.columns[0].name
            assert {str(row[label]).partition(": ")[0] for row in table.rows} <= shown, name


def test_no_figure_of_the_tour_is_written_by_hand() -> None:
    for stop in STOPS:
        for text in (stop.text, stop.observation, stop.limits):
            assert not re.search(r"\d\.\d|\d %", re.sub(r"\{[^{}]*\}", "", text)), f"{stop.name}: {text}"
        assert "{" not in stop.markdown

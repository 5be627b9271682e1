"""The notebooks of examples/ run from their first cell to their last, and the documentation names them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))

pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="the notebooks travel with the repository")


def test_there_are_three_and_none_carries_results() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["first_look", "own_model", "paper_figure"]
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert len(cells) <= 14 and cells[0]["source"][0].startswith("# ")
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
        for page in ("README.md", "docs/guide.md"):
            assert f"examples/{path.name}" in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_values_show_themselves(path: Path, tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    (tmp_path / "examples").mkdir()
    shutil.copytree(ROOT / "assets", tmp_path / "assets")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path / "examples")}}
    )
    client.execute()
    shown = [output["data"] for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    pictures = [data for data in shown if "image/png" in data]
    assert len(pictures) >= 2 and all(
        cell.get("execution_count") for cell in notebook.cells if cell.source and cell.cell_type == "code"
    )
    assert any("<figcaption>" in data.get("text/html", "") for data in pictures)
    if path.stem == "paper_figure":
        assert (tmp_path / "examples" / "out" / "figure.pdf").read_bytes().startswith(b"%PDF")

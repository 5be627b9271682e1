"""Gradio writes no type stubs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
sys.path.insert(0, {folder!r})
{first}
import gradio
import simpool_viz.app
import component_of_ours
from gradio.component_meta import create_or_modify_pyi
with gradio.Blocks():
    box = component_of_ours.Ours(value="text")
    box.change(lambda text: text, box, box)
print(create_or_modify_pyi.__module__)
"""


@pytest.mark.parametrize("first", ["import simpool_viz.app", ""], ids=["before Gradio", "after Gradio"])
def test_components_work_and_leave_no_file_beside_them(tmp_path: Path, first: str) -> None:
    (tmp_path / "component_of_ours.py").write_text("import gradio\n\n\nclass Ours(gradio.Textbox):\n    pass\n")
    code = CODE.format(folder=str(tmp_path), first=first)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "simpool_viz.app.stubs"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["component_of_ours.py"]

"""Publishing uploads what the app needs and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from simpool_viz.cli.main import main


def test_publish_uploads_what_the_app_needs_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Client:
        def create_repo(self, space: str, **options: Any) -> None:
            calls.append((space, options))

        def upload_folder(self, **options: Any) -> None:
            calls.append(("upload", options))

    monkeypatch.setattr(huggingface_hub, "HfApi", Client)
    if main(["publish", "me/viz", "--private"]) != 0:
        pytest.skip("publishing runs from a checkout")
    assert "https://huggingface.co/spaces/me/viz" in capsys.readouterr().out
    (space, made_with), (_, uploaded) = calls
    assert space == "me/viz" and made_with == {
        "repo_type": "space",
        "space_sdk": "gradio",
        "private": True,
        "exist_ok": True,
    }
    from huggingface_hub.utils import filter_repo_objects

    root = Path(uploaded["folder_path"])
    names = [
        "app.py",
        "requirements.txt",
        "README.md",
        "LICENSE",
        "NOTICE",
        "simpool_viz/app/board/board.js",
        "models/resnet_gap/model.safetensors",
        "assets/chelsea.jpg",
    ]
    others = [
        ".venv/bin/python",
        "tests/conftest.py",
        "simpool_viz/__pycache__/a.pyc",
        "runs/a/model.safetensors",
        ".git/config",
    ]
    patterns = {"allow_patterns": uploaded["allow_patterns"], "ignore_patterns": uploaded["ignore_patterns"]}
    assert list(filter_repo_objects([*names, *others], **patterns)) == names and all(
        (root / name).is_file() for name in names[:6]
    )


def test_publish_says_what_stopped_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "viz"]) == 2 and "a Space is called USER/NAME, not 'viz'" in capsys.readouterr().err

    class Client:
        def create_repo(self, *_: Any, **__: Any) -> None:
            raise PermissionError("401 Unauthorized\nlong text")

    monkeypatch.setattr(huggingface_hub, "HfApi", Client)
    assert main(["publish", "me/viz"]) == 2
    assert "log in with: hf auth login" in (told := capsys.readouterr().err) and "long text" not in told

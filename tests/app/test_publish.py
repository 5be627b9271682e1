"""Publishing says what it would upload, uploads what the app needs and nothing else, and the README fits a Space."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml

from simpool_viz.app import publish as publishing
from simpool_viz.app.publish import Copy, prepare_copy, with_preload
from simpool_viz.checkpoints.published import OWNER, published
from simpool_viz.cli.main import main
from simpool_viz.errors import DownloadError, OptionError

ROOT = Path(__file__).parent.parent.parent
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
# The keys of a Space's front matter that its documentation names, and what each may hold.
KEYS: dict[str, Any] = {
    "title": lambda v: isinstance(v, str) and v,
    "emoji": lambda v: isinstance(v, str) and len(v) == 1 and ord(v) > 0x2000,
    "colorFrom": lambda v: v in COLOURS,
    "colorTo": lambda v: v in COLOURS,
    "sdk": lambda v: v in {"gradio", "docker", "static"},
    "python_version": lambda v: isinstance(v, str) and re.fullmatch(r"3\.\d+(\.\d+)?", v),
    "sdk_version": lambda v: isinstance(v, str) and re.fullmatch(r"\d+\.\d+\.\d+", v),
    "suggested_hardware": lambda v: v in {"cpu-basic", "cpu-upgrade", "zero-a10g", "t4-small", "t4-medium"},
    "suggested_storage": lambda v: v in {"small", "medium", "large"},
    "app_file": lambda v: isinstance(v, str) and (ROOT / v).is_file(),
    "app_port": lambda v: isinstance(v, int),
    "base_path": lambda v: isinstance(v, str) and v.startswith("/"),
    "fullWidth": lambda v: isinstance(v, bool),
    "header": lambda v: v in {"mini", "default"},
    "short_description": lambda v: isinstance(v, str) and 0 < len(v) <= 60,
    "models": lambda v: all(re.fullmatch(r"[\w.-]+/[\w.-]+", one) for one in v),
    "datasets": lambda v: all(re.fullmatch(r"[\w.-]+/[\w.-]+", one) for one in v),
    "tags": lambda v: all(isinstance(one, str) for one in v),
    "thumbnail": lambda v: isinstance(v, str),
    "pinned": lambda v: isinstance(v, bool),
    "license": lambda v: v in {"apache-2.0", "mit"},
    "hf_oauth": lambda v: isinstance(v, bool),
    "hf_oauth_scopes": lambda v: isinstance(v, list),
    "hf_oauth_expiration_minutes": lambda v: isinstance(v, int),
    "disable_embedding": lambda v: isinstance(v, bool),
    "startup_duration_timeout": lambda v: isinstance(v, str) and re.fullmatch(r"\d+[mh]", v),
    "custom_headers": lambda v: isinstance(v, dict),
    "preload_from_hub": lambda v: v and all(re.fullmatch(r"[\w.-]+/[\w.-]+( [^ ]+)?", one) for one in v),
}

pytestmark = pytest.mark.skipif(not (ROOT / "app.py").is_file(), reason="publishing runs from a checkout")


def front_matter(readme: str) -> dict[str, Any]:
    _, matter, _ = readme.split("---\n", 2)
    return yaml.safe_load(matter)


def wrong_keys(matter: dict[str, Any]) -> list[str]:
    return [key for key, value in matter.items() if key not in KEYS or not KEYS[key](value)]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that has every second of the published repositories; returns the names of those."""
    here = [f"{OWNER}/{name}" for name in list(published())[::2]]

    def files(repository: str, *_: Any) -> dict[str, int | None]:
        if repository not in here:
            raise DownloadError(f"hf:{repository} does not exist")
        return {"README.md": 10, "checkpoint.pth": 88_000_000, ".gitattributes": 1}

    monkeypatch.setattr(publishing, "list_files", files)
    return here


def test_the_front_matter_has_the_keys_of_a_space_and_the_versions_that_requirements_admit() -> None:
    from packaging.requirements import Requirement

    matter = front_matter((ROOT / "README.md").read_text(encoding="utf-8"))
    assert wrong_keys(matter) == [] and "preload_from_hub" not in matter
    assert {"title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "app_file", "license"} <= set(matter)
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    gradio = next(r for r in map(Requirement, lines) if r.name == "gradio")
    assert matter["sdk_version"] in gradio.specifier
    assert 10 <= int(matter["python_version"].split(".")[1]) <= 13
    for wrong in ({"colour": "red"}, {"colorTo": "orange"}, {"sdk": "streamlit"}, {"short_description": "x" * 61}):
        assert wrong_keys(matter | wrong) == list(wrong)


def test_the_copy_has_licence_cards_and_results_and_nothing_else(hub: list[str]) -> None:
    copy = prepare_copy()
    wanted = {
        "app.py",
        "requirements.txt",
        "README.md",
        "LICENSE",
        "NOTICE",
        "simpool_viz/app/board/board.js",
        "models/resnet_gap/model.safetensors",
        "models/resnet_gap/README.md",
        "models/README.md",
        "models/results.json",
        "assets/chelsea.jpg",
    }
    assert wanted <= set(copy.files)
    assert {name.partition("/")[0] for name in copy.files} == {p.partition("/")[0] for p in publishing.UPLOADED}
    assert not [name for name in copy.files if "__pycache__" in name or name.endswith((".pyc", ".pyi", ".py.swp"))]
    assert not [name for name in copy.files if name.startswith("docs/") and not name.endswith(".jpg")]
    assert copy.size == sum(p.stat().st_size for n, p in copy.files.items() if n != "README.md") + len(
        copy.readme.encode()
    )


def test_what_the_builder_fetches_stands_in_the_copy_alone_and_only_where_the_hub_has_it(hub: list[str]) -> None:
    copy = prepare_copy()
    matter = front_matter(copy.readme)
    assert matter["preload_from_hub"] == [f"{repository} checkpoint.pth" for repository in hub]
    assert wrong_keys(matter) == []
    original = (ROOT / "README.md").read_text(encoding="utf-8")
    assert copy.readme.split("---\n", 2)[2] == original.split("---\n", 2)[2] and "preload_from_hub" not in original
    assert front_matter(original) | {"preload_from_hub": matter["preload_from_hub"]} == matter
    assert len(copy.missing) == len(published()) - len(hub) and sum(copy.preloaded.values()) == 88_000_000 * len(hub)
    assert with_preload(original, []) == original
    with pytest.raises(OptionError, match="front matter"):
        with_preload("# A title\n", ["a/b"])


def test_without_upload_nothing_is_uploaded_and_its_size_is_told(
    hub: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda *_: pytest.fail("the hub was written to"))
    assert main(["publish", "me/viz"]) == 0
    told = capsys.readouterr().out
    copy = prepare_copy()
    for line in copy.lines():
        assert line in told
    whole = next(line for line in told.splitlines() if line.startswith("together"))
    assert f"{len(copy.files)} files" in whole and f"{copy.size / 1e6:,.1f} MB" in whole
    assert "nothing was uploaded; add --upload" in told and "https://" not in told.splitlines()[-1]
    assert f"fetches {len(hub)} published checkpoints" in told


def test_upload_makes_the_space_and_one_commit(
    hub: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Client:
        def create_repo(self, space: str, **options: Any) -> None:
            calls.append((space, options))

        def create_commit(self, **options: Any) -> None:
            calls.append(("commit", options))

    monkeypatch.setattr(huggingface_hub, "HfApi", Client)
    small = Copy({"README.md": ROOT / "README.md", "app.py": ROOT / "app.py"}, "new text", {}, [])
    monkeypatch.setattr(publishing, "prepare_copy", lambda: small)
    assert main(["publish", "me/viz", "--private", "--upload"]) == 0
    assert "https://huggingface.co/spaces/me/viz" in capsys.readouterr().out
    (space, made_with), (_, commit) = calls
    assert space == "me/viz" and made_with == {
        "repo_type": "space",
        "space_sdk": "gradio",
        "private": True,
        "exist_ok": True,
    }
    sent = {one.path_in_repo: one.path_or_fileobj for one in commit["operations"]}
    assert sent == {"README.md": b"new text", "app.py": str(ROOT / "app.py")} and commit["repo_type"] == "space"


def test_publish_says_what_stopped_it(
    hub: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["publish", "viz"]) == 2 and "a Space is called USER/NAME, not 'viz'" in capsys.readouterr().err
    with pytest.raises(OptionError, match=r"publishing runs from a checkout of simpool_viz; .* has no app.py"):
        prepare_copy(tmp_path)

    class Client:
        def create_repo(self, *_: Any, **__: Any) -> None:
            raise PermissionError("401 Unauthorized\nlong text")

    monkeypatch.setattr(huggingface_hub, "HfApi", Client)
    assert main(["publish", "me/viz", "--upload"]) == 2
    assert "log in with: hf auth login" in (told := capsys.readouterr().err) and "long text" not in told

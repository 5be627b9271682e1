"""The wheel: holds the package with its checkpoints and pictures and nothing else, and works where no checkout is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUNDLED = ("models", "assets")


def pip(*arguments: str | Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "--no-deps", "--no-index"], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without network: the build backend is among the `dev` requirements."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", ROOT, "--no-build-isolation", "--wheel-dir", folder)
    (file,) = folder.glob("simpool_viz-*.whl")
    return file


def files_below(folder: Path) -> set[str]:
    """Every file that a checkout has there, without what Python (.pyc), Gradio (.pyi) and desktops (.DS_Store) leave
    behind."""
    left = (".pyc", ".pyi", ".DS_Store")
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(left))
    return {path.relative_to(folder).as_posix() for path in found}


def checkpoints() -> set[str]:
    """Names of the checkpoints of this checkout whose weights are here."""
    configs = (path for path in (ROOT / "models").glob("*/config.json") if (path.parent / "model.safetensors").exists())
    return {json.loads(path.read_text(encoding="utf-8"))["facts"]["name"] for path in configs}


def test_wheel_holds_the_package_and_what_is_bundled_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {name for name in files_below(ROOT / "simpool_viz") if not name.startswith("_bundled/")}
    wanted = {f"simpool_viz/{name}" for name in package}
    wanted |= {f"simpool_viz/_bundled/{folder}/{name}" for folder in BUNDLED for name in files_below(ROOT / folder)}
    assert names == wanted


@pytest.mark.parametrize(
    "pattern", ["training/recipes/*.yaml", "app/board/*.js", "_bundled/models/*/model.safetensors", "_bundled/assets/*"]
)
def test_wheel_holds_data_of_each_kind(wheel: Path, pattern: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert any(Path(name).match(f"simpool_viz/{pattern}") for name in archive.namelist())


def test_wheel_requires_what_the_space_installs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (
            archive.read(name).decode() for name in archive.namelist() if name.endswith(".dist-info/METADATA")
        )
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert len(required) == len(lines)
    assert "Requires-Dist: torch!=2.13.0,>=2.8" in required


def test_wheel_carries_licence_notice_addresses_and_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        for name in ("LICENSE", "NOTICE"):
            assert archive.read(f"{info}/licenses/{name}").decode() == (ROOT / name).read_text(encoding="utf-8")
        assert "simpool_viz/py.typed" in archive.namelist()
        metadata = archive.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata and "License-File: NOTICE" in metadata
    assert len(re.findall(r"^Project-URL: .+, https://", metadata, re.MULTILINE)) >= 5
    assert "Classifier: Typing :: Typed" in metadata
    for version in ("3.10", "3.11", "3.12", "3.13"):
        assert f"Classifier: Programming Language :: Python :: {version}" in metadata


def test_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip("install", "--target", target, wheel)

    def python(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(target)}
        result = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, cwd=elsewhere, env=environment
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert python("-c", "import simpool_viz; print(simpool_viz.__file__)").startswith(str(target))
    listed = {
        checkpoint["name"]: checkpoint
        for checkpoint in json.loads(python("-m", "simpool_viz", "list", "--json"))["checkpoints"]
    }
    assert checkpoints(), "models/ holds no checkpoint to bundle"
    assert checkpoints() <= {name for name, checkpoint in listed.items() if checkpoint["available"]}

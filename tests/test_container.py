"""The image: what its Dockerfile and compose file say, and its steps done in a clean folder, where no container runtime
is needed (.ci/container.py)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    not (ROOT / "Dockerfile").is_file(), reason="the Dockerfile travels with the repository"
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("container", ROOT / ".ci" / "container.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["container"] = module  # which its dataclass looks up
    spec.loader.exec_module(module)
    return module


def test_the_app_of_the_image_is_slim_not_root_and_has_a_health_check(script: ModuleType) -> None:
    found = script.steps((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    kinds = [kind for kind, _ in found]
    (base,) = [rest for kind, rest in found if kind == "FROM"]
    assert base.startswith("python:3.") and base.endswith("-slim")
    assert [rest for kind, rest in found if kind == "USER"] == ["app"]
    assert max(i for i, kind in enumerate(kinds) if kind in ("RUN", "COPY")) < kinds.index("USER")
    assert any("/healthz" in rest for kind, rest in found if kind == "HEALTHCHECK")
    copied = {word for kind, rest in found if kind == "COPY" for word in rest.split()[:-1]}
    assert {"models", "assets", "simpool_viz", "app.py", "LICENSE"} <= copied
    service = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["simpool_viz"]
    assert service["build"] == "." and service["ports"] == ["127.0.0.1:7860:7860"]
    assert float(service["stop_grace_period"].rstrip("s")) == script.GRACE


def test_only_what_is_copied_is_sent_to_the_build(script: ModuleType) -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    inside = [
        "app.py",
        "models/resnet_gap/model.safetensors",
        "simpool_viz/app/board/board.js",
        "assets/masks/chelsea.png",
    ]
    others = [
        ".git/config",
        ".venv/bin/python",
        "runs/a/model.safetensors",
        "tests/conftest.py",
        "simpool_viz/__pycache__/a.cpython-312.pyc",
        "simpool_viz/app/x.pyi",
        "simpool_viz/_bundled/models/a",
        "Dockerfile",
    ]
    assert script.admitted(inside + others, ignore) == inside


def test_a_step_that_is_not_known_or_copies_nothing_is_an_error(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("")
    for line, sentence in (
        ("VOLUME /data", "no step is known"),
        ("COPY nothing ./", "there is no such file"),
        ("RUN false", "failed"),
        ("RUN pip install 'numpy<1'", "is not what is installed here"),
    ):
        (tmp_path / "Dockerfile").write_text(f"FROM x\nWORKDIR /app\n{line}\n")
        with pytest.raises(SystemExit, match=sentence):
            script.build(tmp_path, tmp_path / "image")


def test_its_steps_lead_to_an_app_that_is_healthy_and_ends_when_it_is_told(script: ModuleType, tmp_path: Path) -> None:
    image = script.build(ROOT, tmp_path)
    done = dict(line.rsplit(": ", 1) for line in image.done if not line.startswith("HEALTHCHECK"))
    assert image.user == "app" and image.stop == "SIGTERM" and image.workdir == "/app"
    assert sum("not done" in line for line in image.done) == 4, "FROM, useradd and two installations"
    assert done["RUN python -m compileall -q simpool_viz"] == "done"
    assert (image.here / "models" / "results.json").is_file() and not (image.here / "tests").exists()
    healthy, page, ended = script.start_and_stop(image)
    assert healthy == "healthy" and page.startswith("page: ") and "ended with 0" in ended

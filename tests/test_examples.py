"""What the documentation shows works: its Python blocks run, and its commands and options exist.

A page's blocks run one after another in one namespace, in a folder with the photos that they name. A block that cannot
run here would stand below a comment `<!-- not run: why -->`; there is none.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from simpool_viz import masks
from simpool_viz.cli.main import main
from simpool_viz.maps import registry
from simpool_viz.modeling.pooling import create

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PHOTOS = {"cat.jpg": "chelsea.jpg", "street.jpg": "motorcycle.jpg", "cat_mask.png": "masks/chelsea.png"}
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>.+?) -->\n+)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the docs travel with the repository")


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(line, code) of the blocks in a language that are meant to run."""
    text = page.read_text(encoding="utf-8")
    found = [match for match in BLOCK.finditer(text) if match["language"] == language and not match["why"]]
    return [(text[: match.start("code")].count("\n"), match["code"]) for match in found]


@pytest.fixture
def registries() -> Iterator[None]:
    """A page may register a pooling, a map or a mask rule; afterwards the lists are as before."""
    lists = (create._POOLINGS, registry._METHODS, masks._RULES)
    before = [dict(entries) for entries in lists]
    yield
    for entries, earlier in zip(lists, before, strict=True):
        entries.clear()
        entries.update(earlier)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registries: None) -> None:
    for name, photo in PHOTOS.items():
        shutil.copy(ROOT / "assets" / photo, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.stem}
    for line, code in blocks(page, "python"):
        exec(compile("\n" * line + code, str(page), "exec"), namespace)  # faults are told by the page's own lines


def test_most_pages_with_code_are_run() -> None:
    run = {page.name: len(blocks(page, "python")) for page in PAGES}
    assert run["README.md"] >= 2 and run["guide.md"] >= 6 and run["CONTRIBUTING.md"] >= 3
    skipped = [
        match["why"] for page in PAGES for match in BLOCK.finditer(page.read_text(encoding="utf-8")) if match["why"]
    ]
    assert not skipped, "each block that is not run is a promise that nobody keeps"


def test_what_contributing_adds_is_found_everywhere(tmp_path: Path, registries: None) -> None:
    """Its pooling, its map and its mask rule, each by the lines that the page gives, on a bundled checkpoint."""
    from simpool_viz import load_checkpoint, map_methods, mask_rules, poolings, record

    for line, code in blocks(ROOT / "CONTRIBUTING.md", "python"):
        exec(compile("\n" * line + code, "CONTRIBUTING.md", "exec"), {"__name__": "contributing"})
    assert "nearest" in poolings() and "norm" in map_methods() and "half" in mask_rules()
    recording = record(load_checkpoint("resnet_gap", device="cpu"), ROOT / "assets" / "chelsea.jpg", size=64)
    weights = recording.map("nearest").fused()
    assert weights.shape == recording.geometry.grid and abs(float(weights.sum()) - 1) < 1e-4
    norm = recording.map("norm")
    expected = recording.tokens.patches[0].norm(dim=1).numpy().reshape(norm.fused().shape)
    assert abs(norm.fused() - expected).max() < 1e-4
    mask = norm.mask("half", 0.9)
    assert (mask.grid == (norm.fused() >= mask.level)).all() and mask.grid.any() and not mask.grid.all()
    assert abs(mask.level - 0.9 * float(norm.fused().max())) < 1e-4


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every `simpool-viz ...` line in a block without a language, continued lines joined."""
    found = []
    for page in PAGES:
        for _, code in blocks(page, ""):
            for line in code.replace("\\\n", " ").splitlines():
                words = shlex.split(line.partition("simpool-viz ")[2], comments=True) if "simpool-viz " in line else []
                if words and not line.startswith("pip "):
                    found.append((page.name, words))
    return found


def test_commands_and_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    helps: dict[str, str] = {}
    for page, (command, *words) in commands():
        if command not in helps:
            with pytest.raises(SystemExit) as ended:
                main([command, "--help"])
            helps[command] = capsys.readouterr().out
            assert ended.value.code == 0, f"{page}: there is no command {command}"
        for option in (word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", helps[command]), f"{page}: {command} has no {option}"
    assert {"compare", "inspect", "evaluate", "train", "batch", "tour", "convert", "publish", "serve"} <= helps.keys()

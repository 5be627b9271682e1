"""The command line: help that is instant, and how every failure ends."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from simpool_viz import __version__, cli, map_methods, mask_rules, masks
from simpool_viz.board.comparison import GROUPINGS, ROW_FIGURES
from simpool_viz.board.inspection import QUESTIONS
from simpool_viz.board.ready_made import comparisons
from simpool_viz.cli import main as main_module
from simpool_viz.drawing.pixels import SEQUENTIAL
from simpool_viz.drawing.render import SUFFIXES
from simpool_viz.errors import SimpoolError, where_to_report
from simpool_viz.maps.attention_map import FUSIONS
from tests.helpers import KINDS, plant_bug, run_command

COMMANDS = [
    "list",
    "compare",
    "inspect",
    "tour",
    "batch",
    "video",
    "evaluate",
    "retrieve",
    "train",
    "convert",
    "publish",
    "serve",
]


def test_help_imports_neither_torch_nor_matplotlib_nor_anything_else_that_is_slow() -> None:
    code = (
        "import sys\n"
        "from simpool_viz.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'matplotlib', 'timm', 'gradio', 'cv2', 'numpy', 'PIL', 'skimage', 'scipy', 'yaml'} & "
        "set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert all(command in result.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    status, out, _ = run_command(capsys, command, "--help")
    assert status == 0 and out.startswith("usage: simpool-viz " + command)


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(capsys, "--version")[:2] == (0, f"simpool-viz {__version__}\n")


COMPARE = ["compare", "{wide}", "-o", "{out}", "--device", "cpu"]


SMALL = ["-c", "{simpool}"]


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no such photo": (["compare", "absent.jpg", "-o", "{out}", *SMALL], "there is no file absent.jpg"),
    "photo is text": (["compare", "{text}", "-o", "{out}", *SMALL], "notes.jpg is not a picture"),
    "photo is a folder": (["compare", "{here}", "-o", "{out}", *SMALL], "is a folder, not a picture"),
    "second photo is cut off": (["compare", "{wide}", "{cut}", "-o", "{out}", *SMALL], "cut.png is damaged or cut off"),
    "unknown checkpoint": ([*COMPARE, "-c", "resnet_simpol"], "no checkpoint is called 'resnet_simpol'"),
    "folder without config": ([*COMPARE, "-c", "{here}"], "no checkpoint is called"),
    "damaged checkpoint": ([*COMPARE, "-c", "{damaged}"], "model.safetensors is damaged"),
    "unknown timm model": ([*COMPARE, "-c", "timm:vit_of_my_own"], "has no model called 'vit_of_my_own'"),
    "unknown map": ([*COMPARE, *SMALL, "-m", "saliency"], "no map is called 'saliency'; there are own, pooling, cls"),
    "map that no checkpoint has": ([*COMPARE, *SMALL, "-m", "cls"], "its backbone is a CNN"),
    "map option without value": ([*COMPARE, *SMALL, "-m", "cls:block"], "options are written key=value"),
    "unknown map option": ([*COMPARE, *SMALL, "-m", "pooling:block=1"], "block"),
    "unknown class": ([*COMPARE, *SMALL, "-m", "contribution:classes=hexagon"], "no class 'hexagon'"),
    "unknown rule": ([*COMPARE, *SMALL, "--mask", "median"], "no mask rule is called 'median'"),
    "amount out of range": ([*COMPARE, *SMALL, "--mask", "mass:60"], "above 0 and up to 1, not 60"),
    "unknown colours": ([*COMPARE, *SMALL, "--colours", "jet"], "not 'jet'"),
    "opacity out of range": ([*COMPARE, *SMALL, "--opacity", "2"], "opacity lies in [0, 1], not 2"),
    "negative size": ([*COMPARE, *SMALL, "--size", "-8"], "must be positive, not -8"),
    "enormous size": ([*COMPARE, *SMALL, "--size", "100000"], "choose 1024 or less"),
    "unknown device": ([*COMPARE[:-1], "tpu7", *SMALL], "no device is called 'tpu7'"),
    "device that is not here": ([*COMPARE[:-1], "cuda:99", *SMALL], "cuda:99 is not here"),
    "fewer references than photos": (
        ["compare", "{wide}", "{tall}", "-o", "{out}", *SMALL, "--reference", "{wide mask}"],
        "1 reference masks were given for 2 photos",
    ),
    "unknown fusion": ([*COMPARE, *SMALL, "--fusion", "median"], "'median' is no fusion (mean, max, min)"),
    "reference is text": ([*COMPARE, *SMALL, "--reference", "{text}"], "notes.jpg is not a picture in a format"),
    "compare without a photo": (
        ["compare", "-o", "{out}"],
        "name at least one photo, or an earlier result with --from",
    ),
    "reference marks nothing": ([*COMPARE, *SMALL, "--reference", "{black}"], "black.png marks no object"),
    "out is a file": (["compare", "{wide}", "-o", "{text}", *SMALL], "already exists"),
    "evaluate without folders": (["evaluate", "{here}", *SMALL], "holds no mask for any of the 1 images"),
    "evaluate with an unknown rule": (["evaluate", "{here}", "--mask", "x"], "no mask rule is called 'x'"),
    "unknown recipe": (["train", "resnet_huge"], "there is no recipe 'resnet_huge'; bundled are"),
    "setting without value": (["train", "resnet_gap", "--set", "seed"], "--set takes key=value, not 'seed'"),
    "recipe without data": (["train", "resnet_gap", "--set", "data={here}", "-o", "{out}"], "holds no classes.json"),
    "no threads": (["train", "resnet_gap", "--threads", "0"], "--threads takes a positive number, not 0"),
}


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, photos: dict[str, Path], checkpoints: dict[str, Path]
) -> dict[str, Path]:
    here = tmp_path_factory.mktemp("here")
    (here / "notes.jpg").write_text("not a picture\n" * 50)
    (here / "cut.png").write_bytes(photos["wide"].read_bytes()[:3000])
    Image.new("L", (91, 60)).save(here / "black.png")
    (here / "damaged").mkdir()
    (here / "damaged" / "config.json").write_bytes((checkpoints["gap"] / "config.json").read_bytes())
    (here / "damaged" / "model.safetensors").write_bytes(b"nothing")
    extra = {
        "here": here,
        "text": here / "notes.jpg",
        "cut": here / "cut.png",
        "black": here / "black.png",
        "damaged": here / "damaged",
    }
    return {**photos, **checkpoints, **extra}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_told_in_one_sentence_with_exit_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, places: dict[str, Path], name: str
) -> None:
    arguments, says = MISTAKES[name]
    status, out, err = run_command(capsys, *(a.format(**places, out=tmp_path / "out") for a in arguments))
    # Without the progress bar.
    told = [line for line in re.sub(r"recording: .*?\]", "", err).splitlines() if line.strip()]
    assert status == 2 and out == ""
    assert len(told) == 1 and told[0].startswith("simpool-viz: ") and says in told[0], err
    assert "Traceback" not in err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required: COMMAND"),
        (["look"], "invalid choice: 'look'"),
        (["compare", "a.jpg"], "required: -o/--out"),
        (["compare", "a.jpg", "-o", "out", "--size", "big"], "invalid int value: 'big'"),
    ],
)
def test_wrong_usage_is_told_with_exit_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    status, out, err = run_command(capsys, *arguments)
    assert status == 2 and out == "" and says in err and err.startswith("usage: simpool-viz")


def test_missing_package_and_interrupt_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as bare:
        bare.setitem(sys.modules, "accelerate", None)
        assert run_command(capsys, "train", "resnet_gap") == (
            2,
            "",
            "simpool-viz: training needs the package accelerate, which is missing; install it with: pip install "
            "accelerate\n",
        )
    monkeypatch.setattr("simpool_viz.training.recipe.load_recipe", stop)
    assert run_command(capsys, "train", "resnet_gap") == (130, "", "simpool-viz: stopped\n")


def test_the_commands_are_those_of_the_files_beside_main() -> None:
    files = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {"__init__", "main", "options"}
    assert files == set(COMMANDS) == {command.name for command in main_module.COMMANDS}


@pytest.mark.parametrize("command", ["", "list", "train", "convert", "publish", "serve", "tour"])
def test_help_that_names_nothing_registered_imports_no_torch(command: str) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    code = (
        "import sys\n"
        "from simpool_viz.cli.main import main\n"
        f"try: main({arguments})\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'gradio' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0 and ("--traceback" in result.stdout) == bool(command), result.stderr


def test_names_in_help_come_from_the_registries(capsys: pytest.CaptureFixture[str]) -> None:
    compare = " ".join(run_command(capsys, "compare", "--help")[1].split())
    for names in (mask_rules(), map_methods(), FUSIONS, SEQUENTIAL, GROUPINGS, comparisons(), ROW_FIGURES, SUFFIXES):
        assert all(name in compare for name in names), names
    inspect = " ".join(run_command(capsys, "inspect", "--help")[1].split())
    assert all(name in inspect for name in (*QUESTIONS, *FUSIONS))


def test_a_rule_that_is_registered_stands_in_the_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(masks._RULES, "thirds", masks._RULES["mean"])
    assert "otsu or thirds" in " ".join(run_command(capsys, "evaluate", "--help")[1].split())


def planted(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("simpool_viz.training.recipe.load_recipe", fail)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_error_is_a_sentence_with_exit_status_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: type[SimpoolError]
) -> None:
    planted(monkeypatch, kind("that does not fit"))
    assert run_command(capsys, "train", "resnet_gap") == (2, "", "simpool-viz: that does not fit\n")
    status, out, err = run_command(capsys, "train", "resnet_gap", "--traceback")
    assert (status, out) == (2, "") and err.startswith("Traceback") and err.endswith("that does not fit\n")
    assert "in fail" in err


@pytest.mark.parametrize(
    "bug", [ZeroDivisionError("by zero"), ValueError("plain"), RuntimeError("CUDA out of memory?\nno"), KeyError("k")]
)
def test_a_bug_is_ours_with_exit_status_1_and_its_trace_on_demand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bug: Exception
) -> None:
    planted(monkeypatch, bug)
    status, out, err = run_command(capsys, "train", "resnet_gap")
    assert (status, out) == (1, "") and err.count("\n") == 1 and "Traceback" not in err
    assert "this is a fault of ours" in err and where_to_report() in err and type(bug).__name__ in err
    status, out, err = run_command(capsys, "train", "resnet_gap", "--traceback")
    assert (status, out) == (1, "") and err.startswith("Traceback") and "in fail" in err
    assert err.splitlines()[-1].startswith("simpool-viz: this is a fault of ours") and "with the trace above" in err


def test_a_bug_in_a_map_writes_nothing_and_is_ours(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    photos: dict[str, Path],
    checkpoints: dict[str, Path],
) -> None:
    plant_bug(monkeypatch, "pooling")
    arguments = ["compare", photos["wide"], "-c", checkpoints["simpool"], "-m", "pooling", "-o", tmp_path / "out"]
    status, _, err = run_command(capsys, *arguments, "--device", "cpu")
    assert status == 1 and "this is a fault of ours" in err and "ZeroDivisionError" in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_bug_while_a_command_is_read_is_ours_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simpool_viz.masks.mask_rules", lambda: 1 // 0)
    status, _, err = run_command(capsys, "evaluate", "folder")
    assert status == 1 and "this is a fault of ours" in err

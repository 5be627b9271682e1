"""The command line: what it prints and writes, one sentence and exit status 2 for every mistake, and a help that is
instant."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simpool_viz import __version__, load_checkpoint, map_methods, mask_rules, poolings, record
from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.cli.main import main
from tests.helpers import disc, make_photo, run_command, simpool_vit

COMMANDS = ["list", "compare", "inspect", "batch", "evaluate", "train", "serve"]


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


def test_list_names_everything_that_is_registered(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run_command(capsys, "list")
    assert status == 0 and not err
    for name in [*catalogue(), *map_methods(), *poolings(), *mask_rules(), "resnet_gap", "resnet_simpool"]:
        assert f"\n  {name}" in out


def test_list_as_json_is_json_with_everything(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run_command(capsys, "list", "--json")
    listing = json.loads(out)
    assert status == 0 and list(listing) == [
        "checkpoints",
        "published",
        "maps",
        "poolings",
        "comparisons",
        "masks",
        "recipes",
    ]
    assert {m["name"]: m["default"] for m in listing["masks"]} == {n: r.default for n, r in mask_rules().items()}
    assert [m["name"] for m in listing["maps"]] == list(map_methods()) and all(m["summary"] for m in listing["maps"])
    assert [p["name"] for p in listing["poolings"]] == list(poolings())
    assert {c["name"]: c["available"] for c in listing["checkpoints"]} == {
        n: e.available for n, e in catalogue().items()
    }


def test_compare_writes_a_folder_with_the_maps_of_the_python_call_and_the_scores(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], checkpoints: dict[str, Path]
) -> None:
    status, out, _ = run_command(
        capsys, "compare", photos["wide"], photos["tall"], "-c", checkpoints["simpool"],
        "-c", checkpoints["gap"], "-o", tmp_path / "out",
        "--reference", photos["wide mask"], "--reference", photos["tall mask"], "--mask", "area:0.2",
        "--device", "cpu", "--smooth",
        "-m", "pooling", "-m", "contribution",
    )  # fmt: skip
    assert status == 0
    assert f"6 maps in {tmp_path / 'out'}; open {tmp_path / 'out' / 'board.png'}" in out
    assert "note: small gap has no Pooling attention map: " in out
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 12 and (tmp_path / "out" / "board.png").is_file()
    weights = record(load_checkpoint(checkpoints["simpool"], device="cpu"), photos["tall"]).map("simpool").weights
    with np.load(tmp_path / "out" / "maps.npz") as maps:
        assert np.array_equal(maps["tall.small_simpool.pooling"], weights)
    with (tmp_path / "out" / "scores.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [t["checkpoint"] for t in table].count("centre prior") == 2 and all(0 <= float(t["iou"]) <= 1 for t in table)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["settings"]["mask"] == "area:0.2" and manifest["look"]["smooth"] and manifest["device"] == "cpu"


def test_compare_shows_each_checkpoints_own_map_where_none_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], checkpoints: dict[str, Path]
) -> None:
    both = ["-c", checkpoints["simpool"], "-c", checkpoints["gap"]]
    status, out, _ = run_command(capsys, "compare", photos["wide"], *both, "-o", tmp_path / "out", "--device", "cpu")
    rows = json.loads((tmp_path / "out" / "manifest.json").read_text())["rows"]
    assert status == 0 and "note:" not in out
    assert [(r["checkpoint"], r["map"]) for r in rows] == [("small_simpool", "pooling"), ("small_gap", "contribution")]


def test_compare_takes_maps_with_options_size_and_look(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], checkpoints: dict[str, Path]
) -> None:
    status, _, err = run_command(
        capsys, "compare", photos["wide"], "-c", checkpoints["simpool"], "-m", "contribution:classes=square+circle",
        "-m", "simpool",
        "-o", tmp_path / "out", "--size", 40, "--colours", "gray", "--opacity", 0.25,
        "--shared-scale", "--largest", "--device", "cpu",
        "--fusion", "-1",
    )  # fmt: skip
    assert status == 0, err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [r["map"] for r in manifest["rows"]] == ["contribution:classes=square+circle", "simpool"]
    assert manifest["rows"][0]["maps"] == ["square", "circle"] and manifest["rows"][0]["input_size"] == [64, 40]
    assert manifest["look"] == {"colours": "gray", "opacity": 0.25, "smooth": False, "shared_scale": True}
    assert manifest["settings"] == {"size": 40, "mask": "mass:0.6", "largest": True, "fusion": -1}


def test_compare_keeps_two_photos_of_one_stem_apart(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    for number, name in enumerate(("cat.png", "cat.bmp")):
        Image.fromarray(make_photo(seed=number)).save(tmp_path / name)
    arguments = [
        "compare",
        tmp_path / "cat.png",
        tmp_path / "cat.bmp",
        "-c",
        checkpoints["simpool"],
        "-o",
        tmp_path / "out",
    ]
    assert run_command(capsys, *arguments, "--device", "cpu")[0] == 0
    with np.load(tmp_path / "out" / "maps.npz") as maps:
        first, second = (maps[f"cat_{i}.small_simpool.pooling"] for i in (0, 1))
    assert not np.array_equal(first, second)


def test_compare_replaces_an_earlier_result_only_with_overwrite(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], checkpoints: dict[str, Path]
) -> None:
    arguments = ["compare", photos["wide"], "-c", checkpoints["gap"], "-o", tmp_path / "out", "--device", "cpu"]
    assert run_command(capsys, *arguments)[0] == 0
    made = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    status, _, err = run_command(capsys, *arguments)
    assert status == 2 and "add --overwrite to replace it" in err
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == made
    assert run_command(capsys, *arguments, "--overwrite")[0] == 0
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns > made


def test_compare_refuses_an_occupied_folder_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.txt").touch()
    monkeypatch.setattr(
        "simpool_viz.checkpoints.load.load_checkpoint", lambda *_, **__: pytest.fail("a checkpoint was loaded")
    )
    status, _, err = run_command(capsys, "compare", photos["wide"], "-o", tmp_path)
    assert (
        status == 2
        and "already exists and is not empty" in err
        and [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    )


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
    "unknown map": ([*COMPARE, *SMALL, "-m", "saliency"], "no map is called 'saliency'; there are pooling, cls"),
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
    "reference is text": ([*COMPARE, *SMALL, "--reference", "{text}"], "notes.jpg cannot be read"),
    "reference marks nothing": ([*COMPARE, *SMALL, "--reference", "{black}"], "black.png marks no object"),
    "out is a file": (["compare", "{wide}", "-o", "{text}", *SMALL], "already exists"),
    "evaluate without folders": (["evaluate", "{here}", *SMALL], "must hold the folders images/ and masks/"),
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
    told = [line for line in re.sub(r"looking: .*?\]", "", err).splitlines() if line.strip()]
    assert status == 2 and out == ""
    assert len(told) == 1 and told[0].startswith("simpool-viz: ") and says in told[0], err
    assert "Traceback" not in err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required: COMMAND"),
        (["look"], "invalid choice: 'look'"),
        (["compare", "a.jpg"], "required: -o/--out"),
        (["compare", "-o", "out"], "required: IMAGE"),
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
    def miss(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("simpool_viz.training.recipe.load_recipe", miss)
    assert run_command(capsys, "train", "resnet_gap") == (
        2,
        "",
        "simpool-viz: training needs the package pyarrow, which is missing; install it with: pip install pyarrow\n",
    )
    monkeypatch.setattr("simpool_viz.training.recipe.load_recipe", stop)
    assert run_command(capsys, "train", "resnet_gap") == (130, "", "simpool-viz: stopped\n")


def test_without_any_bundled_checkpoint_one_must_be_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simpool_viz.checkpoints.catalogue.catalogue", dict)
    status, _, err = run_command(capsys, "compare", photos["wide"], "-o", tmp_path / "out")
    assert status == 2 and "no checkpoint is bundled" in err


def test_evaluate_prints_a_table_with_every_checkpoint_and_both_baselines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "discs" / folder).mkdir(parents=True)
    for i, (width, height) in enumerate([(91, 60), (64, 100), (80, 50)]):
        Image.fromarray(make_photo(width, height, i)).save(tmp_path / "discs" / "images" / f"{i}.png")
        Image.fromarray((255 * disc(width, height)).astype(np.uint8)).save(tmp_path / "discs" / "masks" / f"{i}.png")
    both = ["-c", checkpoints["simpool"], "-c", checkpoints["gap"]]
    status, out, _ = run_command(capsys, "evaluate", tmp_path / "discs", *both, "--mask", "area:0.2", "--device", "cpu")
    lines = out.splitlines()
    assert status == 0 and lines[0] == "**discs**, 3 photos"
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")] == [
        "map",
        "---",
        "small_simpool: Pooling attention",
        "small_gap: Contribution",
        "centre prior",
        "whole picture",
    ]
    assert "IoU of mask area:0.2" in out


@pytest.mark.parametrize("port", ["99999", "-1", "0"])
def test_serve_refuses_ports_that_do_not_exist(capsys: pytest.CaptureFixture[str], port: str) -> None:
    status, _, err = run_command(capsys, "serve", "--port", port)
    assert status == 2 and "a port lies between 1 and 65535" in err


def test_convert_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(simpool_vit(), tmp_path / "a.pth")
    assert main(["convert", str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "ViT, 3 blocks of 128 channels" in out and "MB instead of" in out and "projection head" in out
    assert main(["convert", str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors")]) == 2
    assert "exists; add --overwrite" in capsys.readouterr().err
    assert (
        main(
            ["convert", str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors"), "--weights", "student", "--overwrite"]
        )
        == 0
    )

"""The command `batch`: what it reads, what it writes, and what it refuses."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simpool_viz import read_batch
from simpool_viz.batch import engine, local
from tests.helpers import make_photo, run_command, save_small

pytest.importorskip("pyarrow")


@pytest.fixture(autouse=True)
def read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (engine, local):
        monkeypatch.setattr(module, "work_ahead", lambda read, given, *_: (read(key, *rest) for key, rest in given))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for i in range(3):
            Image.fromarray(make_photo(91, 60, i)).save(folder / "a.png")
            archive.write(folder / "a.png", f"below/{i}.png")
        archive.writestr("below/bad.png", b"no picture")
    (folder / "a.png").unlink()
    return folder / "photos.zip"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("checkpoint") / "small")


def test_an_archive_gives_files_as_a_folder_does(
    archive: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run_command(
        capsys, "batch", archive, "-c", checkpoint, "-o", tmp_path / "out", "--device", "cpu"
    )
    assert status == 0 and out.startswith("3 pictures in") and out.strip().endswith("holds maps and pictures")
    assert "left out: below/bad.png is not a picture" in err
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.npz")}
    assert names == {f"maps/below/{i}.png.npz" for i in range(3)}
    assert len(list((tmp_path / "out" / "pictures" / "below").glob("*.jpg"))) == 6, "JPEG is the default with files"


def test_parquet_holds_the_maps_of_the_files(
    archive: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["batch", archive, "-c", checkpoint, "-m", "pooling", "--device", "cpu", "-o"]
    assert run_command(capsys, *options, tmp_path / "files", "--pictures", "none")[0] == 0
    status, out, _ = run_command(capsys, *options, tmp_path / "rows", "--write", "parquet", "--part", 2)
    assert status == 0 and out.strip().endswith("holds rows in parquet files")
    rows = [row for row in read_batch(tmp_path / "rows") if not row.fault]
    assert [row.picture for row in rows] == [f"below/{i}.png" for i in range(3)] and "overlay" not in rows[0].figures
    for row in rows:
        with np.load(tmp_path / "files" / "maps" / f"{row.picture}.npz", allow_pickle=False) as maps:
            weights = maps["small_simpool.pooling"]
            assert row.weights is not None
            np.testing.assert_allclose(row.weights, weights, atol=1e-3 * float(weights.max()))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--engine", "ray"], "--engine ray and --part go with --write parquet"),
        (["--part", "5"], "--engine ray and --part go with --write parquet"),
        (["--write", "parquet", "--models", "2"], "go with --engine ray"),
        (["--write", "parquet", "--ray-address", "auto"], "go with --engine ray"),
        (["--write", "parquet", "--part", "0"], "number of pictures of a part must be positive"),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(
    options: list[str],
    says: str,
    archive: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, _, err = run_command(capsys, "batch", archive, "-c", checkpoint, "-o", tmp_path / "out", *options)
    assert status == 2 and says in err and not (tmp_path / "out").exists()


def test_inputs_that_are_not_there_are_one_sentence(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, says in (
        (tmp_path / "none", "there is no file or folder"),
        ("nosuch://a", "no address that fsspec can"),
    ):
        status, _, err = run_command(capsys, "batch", given, "-c", checkpoint, "-o", tmp_path / "out")
        assert status == 2 and says in err

"""An evaluation in a folder: rows, tables, plots and boards, and the same after it was killed in the middle."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from simpool_viz import load_checkpoint
from simpool_viz.batch import boards
from simpool_viz.batch.boards import Job
from simpool_viz.batch.part_files import part_paths
from simpool_viz.batch.preparing import Prepared
from simpool_viz.board.board import Settings
from simpool_viz.errors import DataError
from simpool_viz.evaluation.datasets import DataSet, open_data_set
from simpool_viz.evaluation.keeping import Evidence, csv_records, evaluate_into
from simpool_viz.evaluation.passes import Pace
from simpool_viz.evaluation.protocols import evaluate_protocols, protocols_table
from simpool_viz.evaluation.table import evaluate, localization_table
from simpool_viz.maps.request import MapRequest
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.results import read_results
from tests.helpers import disc, make_photo

SIZES = [(91, 60), (60, 91), (80, 50)]
PHOTOS = 12
MAPS = [MapRequest("pooling"), MapRequest("contribution")]
SMALL = Settings(size=48)
PACE = Pace(batch=2, workers=0, part=4)  # three parts
KILLED = """
import os, signal, sys
from pathlib import Path
from simpool_viz import load_checkpoint
from simpool_viz.batch.boards import Job
from simpool_viz.batch.part_files import PartFiles
from simpool_viz.board.board import Settings
from simpool_viz.evaluation.datasets import open_data_set
from simpool_viz.evaluation.keeping import evaluate_into
from simpool_viz.evaluation.passes import Pace
from simpool_viz.maps.request import MapRequest

folder, checkpoint, out = map(Path, sys.argv[1:4])
write, left = PartFiles.__call__, [int(sys.argv[4])]

def write_or_end(files, report, table):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    write(files, report, table)

PartFiles.__call__ = write_or_end
maps = [MapRequest("pooling"), MapRequest("contribution")]
job = Job([load_checkpoint(checkpoint, device="cpu")], maps, Settings(size=48))
evaluate_into(out, open_data_set(folder), job, Pace(batch=2, workers=0, part=4))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos of three shapes; the mask of one is empty, another photo is torn."""
    folder = tmp_path_factory.mktemp("sets") / "mixed"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for i in range(PHOTOS):
        width, height = SIZES[i % 3]
        Image.fromarray(make_photo(width, height, i)).save(folder / "images" / f"{i:02d}.png")
        mask = 255 * disc(width, height).astype(np.uint8) * (i != 4)
        Image.fromarray(mask).save(folder / "masks" / f"{i:02d}.png")
    (folder / "images" / "07.png").write_bytes((folder / "images" / "07.png").read_bytes()[:900])
    return folder


@pytest.fixture(scope="module")
def encoder(checkpoints: dict[str, Path]) -> Encoder:
    return load_checkpoint(checkpoints["simpool"], device="cpu")


def run(out: Path, photos: Path, encoder: Encoder, **more: object) -> Evidence:
    return evaluate_into(out, open_data_set(photos), Job([encoder], MAPS, SMALL), PACE, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(photos: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that was not stopped."""
    out = tmp_path_factory.mktemp("outs") / "whole"
    run(out, photos, encoder)
    return out


def test_every_photo_has_its_rows_in_the_order_of_the_set_and_faults_their_reason(whole: Path) -> None:
    rows = parquet.read_table(whole / "rows.parquet").to_pylist()
    labels = ["small_simpool: Pooling attention", "small_simpool: Contribution", "centre prior", "whole picture"]
    wanted = []
    for i in range(PHOTOS):
        wanted += [(f"{i:02d}.png", label) for label in ([None] if i in (4, 7) else labels)]
    assert [(row["picture"], row["map"]) for row in rows] == wanted
    faults = {row["picture"]: row["fault"] for row in rows if row["fault"]}
    assert set(faults) == {"04.png", "07.png"}
    assert "04.png marks no object" in faults["04.png"] and "07.png is damaged or cut off" in faults["07.png"]
    assert all(0 <= row["iou"] <= 1 for row in rows if not row["fault"])


def test_tables_are_those_of_the_python_calls_and_of_every_format(whole: Path, photos: Path, encoder: Encoder) -> None:
    data, pace = open_data_set(photos), PACE
    methods = evaluate(data, [encoder], MAPS, SMALL, pace)
    kept = read_results(whole / "results.json")
    assert kept.table("mixed/localization").rows == localization_table(data, methods, SMALL).rows
    protocols = protocols_table(data, evaluate_protocols(data, [encoder], MAPS, SMALL, pace))
    assert kept.table("mixed/protocols").rows == protocols.rows
    assert kept.table("mixed/localization").title == "**mixed**, 10 photos, 2 left out"
    assert protocols.markdown() in (whole / "tables.md").read_text()
    lines = (whole / "protocols.csv").read_text().splitlines()
    assert lines[0].startswith("map,max_box_acc_v2,max_box_acc_v2_low,max_box_acc_v2_high") and len(lines) == 5
    cell = protocols.rows[0]["pxap"]
    assert [csv_records(protocols)[0][f"pxap{end}"] for end in ("", "_low", "_high")] == list(cell)  # type: ignore[arg-type]


def test_plots_and_boards_are_there(whole: Path) -> None:
    for name in ("plots/threshold_curves.png", "plots/pair_1.png", "boards/best.jpg", "boards/worst.jpg"):
        with Image.open(whole / name) as picture:
            assert min(picture.size) > 100 and len(picture.convert("L").getcolors() or []) > 8


@pytest.mark.parametrize("parts", [0, 2])
def test_a_run_that_was_killed_goes_on_to_the_same_result_without_doing_anything_twice(
    whole: Path, photos: Path, encoder: Encoder, checkpoints: dict[str, Path], tmp_path: Path, parts: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(photos), str(checkpoints["simpool"]), str(out), str(parts)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -9
    written = {path: path.stat().st_mtime_ns for path in part_paths(out / "parts")}
    assert len(written) == parts and not (out / "rows.parquet").exists()
    done = {key for path in written for key in parquet.read_table(path)["picture"].to_pylist()}
    assert len(done) == 4 * parts
    forwards: list[str] = []

    def make_and_count(job: Job, batch: list[Prepared]) -> object:
        forwards.extend(one.key for one in batch)
        return make_boards(job, batch)

    make_boards = boards.make_boards
    monkeypatch.setattr(boards, "make_boards", make_and_count)
    made = run(out, photos, encoder)
    assert any("did not come to its end" in note for note in made.notes)
    assert made.earlier == len(done - {"04.png", "07.png"}) and made.scored == PHOTOS - 2
    assert sorted(forwards) == sorted({f"{i:02d}.png" for i in range(PHOTOS)} - {"04.png", "07.png"} - done)
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    same_results(out, whole)
    forwards.clear()
    again = run(out, photos, encoder)
    assert not forwards and again.tables == made.tables, "nothing is left to do"


def same_results(out: Path, other: Path) -> None:
    """Two evaluations are the same to the last digit."""
    for one, two in zip(part_paths(out / "parts"), part_paths(other / "parts"), strict=True):
        assert parquet.read_table(one).equals(parquet.read_table(two), check_metadata=True)
    assert (out / "rows.parquet").read_bytes() == (other / "rows.parquet").read_bytes()
    for name in ("results.json", "tables.md", "localization.csv", "protocols.csv"):
        assert (out / name).read_bytes() == (other / name).read_bytes()


def test_processes_that_read_and_score_give_the_same(
    whole: Path, photos: Path, encoder: Encoder, tmp_path: Path
) -> None:
    job = Job([encoder], MAPS, SMALL)
    evaluate_into(tmp_path / "out", open_data_set(photos), job, Pace(batch=2, workers=1, part=4))
    same_results(tmp_path / "out", whole)


def test_a_set_without_a_score_is_tried_again(photos: Path, encoder: Encoder, tmp_path: Path) -> None:
    folder, torn = tmp_path / "mixed", (photos / "images" / "00.png").read_bytes()[:900]
    shutil.copytree(photos, folder)
    for photo in (folder / "images").iterdir():
        photo.write_bytes(torn)
    with pytest.raises(DataError, match=r"none of the photos of mixed can be scored\. 00\.png"):
        run(tmp_path / "out", folder, encoder)
    shutil.copytree(photos, folder, dirs_exist_ok=True)
    assert run(tmp_path / "out", folder, encoder).scored == PHOTOS - 2


def test_other_settings_and_other_folders_are_refused(
    whole: Path, photos: Path, encoder: Encoder, tmp_path: Path
) -> None:
    data = open_data_set(photos)
    with pytest.raises(FileExistsError, match="holds a run with other settings"):
        evaluate_into(whole, data, Job([encoder], MAPS[:1], SMALL), PACE)
    with pytest.raises(FileExistsError, match=r"a run over other pictures \(12 then, 11 now\)"):
        evaluate_into(whole, DataSet("mixed", "pairs", list(data.samples)[:-1]), Job([encoder], MAPS, SMALL), PACE)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="is no earlier run"):
        run(tmp_path / "mine", photos, encoder)


def test_insertion_and_deletion_have_their_own_baselines(photos: Path, encoder: Encoder, tmp_path: Path) -> None:
    data = open_data_set(photos)
    few = DataSet("few", "pairs", list(data.samples)[:3])
    settings = Settings(size=48, faithfulness=4)
    made = evaluate_into(tmp_path / "out", few, Job([encoder], MAPS, settings), Pace(batch=2, workers=0))
    rows = {row["map"]: row for row in made.tables["faithfulness"].rows}
    assert list(rows) == [
        "small_simpool: Pooling attention",
        "small_simpool: Contribution",
        "small_simpool: centre prior",
        "small_simpool: whole picture",
    ]
    prior = rows["small_simpool: centre prior"]
    assert prior["insertion_above_prior"] is None
    for row in rows.values():
        assert 0 <= row["deletion"][0] <= 1 and 0 <= row["insertion"][0] <= 1  # type: ignore[index]
        if row is not prior:
            above = row["insertion"][0] - prior["insertion"][0]  # type: ignore[index]
            assert row["insertion_above_prior"][0] == pytest.approx(above, abs=2e-5)  # type: ignore[index]
    assert [row["map"] for row in made.tables["localization"].rows][2:] == ["centre prior", "whole picture"]

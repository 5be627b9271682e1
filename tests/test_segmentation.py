"""Dense checkpoints: what they find, the properties of Dense Attention Roll-Out on them, their tables, and a class that
is clicked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassJaccardIndex

from simpool_viz import load_checkpoint, make_board, record
from simpool_viz.app.board.inspected import segmentation_payload
from simpool_viz.app.inspect import ALONE, InspectPage, Visit
from simpool_viz.board.inspection import Lens, classes_found, facts_of, inspect
from simpool_viz.board.segmentation import segment
from simpool_viz.checkpoints.bundle import save_bundle
from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.cli.main import main
from simpool_viz.drawing.figures import draw_segmentation
from simpool_viz.drawing.pixels import palette
from simpool_viz.evaluation.scenes import look_at_scenes, open_scenes
from simpool_viz.maps.rollout_chain import roll_out
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.recording import Recording
from simpool_viz.scores.confusion import mean_ious
from tests.conftest import make_photo
from tests.oracles import attention as oracle

NAMES = ("sky", "road", "car", "tree", "sign")
BUNDLED = [name for name, entry in catalogue().items() if entry.available and entry.outline().dense]


def dense_spec(**changes: Any) -> EncoderSpec:
    kwargs = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 6, "reg_tokens": 3}
    return dataclasses.replace(EncoderSpec("vit_tiny_patch16_224", "cls", 5, kwargs, dense=True), **changes)


def dense(**changes: Any) -> Encoder:
    torch.manual_seed(0)
    encoder = dense_spec(**changes).build(Facts("dense", "Dense", 64, classes=NAMES))
    for name, parameter in encoder.named_parameters():
        if "qkv" in name or name.startswith("head"):
            parameter.data.mul_(2 if changes.get("inside") == "life" and "qkv" in name else 12)
    return encoder.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["registers", "life", *BUNDLED])
def seen(request: pytest.FixtureRequest) -> Recording:
    """Of random models and of the bundled ones, on a picture whose grid is not square."""
    encoder = (
        dense(inside="life" if request.param == "life" else "") if request.param in ("registers", "life") else None
    )
    return record(encoder or load_checkpoint(request.param, device="cpu"), make_photo(150, 90), 96)


def matrix(recording: Recording) -> np.ndarray:
    return oracle.rollout([m[0].numpy() for m in oracle.eager_attention(recording.encoder, recording.image[None])])


def scores_of(recording: Recording) -> np.ndarray:
    encoder, tokens = recording.encoder, recording.tokens.patches[0]
    return (tokens @ encoder.head.weight.T + encoder.head.bias).double().numpy()


def flat(weights: np.ndarray) -> np.ndarray:
    return weights.reshape(len(weights), -1).astype(np.float64)


# --- the properties of the maps
# -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
def test_maps_are_those_of_the_whole_matrix(seen: Recording, soft: bool) -> None:
    expected = oracle.dense_rollout(matrix(seen), scores_of(seen), seen.encoder.num_prefix_tokens, soft)
    assert seen.geometry.grid[0] != seen.geometry.grid[1] and len(expected) > 1
    found = seen.map("dense_rollout", classes=list(expected), soft=soft)
    np.testing.assert_allclose(flat(found.weights), np.stack(list(expected.values())), atol=1e-5)
    assert found.note == "", "no heuristic on a dense head"


def test_rows_of_the_product_sum_to_1_and_uniform_and_one_hot_rows_are_means_and_rows(seen: Recording) -> None:
    product, prefix = matrix(seen), seen.encoder.num_prefix_tokens
    count = len(product)
    token = prefix + 5
    weights = torch.zeros(3, count, dtype=torch.float64)
    weights[0] = 1 / count
    weights[1, prefix:] = 1 / (count - prefix)
    weights[2, token] = 1
    rolled = roll_out(weights, seen.blocks).double().numpy()
    np.testing.assert_allclose(rolled.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(rolled, np.stack([product.mean(0), product[prefix:].mean(0), product[token]]), atol=1e-5)


def test_hard_maps_unnormalised_sum_to_the_column_sums(seen: Recording) -> None:
    found = segment(seen)
    counts = np.bincount(found.labels.ravel(), minlength=len(found.names))
    maps = seen.map("dense_rollout", classes=found.found())
    total = (flat(maps.weights) * counts[found.found()][:, None]).sum(0)
    prefix = seen.encoder.num_prefix_tokens
    np.testing.assert_allclose(total, matrix(seen)[prefix:, prefix:].sum(0), atol=1e-4)


def test_union_is_the_mean_row_of_the_tokens_of_either_class(seen: Recording) -> None:
    found = segment(seen)
    first, second = found.found()[:2]
    one, other = (flat(seen.map("dense_rollout", classes=[c]).weights)[0] for c in (first, second))
    counts = np.bincount(found.labels.ravel(), minlength=len(found.names))
    both = seen.map("dense_rollout", classes=[first, second], union=True)
    expected = (counts[first] * one + counts[second] * other) / (counts[first] + counts[second])
    np.testing.assert_allclose(flat(both.weights)[0], expected, atol=1e-6)
    assert both.names == (f"{found.names[first]} + {found.names[second]}",)
    again = seen.map("dense_rollout", classes=[first, second, first], union=True)
    assert np.array_equal(again.weights, both.weights), "a class named twice counts once"


def test_absent_class_is_told_and_never_nan() -> None:
    encoder = dense()
    encoder.head.bias[3] = -1e3
    recording = record(encoder, make_photo(150, 90), 96)
    for classes in (["tree"], ["tree", "car"]):
        with pytest.raises(ValueError, match="absent from this picture: tree"):
            recording.map("dense_rollout", classes=classes)
    assert 3 not in segment(recording).found()
    assert np.isfinite(recording.map("dense_rollout", classes=["tree", "car"], union=True).weights).all()
    answer = inspect(recording, "class", Lens(target="tree"))
    assert "absent from this picture: tree" in answer.notes[0] and [r.request.name for r in answer.rows][-2:] == [
        "class_logits",
        "rollout",
    ]


def test_all_classes_cost_one_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    from simpool_viz.maps import make

    recording, walks = record(dense(), make_photo(150, 90), 96), []
    monkeypatch.setattr(make, "roll_out", lambda rows, *a, **k: walks.append(len(rows)) or roll_out(rows, *a, **k))
    everything = segment(recording).found()
    recording.maps(
        [
            ("dense_rollout", {"classes": everything}),
            ("dense_rollout", {"classes": everything, "soft": True}),
            ("rollout", {}),
        ]
    )
    assert walks == [2 * len(everything) + 1]


# --- what is found
# ----------------------------------------------------------------------------------------------------------


def test_segmentation_is_the_best_logit_of_tokens_and_of_upsampled_pixels(seen: Recording) -> None:
    found, scores = segment(seen), scores_of(seen)
    grid = seen.geometry.grid
    assert np.array_equal(found.labels, scores.argmax(1).reshape(grid))
    stacked = torch.from_numpy(scores.T.reshape(-1, *grid))[None]
    enlarged = (
        torch.nn.functional.interpolate(stacked, (90, 150), mode="bilinear", align_corners=False)[0].argmax(0).numpy()
    )
    assert (found.pixels() == enlarged).mean() > 0.999 and found.shares().sum() == pytest.approx(1)
    logits = seen.map("class_logits", classes=found.found()[:2])
    np.testing.assert_allclose(flat(logits.weights), scores[:, found.found()[:2]].T, rtol=1e-4, atol=1e-4)
    assert logits.signed and [c.index for c in classes_found(seen)] == found.found()


def test_classifier_makes_no_segmentation_and_its_class_logits_are_a_heuristic() -> None:
    recording = record(load_checkpoint("resnet_gap", device="cpu"), make_photo(90, 60))
    with pytest.raises(ValueError, match="resnet_gap has no dense head, so it makes no segmentation"):
        segment(recording)
    attention = recording.map("class_logits")
    assert "heuristic" in attention.note
    assert attention.weights.mean() == pytest.approx(float(recording.logits.max()), rel=1e-4), (
        "GAP of logits is the logit of GAP"
    )


def test_board_of_a_dense_checkpoint_tells_what_it_finds() -> None:
    board = make_board([make_photo(150, 90)], [dense()])
    row = board.rows[0]
    assert (
        row.request.name == "dense_rollout"
        and row.lines[0].startswith("finds ")
        and row.lines[0] == segment(record(dense(), make_photo(150, 90))).told
    )
    assert row.prediction is None and "no classifier head" not in " ".join(row.lines)


def test_answer_about_a_class_has_hard_and_soft_maps_logits_and_the_plain_roll_out() -> None:
    recording = record(dense(), make_photo(150, 90))
    one, other = (segment(recording).names[i] for i in segment(recording).found()[:2])
    answer = inspect(recording, "class", Lens(target=one, also=other))
    assert [row.request.label for row in answer.rows] == [
        f"dense_rollout:classes={one}+{other},union=true",
        f"dense_rollout:classes={one}+{other},union=true,soft=true",
        f"class_logits:classes={one}",
        "rollout",
    ]
    assert answer.notes == [] and f"class {one}: " in "\n".join(facts_of(recording).lines)


def test_palette_tells_classes_apart() -> None:
    colours = palette(12).astype(int)
    apart = np.abs(colours[:, None] - colours[None]).sum(2) + 999 * np.eye(12, dtype=int)
    assert apart.min() > 60 and palette(12)[3].tolist() == palette(150)[3].tolist()


def test_figure_shows_every_class_found_in_its_colour() -> None:
    recording = record(dense(), make_photo(150, 90))
    found, figure = segment(recording), np.asarray(draw_segmentation(recording, opacity=1.0))
    colours = palette(len(found.names))
    for index in found.found():
        assert (figure[:, 170:190].reshape(-1, 3) == colours[index]).all(1).any(), "in the legend, right of the photo"
        assert (figure[10:100, 10:160].reshape(-1, 3) == colours[index]).all(1).any(), "and on the photo"


# --- a class that is clicked
# ------------------------------------------------------------------------------------------------


def test_class_that_is_clicked_shows_its_maps(tmp_path: Path) -> None:
    import base64

    encoder, photo = dense(), tmp_path / "scene.png"
    Image.fromarray(make_photo(150, 90)).save(photo)
    page, visit = InspectPage([("Dense", "dense")], lambda name, own: encoder, [("own", 0)], None), Visit()
    state, _, *controls = page.look(str(photo), "dense", 0, "token", None, visit)  # type: ignore[arg-type]
    assert controls[-1]["choices"][0] == ALONE and controls[-1]["visible"]
    payload = segmentation_payload(state.recording, state.lens)
    width, height = payload["size"]
    runs = np.frombuffer(base64.b64decode(payload["runs"]), "<u4").reshape(-1, 2)
    labels = np.repeat(runs[:, 0], runs[:, 1]).reshape(height, width)
    assert np.array_equal(labels, segment(state.recording).pixels((width, height))) and payload["chosen"] is None
    index = payload["classes"][1]["index"]
    answer, question, target, also = page.choose_class(dataclasses.make_dataclass("Event", ["index"])(index), visit)
    assert (question["value"], target["value"], also["value"]) == ("class", index, ALONE[1])
    assert answer.answer.rows[0].attention.names == (NAMES[index],)
    assert segmentation_payload(answer.recording, answer.lens)["chosen"] == index
    together, _ = page.ask("class", 0, "mean", 0, 0, 0.5, index, payload["classes"][0]["index"], visit)
    assert together.answer.rows[0].attention.names == (f"{NAMES[index]} + {payload['classes'][0]['name']}",)


# --- tables
# -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for i in range(4):
        Image.fromarray(make_photo(96, 64, seed=i)).save(folder / "images" / f"{i}.png")
        labels = rng.integers(0, 5, (8, 12)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        labels[:9] = 5  # void
        Image.fromarray(labels).save(folder / "labels" / f"{i}.png")
    return folder


def test_mean_iou_of_scenes_is_that_of_torchmetrics_without_void(scenes: Path) -> None:
    encoder, theirs = dense(), MulticlassJaccardIndex(5, ignore_index=5)
    seen = look_at_scenes(encoder, open_scenes(scenes))
    for image, labels in open_scenes(scenes):
        found = segment(record(encoder, image)).pixels()
        theirs.update(torch.from_numpy(found), torch.from_numpy(np.asarray(Image.open(labels)).astype(np.int64)))
    assert float(mean_ious(seen.pixels.sum(0))) == pytest.approx(float(theirs.compute()), abs=1e-6)


def test_mass_on_a_class_is_counted_on_its_pixels(scenes: Path) -> None:
    encoder, pairs = dense(), open_scenes(scenes)
    seen = look_at_scenes(encoder, pairs)
    recording, labels = record(encoder, pairs[0][0]), np.asarray(Image.open(pairs[0][1])).astype(int)
    for index in segment(recording).found():
        row = recording.map("dense_rollout", classes=[index]).weights[0]
        enlarged = torch.nn.functional.interpolate(
            torch.from_numpy(row)[None, None], (64, 96), mode="bilinear", align_corners=False
        )[0, 0].numpy()
        expected = enlarged[labels == index].sum() / enlarged[labels < 5].sum()
        assert seen.mass["dense_rollout"][0, index] == pytest.approx(expected, rel=1e-4)
    assert seen.area[0].sum() == pytest.approx(1) and np.isnan(seen.mass["rollout"][0]).sum() == 5 - len(
        segment(recording).found()
    )


def test_command_prints_both_tables_and_writes_the_segmentation(
    tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, photo = dense(), str(scenes / "images" / "0.png")
    encoder.facts = dataclasses.replace(encoder.facts, size=64)
    save_bundle(tmp_path / "dense", encoder, dense_spec(), "")
    source = str(tmp_path / "dense")
    assert main(["evaluate", "--scenes", str(scenes), "-c", source, "-c", source]) == 0
    told = capsys.readouterr().out
    assert (
        "| mean IoU (%) |" in told
        and "+0.0 [+0.0, +0.0]" in told
        and "mass of the map on the class's true pixels" in told
    )
    name = segment(record(encoder, photo)).names[segment(record(encoder, photo)).found()[0]]
    assert main(["inspect", photo, "-c", source, "--ask", "class", "--class", name, "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "segmentation.png").is_file() and f"class {name}: " in capsys.readouterr().out
    assert main(["evaluate", "--scenes", str(scenes), "-c", "resnet_gap"]) == 2
    assert "resnet_gap has no dense head" in capsys.readouterr().err
    assert main(["evaluate"]) == 2 and "name a folder of photos with masks" in capsys.readouterr().err

"""The board: every picture with every checkpoint and map, its figures those of the Python calls; and what is told,
skipped or refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simpool_viz import make_board, record
from simpool_viz.board.board import Board, Row, Settings, attention_of, iterate_board, record_each, record_rows
from simpool_viz.images import read_picture
from simpool_viz.maps import make
from simpool_viz.maps.registry import resolve_map
from simpool_viz.maps.request import MapRequest, parse_map
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.localization import score_map
from simpool_viz.scores.references import read_reference
from simpool_viz.timing import Profile
from tests.helpers import make_photo, small_resnet


@pytest.fixture(scope="module")
def board(photos: dict[str, Path], resnet: Encoder, resnet_gap: Encoder) -> Board:
    references = {1: read_reference(photos["tall mask"])}
    return make_board(
        [photos["wide"], photos["tall"]],
        [resnet, resnet_gap],
        ["pooling", "contribution:classes=square"],
        None,
        references,
    )


def test_rows_go_by_picture_checkpoint_and_map(board: Board) -> None:
    assert [(r.picture, r.checkpoint, r.request.label) for r in board.rows] == [
        (p, *row)
        for p in (0, 1)
        for row in [
            ("small_simpool", "pooling"),
            ("small_simpool", "contribution:classes=square"),
            ("small_gap", "contribution:classes=square"),
        ]
    ]
    assert [p.name for p in board.pictures] == ["wide.png", "tall.png"]


def test_what_a_checkpoint_cannot_have_is_told_once(board: Board) -> None:
    (sentence,) = board.skipped
    assert (
        sentence.startswith("small gap has no Pooling attention map: ")
        and "'contribution' shows" in sentence
        and sentence[-1] == "."
    )


def test_every_figure_of_a_row_is_that_of_the_python_calls(
    board: Board, photos: dict[str, Path], resnet: Encoder, resnet_gap: Encoder
) -> None:
    encoders = {e.facts.name: e for e in (resnet, resnet_gap)}
    for row in board.rows:
        recording = record(encoders[row.checkpoint], photos[("wide", "tall")[row.picture]])
        attention = recording.map(row.request.name, **row.request.options)
        mask = attention.mask()
        assert np.array_equal(row.attention.weights, attention.weights) and row.attention.names == attention.names
        assert (
            np.array_equal(row.mask.grid, mask.grid) and row.mask.boxes == mask.boxes and row.mask.level == mask.level
        )
        assert (row.entropy, row.entropy_of) == attention.entropy()
        assert row.prediction == recording.top_classes(1)[0][1:]
        assert row.input_size == recording.geometry.input_size and min(row.milliseconds) > 0
        assert row.attention.geometry.grid in ((8, 12), (12, 8))


def test_scores_stand_where_a_reference_is_given_and_only_there(board: Board, photos: dict[str, Path]) -> None:
    for row in board.rows:
        assert row.scores == (score_map(row.mask, read_reference(photos["tall mask"])) if row.picture == 1 else {})


def test_settings_reach_every_row(photos: dict[str, Path], vit: Encoder) -> None:
    settings = Settings(size=96, mask="area:0.2", largest=True, fusion="max")
    (row,) = make_board([photos["wide"]], [vit], ["cls"], settings).rows
    attention = record(vit, photos["wide"], 96).map("cls")
    assert row.input_size == (144, 96) and row.attention.weights.shape == (3, 6, 9)
    wanted = attention.mask("area", 0.2, largest=True, fusion="max")
    assert np.array_equal(row.mask.weights, attention.weights.max(axis=0)) and np.array_equal(
        row.mask.grid, wanted.grid
    )
    assert (
        row.mask.components == 1
        and "3 maps (head 0, ...) fused by max" in row.lines
        and row.title.endswith(": CLS attention")
    )
    (one,) = make_board([photos["wide"]], [vit], ["cls"], Settings(size=96, fusion=-1)).rows
    assert "head 2, one of 3 maps" in one.lines and one.title.endswith(": CLS attention (head 2)")
    (mean,) = make_board([photos["wide"]], [vit], ["cls"], Settings(size=96)).rows
    assert not np.array_equal(mean.mask.weights, row.mask.weights)


def test_pictures_come_as_paths_pil_images_arrays_and_pictures(photos: dict[str, Path], resnet: Encoder) -> None:
    image = Image.open(photos["wide"])
    rows = make_board(
        [photos["wide"], str(photos["wide"]), image, np.asarray(image), read_picture(image)], [resnet], ["pooling"]
    ).rows
    assert len(rows) == 5 and all(np.array_equal(r.attention.weights, rows[0].attention.weights) for r in rows)


def test_board_grows_with_every_checkpoint_that_has_looked(
    photos: dict[str, Path], resnet: Encoder, resnet_gap: Encoder
) -> None:
    pictures = [read_picture(photos["wide"]), read_picture(photos["tall"])]
    boards = list(
        iterate_board(pictures, [resnet, resnet_gap], [MapRequest("pooling"), MapRequest("contribution")], Settings())
    )
    assert [len(b.rows) for b in boards] == [2, 3, 5, 6]
    assert [len(b.skipped) for b in boards] == [0, 1, 1, 1]
    assert boards[0].rows == boards[-1].rows[:2], "an earlier board is not changed by a later one"


def test_one_recording_serves_every_map(photos: dict[str, Path], resnet: Encoder) -> None:
    recording = record(resnet, photos["wide"])
    rows, skipped = record_rows(recording, [MapRequest("pooling"), MapRequest("cls")], Settings(), None, 3)
    assert [r.picture for r in rows] == [3] and len(skipped) == 1
    assert np.array_equal(rows[0].attention.weights, recording.map("pooling").weights)


@pytest.mark.parametrize(("probability", "marked"), [(0.2, True), (0.499, True), (0.5, False), (0.97, False)])
def test_caption_marks_a_best_class_that_is_more_likely_wrong_than_right(
    board: Board, probability: float, marked: bool
) -> None:
    row = dataclasses.replace(board.rows[3], prediction=("bus", probability))
    assert (f"predicts bus, {100 * probability:.0f} %, improbable" in row.fixed_lines) == marked
    assert row.fixed_lines[0].startswith(f"predicts bus, {100 * probability:.0f} %")


def test_caption_tells_prediction_mask_entropy_grid_and_scores(board: Board) -> None:
    row = board.rows[3]
    assert row.title == "small simpool: Pooling attention"
    text = "\n".join(row.lines)
    name, probability = row.prediction or ("", 0)
    mask = f"mask: {100 * row.mask.coverage:.0f} % of the picture"
    for part in (f"predicts {name}, {100 * probability:.0f} %", mask, "nats of logits", "grid 8 x 12"):
        assert part in text
    assert f"IoU {row.scores['iou']:.2f}" in text and "IoU" not in "\n".join(board.rows[0].lines)
    assert board.rows[1].title == "small simpool: Contribution (class square)" and "square" in "\n".join(
        board.rows[1].lines
    )


def changed(row: Row, weights: np.ndarray) -> Row:
    attention = dataclasses.replace(row.attention, weights=weights.astype(np.float32)[None])
    return dataclasses.replace(row, attention=attention, mask=attention.mask("mass", 0.6))


def test_caption_of_a_constant_map_says_that_the_mask_is_the_whole_picture(board: Board) -> None:
    row = changed(board.rows[0], np.full((8, 12), 1 / 96))
    assert "constant" in row.mask_line and "whole picture" in row.mask_line
    peak = np.zeros((8, 12))
    peak[3, 4] = 1
    assert changed(board.rows[0], peak).mask_line == "mask: 1 % of the picture, 1 component"


def test_caption_of_a_checkpoint_without_a_head_and_of_fused_heads(photos: dict[str, Path], vit: Encoder) -> None:
    head, vit.head = vit.head, None
    try:
        (row,) = make_board([photos["wide"]], [vit], ["cls:block=0"]).rows
    finally:
        vit.head = head
    assert row.prediction is None and "no classifier head" in row.lines[0]
    assert "3 maps (head 0, ...) fused" in row.lines and row.title == "vit_tiny_patch16_224: CLS attention (block 0)"


def test_board_of_nothing_is_refused(resnet: Encoder) -> None:
    for images, encoders in (([], [resnet]), ([make_photo()], [])):
        with pytest.raises(ValueError, match="at least one picture and one checkpoint"):
            make_board(images, encoders, ["pooling"])


def test_board_without_maps_shows_each_checkpoints_own(resnet: Encoder, resnet_gap: Encoder, vit: Encoder) -> None:
    board = make_board([make_photo()], [resnet, resnet_gap, vit], settings=Settings(size=64))
    assert [row.request.name for row in board.rows] == ["pooling", "contribution", "cls"] and board.skipped == []
    headless = small_resnet("gap")
    headless.head = None
    with pytest.raises(ValueError, match="neither pooling attention, CLS attention nor contribution; name a map"):
        make_board([make_photo()], [headless])


def test_unknown_map_option_rule_and_reference_are_refused_in_a_sentence(
    resnet: Encoder, photos: dict[str, Path]
) -> None:
    def board(maps: str = "pooling", references: Any = None, **settings: Any) -> None:
        make_board([make_photo()], [resnet], [maps], Settings(**settings), references)

    with pytest.raises(
        ValueError, match=r"small_simpool has no map 'saliency'; its maps are pooling, class_logits, contribution"
    ):
        board("saliency")
    with pytest.raises(ValueError, match=r"map 'pooling': .*'block'"):
        board("pooling:block=1")
    with pytest.raises(ValueError, match="no class 'hexagon'"):
        board("contribution:classes=hexagon")
    with pytest.raises(ValueError, match="no mask rule is called 'median'"):
        board(mask="median")
    with pytest.raises(ValueError, match="must be positive"):
        board(size=-1)
    with pytest.raises(ValueError, match=r"'median' is no fusion \(mean, max, min\)"):
        board(fusion="median")
    with pytest.raises(ValueError, match=r"references \[1\] are indices of pictures, of which there are 1"):
        board(references={1: read_reference(photos["wide mask"])})


def test_board_without_any_row_says_why(resnet: Encoder, resnet_gap: Encoder) -> None:
    with pytest.raises(ValueError, match=r"none of these checkpoints has any of these maps\. .*its backbone is a CNN"):
        make_board([make_photo()], [resnet, resnet_gap], ["cls"])


def test_roll_outs_of_one_request_share_one_walk_and_change_nothing(
    vit: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = record(vit, make_photo(), size=128)
    center = {"at": (40.0, 30.0), "rollout": True}
    requests = [
        ("rollout", {}),
        ("cls", {}),
        ("dense_rollout", {"soft": True}),
        ("token", center),
        ("rollout", {"first": 1}),
    ]
    alone = [recording.map(name, **options) for name, options in requests]
    walks = []
    original = make.roll_out
    monkeypatch.setattr(make, "roll_out", lambda w, *args, **kw: walks.append(len(w)) or original(w, *args, **kw))
    together = recording.maps(requests)
    assert sorted(walks) == [1, 3]
    for one, other in zip(alone, together, strict=True):
        assert one.names == other.names and one.note == other.note
        np.testing.assert_allclose(one.weights, other.weights, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("maps", "kept", "means"),
    [
        (["cls"], {1}, set()),
        (["cls", "rollout:residual=measured"], {1}, {0, 1}),
        (["cls:block=-2"], {0}, set()),
        (["contribution"], set(), set()),
        (["rollout:first=1", "cls"], {1}, {1}),
        (["rollout:fusion=max"], {0, 1}, set()),
        (["rollout:discard=0.5"], {0, 1}, set()),
        (["token"], {1}, set()),
        (["token:rollout=true"], set(), {0, 1}),
        (["token:rollout=true,fusion=min", "rollout"], {0, 1}, {0, 1}),
        (["dense_rollout:soft=true"], set(), {0, 1}),
        (["lost:seed=rollout"], {0, 1}, set()),
        (["relevance"], set(), set()),
        ([], {1}, set()),
        (["cls:block=7"], set(), set()),
    ],
)
def test_blocks_that_no_requested_map_needs_are_not_kept(
    vit: Encoder, maps: list[str], kept: set[int], means: set[int]
) -> None:
    requests = [parse_map(text) for text in maps]
    keep = attention_of([vit], requests)
    assert (keep.blocks, keep.means) == (kept, means)
    assert keep.skip_shares == any("measured" in text for text in maps)
    (recording,) = record_each([vit], read_picture(make_photo()), 64, requests)
    assert set(recording.blocks.kept) == kept and set(recording.blocks.means) == means - kept
    seen = [*(recording.blocks[i] for i in kept), *recording.blocks.means.values()]
    assert all((one.skip_share is not None) == keep.skip_shares for one in seen)
    if maps != ["cls:block=7"]:
        rows, _ = record_rows(recording, requests, Settings())
        whole, _ = record_rows(record(vit, make_photo(), size=64), requests, Settings())
        for one, other in zip(rows, whole, strict=True):
            same = np.testing.assert_allclose if means else np.testing.assert_array_equal
            same(one.attention.weights, other.attention.weights, **({"rtol": 1e-5} if means else {}))
    else:
        with pytest.raises(ValueError, match="has blocks 0 to 1"):
            record_rows(recording, requests, Settings())


def test_profile_counts_every_part_of_a_board(vit: Encoder) -> None:
    profile = Profile()
    *_, board = iterate_board(
        [read_picture(make_photo())], [vit], [parse_map("cls")], Settings(size=64), profile=profile
    )
    assert {name for name, seconds in profile.seconds.items() if seconds > 0} == {
        "preprocess",
        "forward",
        "maps",
        "masks",
        "scores",
    }
    forward, own = board.rows[0].milliseconds
    assert 0 < forward <= 1000 * profile.seconds["forward"] and 0 < own <= 1000 * profile.seconds["maps"]
    told = profile.lines()
    assert told[0].startswith("read") and told[-1].startswith("together") and len(told) == 11


def test_own_is_the_map_that_shows_how_each_one_pools_and_stands_once(
    photos: dict[str, Path], resnet: Encoder, resnet_gap: Encoder, vit: Encoder
) -> None:
    encoders = [resnet, resnet_gap, vit]
    own = make_board([photos["wide"]], encoders, ["own"], Settings(size=64))
    plain = make_board([photos["wide"]], encoders, [], Settings(size=64))
    assert [row.request.name for row in own.rows] == ["pooling", "contribution", "cls"]
    assert [row.title for row in own.rows] == [row.title for row in plain.rows]
    both = make_board([photos["wide"]], encoders, ["own", "pooling"], Settings(size=64))
    assert [row.request.name for row in both.rows] == ["pooling", "contribution", "cls"], "the attention stands once"
    assert resolve_map(resnet_gap, "own")[0].name == "contribution"

"""Dense checkpoints: what they find, the properties of Dense Attention Roll-Out on them, their tables, and a class that
is clicked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simpool_viz import load_checkpoint, make_board, record
from simpool_viz.board.inspection import Lens, classes_found, facts_of, inspect
from simpool_viz.board.segmentation import segment
from simpool_viz.drawing.pixels import palette
from simpool_viz.recording import Recording
from tests.helpers import dense, flat_rows, make_photo, token_scores


def test_segmentation_is_the_best_logit_of_tokens_and_of_upsampled_pixels(dense_recording: Recording) -> None:
    found, scores = segment(dense_recording), token_scores(dense_recording)
    grid = dense_recording.geometry.grid
    assert np.array_equal(found.labels, scores.argmax(1).reshape(grid))
    stacked = torch.from_numpy(scores.T.reshape(-1, *grid))[None]
    enlarged = (
        torch.nn.functional.interpolate(stacked, (90, 150), mode="bilinear", align_corners=False)[0].argmax(0).numpy()
    )
    assert (found.pixels() == enlarged).mean() > 0.999 and found.shares().sum() == pytest.approx(1)
    logits = dense_recording.map("class_logits", classes=found.found()[:2])
    np.testing.assert_allclose(flat_rows(logits.weights), scores[:, found.found()[:2]].T, rtol=1e-4, atol=1e-4)
    assert logits.signed and [c.index for c in classes_found(dense_recording)] == found.found()


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
        and row.lines[0] == segment(record(dense(), make_photo(150, 90))).summary
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

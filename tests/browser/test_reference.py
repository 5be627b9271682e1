"""A reference that a visitor uploads, paints or draws: every row's scores are Python's, also while a slider moves,
without a request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

import simpool_viz.app.board
from simpool_viz.board.board import Board
from simpool_viz.bundled import bundled_folder
from simpool_viz.images import read_picture
from simpool_viz.mask_files import polygons, run_lengths
from simpool_viz.masks import DEFAULT_CUT
from simpool_viz.refinement import refine
from simpool_viz.scores.localization import score_baselines, score_map
from simpool_viz.scores.references import Reference, read_reference
from tests.browser.conftest import EXAMPLE, Opened, settle

pytestmark = pytest.mark.browser
NAMES = ("iou", "iou_at_true_area", "iou_at_best_threshold", "pointing", "energy")
BOARD = "document.querySelector('.simpool-board').parentElement"


def shown_scores(page: Page) -> list[dict[str, Any]]:
    return page.evaluate(f"{BOARD}.readScores()")


def shown_reference(page: Page) -> tuple[str, Reference]:
    """Where the reference of the first photo is from, and what it is."""
    page.wait_for_function(f"{BOARD}.readReference(0)")
    found = page.evaluate(f"{BOARD}.readReference(0)")
    kinds = np.frombuffer(found["kinds"].encode(), np.uint8).reshape(found["height"], found["width"]) - ord("0")
    return found["origin"], Reference(kinds == 1, kinds == 2)


def wait_for_origin(page: Page, origin: str) -> Reference:
    page.wait_for_function(f"(o) => {BOARD}.readReference(0)?.origin === o", arg=origin)
    return shown_reference(page)[1]


def expect_scores(page: Page, board: Board, reference: Reference, **cut: Any) -> None:
    for row, shown in zip(board.rows, shown_scores(page), strict=True):
        expected = score_map(row.attention.mask(**cut), reference)
        assert {name: shown[name] for name in NAMES} == pytest.approx(
            {name: expected[name] for name in NAMES}, abs=1e-9
        )


def open_panel(page: Page, tab: str = "Mask file") -> None:
    page.get_by_role("button", name="Where the object is: scores").click()
    page.get_by_role("tab", name=tab, exact=True).click()


def paint(page: Page, strokes: list[tuple[tuple[float, float], tuple[float, float]]]) -> None:
    """Strokes of the brush, from and to shares of the canvas."""
    canvas = page.locator("#painting canvas").first
    expect(canvas).to_be_visible(timeout=20_000)
    page.wait_for_timeout(1500)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box
    for (x0, y0), (x1, y1) in strokes:
        page.mouse.move(box["x"] + x0 * box["width"], box["y"] + y0 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + x1 * box["width"], box["y"] + y1 * box["height"], steps=8)
        page.mouse.up()
        page.wait_for_timeout(200)


def test_the_examples_own_mask_scores_every_row_at_first_sight(opened: Opened, python_board: Board):
    page, log = opened
    origin, reference = shown_reference(page)
    assert origin == "the example's mask"
    truth = read_reference(bundled_folder("assets") / "masks" / "chelsea.png")
    assert np.array_equal(reference.objects, truth.objects)
    expect_scores(page, python_board, reference)
    first = shown_scores(page)[0]
    expect(page.locator(".simpool-board .row .scores").first).to_contain_text(f"IoU {first['iou']:.2f} of the mask")
    assert log.complaints == []


def test_a_painting_scores_the_rows_and_follows_the_amount_without_a_request(opened: Opened, python_board: Board):
    page, log = opened
    open_panel(page, "Paint")
    paint(page, [((0.35, 0.4), (0.65, 0.4)), ((0.35, 0.45), (0.65, 0.45)), ((0.4, 0.55), (0.6, 0.55))])
    page.get_by_role("button", name="Use the painting").click()
    reference = wait_for_origin(page, "the painting")
    assert reference.size == (451, 300) and 0.005 < reference.objects.mean() < 0.5
    ys, xs = np.nonzero(reference.objects)
    assert 0.25 < xs.mean() / 451 < 0.75 and 0.25 < ys.mean() / 300 < 0.75, "where it was painted"
    expect_scores(page, python_board, reference)
    asked = settle(page, log)
    seen = set()
    for amount in (0.2, 0.45, 0.6, 0.8, 0.95):
        page.locator("#amount input[type=range]").fill(str(amount))
        rule = DEFAULT_CUT.rule if DEFAULT_CUT.amount is not None else "mass"
        cut = {"smoothing": DEFAULT_CUT.smoothing, "smooth": DEFAULT_CUT.smooth, "largest": DEFAULT_CUT.largest}
        expect_scores(page, python_board, reference, rule=rule, amount=amount, **cut)
        iou = shown_scores(page)[0]["iou"]
        expect(page.locator(".simpool-board .row .scores").first).to_contain_text(f"IoU {iou:.2f} of the mask")
        seen.add(round(iou, 6))
    page.wait_for_timeout(700)
    assert log.requests[asked:] == [] and len(seen) > 2 and log.complaints == []


def test_a_painting_takes_the_whole_window_and_gives_it_back(opened: Opened):
    page, log = opened
    open_panel(page, "Paint")
    canvas = page.locator("#painting canvas").first
    expect(canvas).to_be_visible(timeout=20_000)
    small, window = canvas.bounding_box(), page.viewport_size
    page.get_by_role("button", name="Paint on the whole window").click()
    expect(page.get_by_role("button", name="Back to the page")).to_be_visible()
    page.wait_for_timeout(1000)
    large, panel = canvas.bounding_box(), page.locator("#paint-panel").bounding_box()
    assert small and large and panel and window and large["width"] > 2 * small["width"]
    assert panel["x"] >= 0 and panel["x"] + panel["width"] <= window["width"]
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Paint on the whole window")).to_be_visible()
    page.get_by_role("button", name="Paint on the whole window").click()
    paint(page, [((0.4, 0.4), (0.6, 0.4)), ((0.4, 0.5), (0.6, 0.5))])
    page.get_by_role("button", name="Use the painting").click()
    _, reference = wait_for_origin(page, "the painting"), shown_reference(page)[1]
    ys, xs = np.nonzero(reference.objects)
    assert 0.3 < xs.mean() / 451 < 0.7 and 0.25 < ys.mean() / 300 < 0.7, "where it was painted"
    expect(page.get_by_role("button", name="Paint on the whole window")).to_be_visible()
    assert log.complaints == []


def test_a_mask_file_is_read_by_the_one_reader_and_comes_back_with_its_photo(
    opened: Opened, python_board: Board, tmp_path: Path
):
    page, log = opened
    trimap = np.full((300, 451), 2, np.uint8)
    trimap[60:200, 120:330] = 1
    trimap[190:200, 120:330] = 3
    Image.fromarray(trimap).save(tmp_path / "trimap.png")
    open_panel(page)
    page.locator("#mask-file input[type=file]").set_input_files(str(tmp_path / "trimap.png"))
    expect(page.get_by_text("leaves no background").first).to_be_visible()
    assert str(tmp_path) not in page.content() and "/tmp/" not in page.locator(".toast-wrap, body").first.inner_text()
    page.get_by_label("Labels that are objects").fill("1")
    page.get_by_label("Labels that are objects").press("Enter")
    reference = wait_for_origin(page, "the mask trimap.png")
    assert np.array_equal(reference.objects, trimap == 1)
    expect_scores(page, python_board, reference)
    # Another photo has no reference; the first one's is there when it comes back.
    page.locator("#examples button").nth((names().index("chelsea.jpg") + 1) % len(names())).click()
    expect(page.locator(".simpool-board .photo figcaption")).not_to_have_text("chelsea.jpg", timeout=60_000)
    page.locator("#examples button").nth(names().index("chelsea.jpg")).click()
    expect(page.locator(".simpool-board .photo figcaption")).to_have_text("chelsea.jpg", timeout=60_000)
    expect(page.locator(".simpool-board .waiting")).to_have_count(0, timeout=60_000)
    assert np.array_equal(wait_for_origin(page, "the mask trimap.png").objects, trimap == 1)
    page.get_by_role("button", name="Remove", exact=True).click()
    wait_for_origin(page, "the example's mask")
    assert [text for text in log.complaints if "Failed to load resource" not in text] == []


def names() -> list[str]:
    return sorted(path.name for path in bundled_folder("assets").glob("*.jpg"))


def test_a_box_is_drawn_on_the_photo_or_typed(opened: Opened, python_board: Board):
    page, log = opened
    page.get_by_role("button", name="Mark the object with a box").click()
    frame = page.locator(".simpool-board .photo .frame").first
    box = frame.bounding_box()
    assert box
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.8 * box["height"], steps=6)
    page.mouse.up()
    reference = wait_for_origin(page, "the box")
    ys, xs = np.nonzero(reference.objects)
    assert (xs.min() / 451, ys.min() / 300) == pytest.approx((0.25, 0.2), abs=0.02)
    assert ((xs.max() + 1) / 451, (ys.max() + 1) / 300) == pytest.approx((0.75, 0.8), abs=0.02)
    expect_scores(page, python_board, reference)
    open_panel(page, "Box")
    page.get_by_label("Box in pixels of the photo").fill("10, 20, 110, 220")
    page.get_by_label("Box in pixels of the photo").press("Enter")
    page.wait_for_function(f"{BOARD}.readReference(0).kinds.indexOf('1') === 20 * 451 + 10")
    objects = shown_reference(page)[1].objects
    assert objects[20:220, 10:110].all() and objects.sum() == 200 * 100
    page.get_by_label("Box in pixels of the photo").fill("10, 20, 110")
    page.get_by_label("Box in pixels of the photo").press("Enter")
    expect(page.get_by_text("A box is x0, y0, x1, y1 in pixels").first).to_be_visible()
    assert log.complaints == []


def test_baselines_stand_as_rows_with_pythons_figures(opened: Opened, python_board: Board):
    page, _ = opened
    _, reference = shown_reference(page)
    open_panel(page)
    page.get_by_label("Baselines as rows").check()
    rows = page.locator(".simpool-board .row")
    expect(rows).to_have_count(len(python_board.rows) + 2)
    for title, scores in score_baselines(reference).items():
        row = rows.filter(has_text=title.capitalize())
        expect(row.locator(".scores")).to_contain_text(f"IoU {scores['iou']:.2f} of the mask")
        expect(row.locator(".scores")).to_contain_text(f"{scores['iou_at_true_area']:.2f} at true area")
    page.get_by_label("Baselines as rows").uncheck()
    expect(rows).to_have_count(len(python_board.rows))


def test_insertion_and_deletion_come_on_request_as_a_plot_with_their_areas(opened: Opened, python_board: Board):
    from simpool_viz import load_checkpoint, record
    from simpool_viz.scores.faithfulness import faithfulness

    page, log = opened
    row = page.locator(".simpool-board .row").first
    row.get_by_role("button", name="Insertion and deletion").click()
    expect(row.locator(".plot")).to_contain_text("high is faithful", timeout=60_000)
    first = python_board.rows[0]
    recording = record(load_checkpoint(first.checkpoint, device="cpu"), EXAMPLE)
    curves = faithfulness(recording, recording.map(first.request.name))
    text = row.locator(".plot svg").get_attribute("aria-label") or ""
    assert f"area {curves.areas['deletion']:.2f}" in text and f"({curves.areas['insertion']:.2f}" in text
    assert curves.class_name in text and log.complaints == []


def test_an_enlarged_mask_is_moved_to_the_edges_of_the_photo_and_saved_so(opened: Opened, python_board: Board):
    page, log = opened
    mask = python_board.rows[0].mask.pixels()
    page.locator(".simpool-board .row").first.locator(".enlarge").nth(1).click()
    dialog = page.locator("dialog.large")
    before = dialog.locator("canvas").evaluate("(canvas) => canvas.toDataURL()")
    dialog.get_by_label("Edges").select_option(label="GrabCut")
    expect(dialog.get_by_role("status")).to_contain_text("scores are of the map's own mask", timeout=30_000)
    assert dialog.locator("canvas").evaluate("(canvas) => canvas.toDataURL()") != before
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save mask (0, 255)").click()
    with Image.open(saved.value.path()) as image:
        shown = np.asarray(image.convert("RGB"))[:, :, 0] > 0
    expected = refine(mask, read_picture(EXAMPLE).rgb, "grabcut")  # the page cuts the map at the refinement's size
    close, apart = ((one & expected).sum() / (one | expected).sum() for one in (shown, mask))
    assert close > 0.93 and close > apart
    dialog.get_by_label("Edges").select_option(label="of the map")
    assert dialog.locator("canvas").evaluate("(canvas) => canvas.toDataURL()") == before and log.complaints == []


def test_masks_are_saved_as_python_writes_them(opened: Opened, python_board: Board, tmp_path: Path):
    page, _ = opened
    mask = python_board.rows[0].mask.pixels()
    page.locator(".simpool-board .row").first.locator(".enlarge").nth(1).click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save mask (0, 255)").click()
    with Image.open(saved.value.path()) as image:
        assert np.array_equal(np.asarray(image.convert("RGB"))[:, :, 0], 255 * mask)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save mask (COCO RLE)").click()
    assert json.loads(Path(saved.value.path()).read_text()) == run_lengths(mask)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save mask (COCO polygons)").click()
    assert canonical(json.loads(Path(saved.value.path()).read_text())) == canonical(polygons(mask))


def canonical(outlines: list[list[float]]) -> list[list[tuple[float, float]]]:
    """Outlines from their least corner on, without points on a straight edge: where one begins is not said."""
    found = []
    for outline in outlines:
        points = [*zip(outline[::2], outline[1::2], strict=True)]
        corners = [
            (x, y)
            for (a, b), (x, y), (c, d) in zip(points[-1:] + points, points, points[1:] + points[:1], strict=False)
            if (x - a) * (d - y) != (y - b) * (c - x)
        ]
        start = corners.index(min(corners))
        turned = corners[start:] + corners[:start]
        found.append(min(turned, turned[:1] + turned[:0:-1]))  # nor which way round
    return found


def test_polygons_of_any_mask_are_pythons(opened: Opened):
    page, _ = opened
    board = Path(simpool_viz.app.board.__file__).parent
    scripts = "\n".join((board / f"{name}.js").read_text() for name in ("masks", "mask_files"))
    rng, masks = np.random.default_rng(0), [np.ones((1, 1), bool), np.zeros((3, 2), bool), np.eye(6, dtype=bool)]
    masks += [
        rng.random((height, width)) < share for height, width, share in [(7, 9, 0.5), (1, 12, 0.5), (20, 31, 0.7)] * 8
    ]
    asked = [[mask.astype(int).ravel().tolist(), mask.shape[1], mask.shape[0]] for mask in masks]
    drawn = page.evaluate(f"(asked) => {{ {scripts}\n return asked.map((one) => polygons(...one)); }}", asked)
    for mask, outlines in zip(masks, drawn, strict=True):
        assert canonical(outlines) == canonical(polygons(mask))

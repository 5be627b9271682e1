"""The board seen in other ways: in order, as a matrix, by agreement, two maps against each other, with one cursor for
all cells."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from simpool_viz.board.board import Board
from simpool_viz.board.comparison import agreement, arrange, difference
from simpool_viz.board.explain import explain_row
from simpool_viz.board.ready_made import comparisons
from simpool_viz.maps.scale import scale_of
from tests.browser.conftest import Opened, further_photos, masks, open_page, set_style, settle, until_drawn

pytestmark = pytest.mark.browser


def show(page: Page, view: str) -> None:
    page.locator(".simpool-board .views label").filter(has_text=view).click()


def choose(page: Page, label: str, value: str) -> None:
    page.locator(".simpool-board .choice").filter(has_text=label).locator("select").select_option(value)


def titles(page: Page) -> list[str]:
    return page.locator(".simpool-board .row h2").all_inner_texts()


def point_at(cell: Locator, x: float, y: float) -> None:
    box = cell.bounding_box()
    assert box is not None
    cell.hover(position={"x": x * box["width"], "y": y * box["height"]})


def reading(board: Board, index: int, x: float, y: float) -> str:
    """What row `index` shows at a point, shares of width and height."""
    weights = board.rows[index].mask.weights
    scale = scale_of(weights, board.rows[index].attention.unit)
    row, column = int(y * weights.shape[0]), int(x * weights.shape[1])
    return f"token ({row}, {column}): {float(weights[row, column]) * scale.factor:.3g} {scale.label}"


def told(text: str) -> tuple[str, float]:
    """A reading with its number as a number."""
    place, _, rest = text.partition(": ")
    value, _, unit = rest.partition(" ")
    return f"{place} {unit}", float(value)


def test_rows_are_grouped_and_sorted_as_in_python_without_a_request(opened: Opened, python_board: Board):
    page, log = opened
    asked = settle(page, log)
    for group in ("none", "checkpoint", "map"):
        choose(page, "Group", group)
        for figure in ("", "entropy", "peak", "probability", "coverage", "components"):
            choose(page, "Sort by", figure)
            for order in ("", "lowest"):
                choose(page, "Order", order)
                sort = figure + (":lowest" if figure and order else "")
                assert titles(page) == [row.title for row in arrange(python_board, group, sort).rows], (group, sort)
    assert log.requests[asked:] == [] and log.complaints == []


def test_order_by_a_figure_of_the_mask_follows_the_mask(opened: Opened, python_board: Board):
    page, _ = opened
    choose(page, "Sort by", "coverage")
    for rule, amount in (("mass", 0.6), ("mean", None), ("otsu", None)):
        set_style(page, rule=rule, amount=amount or 0.5)
        shares = {row.title: row.attention.mask(rule, amount).coverage for row in python_board.rows}
        assert titles(page) == sorted(shares, key=lambda title: -shares[title])


def test_one_cursor_reads_the_same_point_in_every_cell(opened: Opened, python_board: Board):
    page, _ = opened
    for x, y in ((0.31, 0.42), (0.8, 0.7)):
        point_at(page.locator(".simpool-board .row canvas").nth(1), x, y)
        readings = [told(text) for text in page.locator(".simpool-board .reading").all_inner_texts()]
        expected = [told(reading(python_board, i, x, y)) for i in range(len(python_board.rows))]
        assert [place for place, _ in readings] == [place for place, _ in expected]
        assert [value for _, value in readings] == pytest.approx([value for _, value in expected], rel=0.01)
    marks = page.locator(".simpool-board .mark:visible")
    expect(marks).to_have_count(1 + 2 * len(python_board.rows))  # the photo, and an overlay and a mask of each row
    page.mouse.move(5, 5)
    expect(marks).to_have_count(0)


def test_arrow_keys_move_the_cursor_by_a_token_and_say_what_is_there(opened: Opened, python_board: Board):
    page, _ = opened
    page.locator(".simpool-board .enlarge").first.focus()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
    h, w = python_board.rows[0].mask.weights.shape
    wanted = reading(python_board, 0, (w // 2 - 2 + 0.5) / w, (h // 2 - 1 + 0.5) / h)
    place, value = told(
        page.locator(".simpool-board .said").inner_text().removeprefix(f"{python_board.rows[0].title}, ")
    )
    assert place == told(wanted)[0] and value == pytest.approx(told(wanted)[1], rel=0.01)


def test_agreement_is_that_of_python_for_the_masks_as_drawn(opened: Opened, python_board: Board):
    page, _ = opened
    show(page, "Agreement")
    for smooth, largest in ((False, False), (True, True)):
        set_style(page, rule="mass", amount=0.8, smooth=smooth, largest=largest)
        drawn = masks(page)[0]
        python = agreement(
            [row.attention.mask("mass", 0.8, largest=largest) for row in python_board.rows],
            smooth,
            (drawn["width"], drawn["height"]),
        )
        shown = np.array([float(text) for text in page.locator(".simpool-board .agreement button").all_inner_texts()])
        assert shown.reshape(python.shape) == pytest.approx(python, abs=0.0051)
    page.locator(".simpool-board .agreement button").nth(2).click()
    names = page.locator(".simpool-board .sides strong")
    expect(names).to_have_text([python_board.rows[0].title, python_board.rows[2].title])


def test_difference_is_that_of_python_and_maps_of_other_units_have_none(opened: Opened, python_board: Board):
    page, log = opened
    show(page, "Two maps")
    for smooth in (False, True):
        set_style(page, smooth=smooth)
        shown = page.evaluate("document.querySelector('.simpool-board').parentElement.readDifference()")
        size = shown["width"], shown["height"]
        python = difference(python_board.rows[0], python_board.rows[2], smooth, size)
        assert np.allclose(np.array(shown["values"]).reshape(python.shape), python, rtol=1e-6, atol=1e-9)
    choose(page, "Right", "1")
    expect(page.locator(".simpool-board .difference")).to_have_text(
        "One map is drawn in logit per token and the other in times uniform, so they have no difference."
    )
    assert log.complaints == []


def test_two_overlays_lie_under_one_slider(opened: Opened):
    page, _ = opened
    show(page, "Two maps")
    slider = page.locator(".simpool-board .swipe input")
    top = page.locator(".simpool-board .stack canvas").nth(1)
    for value in ("20", "95"):
        slider.fill(value)
        assert f"{100 - int(value)}%" in top.evaluate("e => getComputedStyle(e).clipPath")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(slider).to_have_value("94")


def test_photos_and_checkpoints_make_a_matrix(opened: Opened):
    page, log = opened
    page.get_by_text("More photos, for the matrix").click()
    page.locator("#more-photos input[type=file]").set_input_files(further_photos())
    expect(page.locator("#more-photos")).to_contain_text("motorcycle", timeout=30_000)
    page.locator("#run").click()
    expect(page.locator(".simpool-board .matrix canvas")).to_have_count(12, timeout=60_000)
    expect(page.locator(".simpool-board .matrix tr")).to_have_count(5)
    expect(page.locator(".simpool-board .photo figcaption")).to_have_text(
        ["chelsea.jpg", "astronaut.jpg", "coffee.jpg", "motorcycle.jpg"]
    )
    until_drawn(page)
    labels = page.locator(".simpool-board .matrix canvas").evaluate_all(
        "all => all.map((c) => c.getAttribute('aria-label'))"
    )
    assert "the photo motorcycle.jpg, ViT, SimPool" in labels[-1]
    point_at(page.locator(".simpool-board .matrix tr").nth(2).locator("canvas").first, 0.5, 0.5)
    filled = [text != "" for text in page.locator(".simpool-board .matrix .reading").all_inner_texts()]
    assert filled == [False] * 3 + [True] * 3 + [False] * 6, "the cursor is of one photo"
    choose(page, "Cells", "mask")
    assert "Object mask" in (page.locator(".simpool-board .matrix canvas").first.get_attribute("aria-label") or "")
    assert log.complaints == []


def test_ready_made_comparison_chooses_its_checkpoints_and_maps(opened: Opened):
    page, _ = opened
    page.locator("#ready input").click()
    expect(page.get_by_role("option", name="ViT with and without LIFE")).to_have_count(1)
    page.get_by_role("option", name="One frozen ResNet, kinds of mean").click()
    expect(page.get_by_text(comparisons()["frozen_means"].question)).to_be_visible(timeout=30_000)
    page.locator("#run").click()
    expect(page.locator(".simpool-board .row")).to_have_count(5, timeout=60_000)
    assert all("Contribution" in title for title in titles(page))


def test_every_row_explains_its_map_and_its_pooling(opened: Opened, python_board: Board):
    page, _ = opened
    for index, row in enumerate(python_board.rows):
        about = page.locator(".simpool-board .about").nth(index)
        about.locator("summary").click()
        for explanation in explain_row(row):
            for part in (explanation.summary, explanation.formula, explanation.paper):
                expect(about).to_contain_text(part)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_on_a_phone_the_board_is_near_the_top_and_nothing_is_cut(browser: Browser, app_url: str, theme: str):
    page, _ = open_page(browser, f"{app_url}?__theme={theme}", 390, 844)
    expect(page.locator("#photo")).not_to_be_visible()
    box = page.locator(".simpool-board .row").first.bounding_box()
    assert box is not None and box["y"] < 844
    for view in ("Matrix", "Agreement", "Two maps", "Rows"):
        show(page, view)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, view
    page.get_by_text("Photos, checkpoints, maps").click()
    expect(page.locator("#photo")).to_be_visible()
    page.close()
    page, _ = open_page(browser, app_url)
    expect(page.locator("#photo")).to_be_visible()
    page.close()

"""The Inspect page as a visitor meets it: a row opened, tokens clicked, blocks and fusions changed, and two visits
apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from simpool_viz import Recording, load_checkpoint, record
from simpool_viz.board.board import Board
from simpool_viz.bundled import bundled_folder
from simpool_viz.images import Geometry
from tests import made_files as made
from tests.browser.conftest import EXAMPLE, Opened, open_page, settle

pytestmark = pytest.mark.browser
BOARD = "#inspected .simpool-board"


@pytest.fixture(scope="module")
def vit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViT with LIFE, a class token, three heads and four classes."""
    path = tmp_path_factory.mktemp("vit") / "life.pth"
    torch.save(made.vit(192, 3, 4, classes=4, life=True), path)
    return path


@pytest.fixture(scope="module")
def seen(vit_file: Path) -> Recording:
    return record(load_checkpoint(vit_file, device="cpu"), EXAMPLE)


def bring(page: Page, file: Path) -> None:
    """Bring an own checkpoint and look at the photo with it on the Inspect page."""
    page.locator("#own button").first.click()
    page.locator("#own-file input[type=file]").set_input_files(str(file))
    expect(page.locator("#own-file")).to_contain_text(file.stem, timeout=30_000)
    page.locator("#recognise").click()
    page.locator("#use-own").click(timeout=30_000)
    expect(page.locator("#checkpoints .chosen")).to_contain_text(f"{file.stem} (yours)", timeout=30_000)
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_label("Checkpoint", exact=True).click()
    page.get_by_role("option", name=f"{file.stem} (yours)").click(timeout=30_000)
    page.locator("#look").click()
    expect(page.locator(f"{BOARD} .row h2").first).to_contain_text(file.stem, timeout=60_000)
    page.wait_for_selector(f"{BOARD} .ask", timeout=60_000)


def drawn(page: Page) -> list[np.ndarray]:
    """The weights of every row and then of every map behind the first row, as the browser holds them."""
    found = page.evaluate("(b) => document.querySelector(b).parentElement.readWeights()", BOARD)
    return [np.array(row["weights"]) for row in found]


def wait_for(page: Page, weights: np.ndarray, row: int = 0) -> None:
    """Wait until a row shows these weights (to float32), however long the server takes."""
    script = """([board, row, wanted]) => {
        const held = document.querySelector(board).parentElement.readWeights()[row]?.weights;
        return held && held.length === wanted.length &&
            wanted.every((v, i) => Math.abs(v - held[i]) <= 1e-6 + 1e-5 * Math.abs(v));
    }"""
    page.wait_for_function(script, arg=[BOARD, row, weights.astype(float).ravel().tolist()], timeout=30_000)


def click_token(page: Page, row: int, column: int, grid: tuple[int, int]) -> None:
    box = page.locator(f"{BOARD} .ask").bounding_box()
    assert box is not None
    place = {"x": (column + 0.5) / grid[1] * box["width"], "y": (row + 0.5) / grid[0] * box["height"]}
    page.locator(f"{BOARD} .ask").click(position=place)


def centre(geometry: Geometry, row: int, column: int) -> tuple[float, float]:
    """(x, y) of the centre of a token, in pixels of the photo."""
    (width, height), (h, w) = geometry.original, geometry.grid
    return (2 * column + 1) * width / (2 * w), (2 * row + 1) * height / (2 * h)


def test_row_opens_in_inspect_with_its_photo_checkpoint_and_map(opened: Opened, python_board: Board):
    page, log = opened
    index = next(i for i, row in enumerate(python_board.rows) if row.request.name == "pooling")
    page.locator(".simpool-board .look-into").nth(index).click()
    own = python_board.rows[index].title
    rolled_out = f"{own.partition(':')[0]}: Attention Roll-Out"
    expect(page.locator(f"{BOARD} .row h2")).to_have_text([own, rolled_out], timeout=30_000)
    wait_for(page, python_board.rows[index].attention.weights[0])
    expect(page.get_by_role("tab", name="Inspect")).to_have_attribute("aria-selected", "true")
    page.get_by_label("What contributes to a class?").click()
    expect(page.locator(f"{BOARD} .row h2").first).to_contain_text("Contribution", timeout=30_000)
    assert [title.split(" (")[0] for title in page.locator(f"{BOARD} .row h2").all_inner_texts()] == [
        "ViT, SimPool: Contribution",
        "ViT, SimPool: Dense Attention Roll-Out",
        "ViT, SimPool: Grad-CAM",
    ]
    assert log.complaints == []


def test_page_opens_with_an_answer_and_stays_as_it_was_left(opened: Opened, python_board: Board):
    page, log = opened
    page.get_by_role("tab", name="Inspect").click()
    expect(page.locator(f"{BOARD} .row h2").first).to_contain_text("ViT, SimPool", timeout=60_000)
    page.get_by_label("What contributes to a class?").click()
    expect(page.locator(f"{BOARD} .row h2").first).to_contain_text("Contribution", timeout=30_000)
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("tab", name="Inspect").click()
    settle(page, log)
    expect(page.locator(f"{BOARD} .row h2").first).to_contain_text("Contribution")
    assert log.complaints == []


def test_two_clicked_tokens_equal_the_python_call(opened: Opened, vit_file: Path, seen: Recording):
    page, log = opened
    bring(page, vit_file)
    grid = seen.geometry.grid
    for row, column in ((0, 0), (grid[0] - 1, grid[1] - 2)):
        click_token(page, row, column, grid)
        at = centre(seen.geometry, row, column)
        heads = seen.map("token", at=at).weights
        wait_for(page, heads.mean(axis=0))
        wait_for(page, seen.map("token", at=at, rollout=True).weights[0], row=1)
        assert all(
            np.allclose(found, head.ravel(), atol=1e-6) for found, head in zip(drawn(page)[2:], heads, strict=True)
        )
    expect(page.locator(f"{BOARD} .gallery h2")).to_have_text(
        ["1 map, scale 1 x 1", "1 map, scale 3 x 3", "1 map, scale 5 x 5"]
    )
    assert log.complaints == []


def test_block_fusion_head_and_rollout_are_followed(opened: Opened, vit_file: Path, seen: Recording):
    page, _ = opened
    bring(page, vit_file)
    page.get_by_label("What does the class token attend to?").click()
    wait_for(page, seen.map("cls").fused())
    page.locator("#block input[type=range]").fill("0")
    wait_for(page, seen.map("cls", block=0).fused())
    for fusion in ("max", "min"):
        page.locator("#fusion").get_by_label(fusion, exact=True).click()
        wait_for(page, seen.map("cls", block=0).fused(fusion))
        wait_for(page, seen.map("rollout", fusion=fusion).weights[0], row=1)
    page.locator("#fusion").get_by_label("one head").click()
    wait_for(page, seen.map("cls", block=0).weights[0])
    page.locator("#head input[type=range]").fill("2")
    wait_for(page, seen.map("cls", block=0).weights[2])
    page.locator("#first input[type=range]").fill("1")
    wait_for(page, seen.map("rollout", first=1).weights[0], row=1)
    page.locator("#residual input[type=range]").fill("0.2")
    wait_for(page, seen.map("rollout", first=1, residual=0.2).weights[0], row=1)


def test_token_is_asked_from_the_keyboard(opened: Opened, vit_file: Path, seen: Recording):
    page, _ = opened
    bring(page, vit_file)
    page.locator(f"{BOARD} .ask").focus()
    for key in ("ArrowRight", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    h, w = seen.geometry.grid
    wait_for(page, seen.map("token", at=centre(seen.geometry, h // 2 - 2, w // 2 + 1)).fused())
    expect(page.locator(f"{BOARD} .ask")).to_be_focused()


@pytest.fixture
def visitor(browser: Browser, app_url: str) -> Iterator[Page]:
    page, _ = open_page(browser, app_url)
    yield page
    page.close()


def test_two_visitors_see_their_own_photos(opened: Opened, visitor: Page, vit_file: Path, seen: Recording):
    page, _ = opened
    bring(page, vit_file)
    other = bundled_folder("assets") / "coffee.jpg"
    visitor.locator("#examples .thumbnail-item[aria-label='Example photo: coffee']").click()
    expect(visitor.locator("#board .photo figcaption")).to_have_text("coffee.jpg", timeout=30_000)
    visitor.locator("#board .look-into").first.click()
    expect(visitor.locator(f"{BOARD} .photo figcaption")).to_contain_text(["coffee.jpg"], timeout=30_000)
    click_token(page, 1, 1, seen.geometry.grid)
    wait_for(page, seen.map("token", at=centre(seen.geometry, 1, 1)).fused())
    assert page.locator(f"{BOARD} .photo figcaption").first.inner_text() == "chelsea.jpg"
    visitor.get_by_label("What contributes to a class?").click()
    gap = record(load_checkpoint("vit_gap", device="cpu"), other)
    wait_for(visitor, gap.map("contribution").weights[0])
    expect(visitor.locator("body")).not_to_contain_text("(yours)")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_inspect_fits_a_phone(browser: Browser, app_url: str, theme: str):
    page, _ = open_page(browser, f"{app_url}?__theme={theme}", 390, 844)
    page.locator(".simpool-board .look-into").first.click()
    expect(page.locator(f"{BOARD} .row").first).to_be_visible(timeout=30_000)
    expect(page.locator("#question")).not_to_be_visible()
    box = page.locator(BOARD).bounding_box()
    assert box is not None and box["y"] < 600 and page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()

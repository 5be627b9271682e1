"""What stands in an address comes back as it was written, and what is wrong in it is told and left out."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpool_viz.app.address import (
    FIRST_VIEW,
    LONGEST,
    LOOK,
    MOST_BOXES,
    NOT_HELD,
    OPACITIES,
    Choice,
    Link,
    read_address,
)
from simpool_viz.app.board.component import AMOUNTS, FIRST_STYLE, SMOOTHINGS
from simpool_viz.app.compare import ComparePage
from simpool_viz.app.store import EncoderStore
from simpool_viz.board.comparison import ROW_FIGURES
from simpool_viz.drawing.pixels import SEQUENTIAL
from simpool_viz.masks import mask_rules

FIRST = Choice(["cat"], ["a", "b"], ["own"])
PHOTOS, KNOWN, MAPS = ["cat", "dog", "cup"], ["a", "b", "timm:c.d", "x y&z=%"], ["own", "cls", "contribution"]
FIRST_LINK = Link(FIRST, {key: FIRST_STYLE[key] for key in LOOK}, FIRST_VIEW)


def read(query: str) -> Link:
    return read_address(query, FIRST, PHOTOS, KNOWN.__contains__, MAPS, 3)


names = st.sampled_from(KNOWN).flatmap(lambda name: st.sampled_from([name, f"{name}?size=448"]))
choices = st.builds(
    Choice,
    st.lists(st.sampled_from([*PHOTOS, NOT_HELD]), min_size=1, max_size=3, unique=True),
    st.lists(names, min_size=1, unique=True),
    st.lists(st.sampled_from(MAPS), min_size=1, unique=True),
)
styles = st.fixed_dictionaries(
    {
        "rule": st.sampled_from(list(mask_rules())),
        "amount": st.sampled_from(AMOUNTS),
        "opacity": st.sampled_from(OPACITIES),
        "smoothing": st.sampled_from(SMOOTHINGS),
        "colours": st.sampled_from(list(SEQUENTIAL)),
        **dict.fromkeys(("smooth", "shared", "boxes", "largest", "baselines"), st.booleans()),
    }
)
views = st.fixed_dictionaries(
    {
        "view": st.sampled_from(["rows", "matrix", "agreement", "pair"]),
        "group": st.sampled_from(["none", "checkpoint", "map"]),
        "sort": st.sampled_from(list(ROW_FIGURES)),
        "lowest": st.booleans(),
        "cells": st.sampled_from(["overlay", "mask"]),
    }
)


@given(choices, styles, views)
def test_what_is_written_is_what_is_read(choice: Choice, style: dict, view: dict) -> None:
    parts = {
        "photo": choice.photos,
        "model": choice.checkpoints,
        "map": choice.maps,
        "__theme": "dark",
        **style,
        **view,
    }
    flags = {key: int(value) if isinstance(value, bool) else value for key, value in parts.items()}
    assert read("?" + urlencode(flags, doseq=True)) == Link(choice, style, view)


sides = st.tuples(*[st.integers(0, 4000).map(float)] * 4)


@given(
    choices.flatmap(
        lambda choice: st.tuples(
            st.just(choice),
            st.lists(
                st.tuples(
                    st.integers(0, len(choice.photos) - 1),
                    st.integers(0, 999_999),
                    st.sampled_from(choice.checkpoints),
                    st.sampled_from(choice.maps),
                ),
                max_size=5,
                unique=True,
            ),
            st.dictionaries(
                st.integers(0, len(choice.photos) - 1), st.lists(sides, min_size=1, max_size=3, unique=True)
            ),
        )
    )
)
def test_classes_of_rows_and_boxes_on_photos_come_back(written: tuple[Choice, list, dict]) -> None:
    choice, classes, boxes = written
    parts = {
        "photo": choice.photos,
        "model": choice.checkpoints,
        "map": choice.maps,
        "class": [",".join(map(str, one)) for one in classes],
        "box": [",".join(map(str, (place, *box))) for place, own in boxes.items() for box in own],
    }
    link = read(urlencode(parts, doseq=True))
    assert (link.choice, link.classes, link.boxes, link.notes) == (choice, classes, boxes, [])


@pytest.mark.parametrize(
    "query",
    [
        "class=0,5,a",  # no map
        "class=1,5,a,own",  # one photo is chosen
        "class=0,-5,a,own",
        "class=0,٣,a,own",
        "class=0,5000000,a,own",
        "class=0,5,c,own",  # a checkpoint that is not chosen
        "class=0,5,a,cls",
        "class=",
        "box=0,1,2,3",
        "box=0,1,2,3,nan",
        "box=0,1,2,3,1e999",
        "box=3,1,2,3,4",
        "box=0,1,2,3,4,5",
        "box=x",
    ],
)
def test_rows_and_boxes_that_the_board_has_not_are_told_and_left_out(query: str) -> None:
    link = read(query)
    assert link.classes == [] and link.boxes == {} and link.choice == FIRST
    assert link.notes == [
        f"The link's {query.partition('=')[0]} {query.partition('=')[2]!r} is of no row or photo of its board; it was "
        "left out."
    ]


def test_a_link_holds_so_many_rows_and_boxes_and_asks_for_what_it_cannot_hold() -> None:
    link = read(urlencode({"box": [f"0,1,2,3,{n}" for n in range(4, 104)]}, doseq=True))
    assert len(link.boxes[0]) == MOST_BOXES and link.notes == [
        "The link names 100 times a box; the first 64 were read."
    ]
    (note,) = read("mask=own").notes
    assert "scored against a painting or a mask file" in note and "'Where the object is'" in note
    assert read("mask=x").notes == []


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["photo", "model", "map", "class", "box", "mask", *LOOK, *FIRST_VIEW, "else"]),
            st.text(max_size=60),
        )
    )
)
def test_any_text_leaves_a_page_that_can_be_drawn(pairs: list[tuple[str, str]]) -> None:
    link = read(urlencode(pairs, errors="surrogatepass"))
    assert set(link.style) == set(LOOK) and set(link.view) == set(FIRST_VIEW)
    assert link.style["rule"] in mask_rules() and link.style["amount"] in AMOUNTS
    assert link.style["smoothing"] in SMOOTHINGS and 0 <= link.style["opacity"] <= 1
    assert set(link.choice.photos) <= {*PHOTOS, NOT_HELD} and set(link.choice.maps) <= set(MAPS)
    assert link.choice.photos and link.choice.checkpoints and link.choice.maps


@pytest.mark.parametrize(
    ("query", "note"),
    [
        ("photo=wolf", "The link's photo 'wolf' is not here."),
        (
            "model=mine.pth",
            "The link's checkpoint 'mine.pth' is not here; one of your own is added under 'Your own checkpoint'.",
        ),
        ("map=aura", "The link's map 'aura' is not here."),
        ("amount=2", "The link's amount is '2', which the page does not know; it was left as it is."),
        ("amount=nan", "The link's amount is 'nan', which the page does not know; it was left as it is."),
        ("smooth=yes", "The link's smooth is 'yes', which the page does not know; it was left as it is."),
        (
            "view=" + "x" * 60,
            f"The link's view is '{'x' * 37}...', which the page does not know; it was left as it is.",
        ),
        ("map=cls&" * LONGEST, f"The link has more than {LONGEST:,} characters, so nothing of it was read."),
    ],
)
def test_what_is_wrong_is_told_and_left_as_it_was(query: str, note: str) -> None:
    assert read(query) == Link(FIRST, FIRST_LINK.style, FIRST_LINK.view, notes=[note])


def test_a_checkpoint_of_a_size_out_of_range_and_a_photo_too_many_are_left_out() -> None:
    link = read("model=a?size=448&model=b?size=1e9&photo=cat&photo=dog&photo=cup&photo=own")
    assert link.choice.checkpoints == ["a?size=448"] and link.choice.photos == PHOTOS
    assert len(link.notes) == 2


def test_a_link_with_a_photo_of_ones_own_asks_for_it_and_keeps_the_rest() -> None:
    page = ComparePage(EncoderStore("cpu"))
    photo, more, checkpoints, maps, *_, told = page.open_link("?photo=own&photo=coffee&model=resnet_gap&smoothing=1")
    assert photo is None and [Path(file).stem for file in more] == ["coffee"]
    assert checkpoints == ["resnet_gap"] and maps == page._first_maps()
    assert told["style"]["smoothing"] == 1 and not told["run"]
    assert told["notes"] == ["The link was made with a photo of one's own: choose yours, and the board is drawn."]


def test_a_link_that_changes_the_drawing_alone_runs_nothing() -> None:
    page = ComparePage(EncoderStore("cpu"))
    assert not page.open_link("?smooth=0")[-1]["run"]
    assert page.open_link("?model=resnet_gap")[-1]["run"]

"""Requests of maps: read from text, and written back."""

from __future__ import annotations

from typing import Any

import pytest

from simpool_viz.maps.request import MapRequest, parse_map


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("cls", "cls", {}),
        ("cls:", "cls", {}),
        ("cls:block=-2", "cls", {"block": -2}),
        ("token:at=120x80", "token", {"at": (120.0, 80.0)}),
        ("token:at=1.5x80,block=0,rollout=TRUE", "token", {"at": (1.5, 80.0), "block": 0, "rollout": True}),
        ("rollout:residual=0.3,fusion=max", "rollout", {"residual": 0.3, "fusion": "max"}),
        (
            "dense_rollout:classes=tench+gas pump,soft=true",
            "dense_rollout",
            {"classes": ["tench", "gas pump"], "soft": True},
        ),
        ("contribution:classes=7", "contribution", {"classes": ["7"]}),
    ],
)
def test_map_is_read_from_text_and_its_label_reads_back(text: str, name: str, options: dict[str, Any]) -> None:
    request = parse_map(text)
    assert request == MapRequest(name, options)
    assert {k: type(v) for k, v in request.options.items()} == {k: type(v) for k, v in options.items()}
    assert parse_map(request.label) == request


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cls:block", "options are written key=value"),
        ("cls:block=1,2", "options are written key=value"),
        ("token:at=120", "a point is written at=XxY in pixels of the picture, such as at=120x80, not at=120"),
        ("token:at=axb", "not at=axb"),
        ("token:at=12x", "not at=12x"),
    ],
)
def test_map_that_cannot_be_read_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_map(text)

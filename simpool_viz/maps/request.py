"""The request of a map: its name and options, in Python or as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from simpool_viz.errors import OptionError
from simpool_viz.maps.registry import OWN, map_methods
from simpool_viz.modeling.pooling import poolings
from simpool_viz.settings import pairs_of, value_of


@dataclass(frozen=True)
class MapRequest:
    """The request of a map, such as `MapRequest("cls", {"block": -2})`.

    Attributes:
        name: of a map method or of a pooling, or "own" for the map that shows how a checkpoint pools.
        options: of the map method.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The request as text, such as "cls:block=-2", which `parse_map` reads."""
        return self.name + (
            ":" + ",".join(f"{k}={option_text(v)}" for k, v in self.options.items()) if self.options else ""
        )


def parse_map(text: str) -> MapRequest:
    """The request of a map from text.

    Values are parsed by `settings.value_of`, but `classes` is a list of texts and `at` a point (x, y) in pixels.

    Args:
        text: a name, then optionally a colon and options, such as "cls", "cls:block=-2", "token:at=120x80" or
            "dense_rollout:classes=tench+church,soft=true".

    Raises:
        OptionError: an option that is not key=value or is given twice, or `at` without a point.
    """
    name, _, options = text.partition(":")
    pairs = pairs_of(options, ",", "cls:block=-2")
    return MapRequest(name, {key: _value(key, value) for key, value in pairs.items()})


def parse_maps(texts: Sequence[str]) -> list[MapRequest]:
    """The requests of several maps from texts as for `parse_map`.

    Args:
        texts: one per map.

    Raises:
        OptionError: as in `parse_map`, or a name that is neither that of a map method nor of a pooling.
    """
    requests = [parse_map(text) for text in texts]
    known = [OWN, *map_methods(), *poolings()]
    for request in requests:
        if request.name not in known:
            there = ", ".join([OWN, *map_methods()])
            raise OptionError(f"no map is called {request.name!r}; there are {there}, or the name of a pooling")
    return requests


def _value(key: str, text: str) -> Any:
    """The value of an option from text: classes, a point, a boolean, a number or else the text itself."""
    if key == "classes":
        return text.split("+")
    if key == "at":
        point = value_of(text)
        if not isinstance(point, tuple) or len(point) != 2:
            raise OptionError(f"a point is written at=XxY in pixels of the picture, such as at=120x80, not at={text}")
        return tuple(map(float, point))
    return value_of(text)


def option_text(value: Any) -> str:
    """An option's value as text, which `parse_map` reads."""
    if isinstance(value, tuple):
        return "x".join(f"{v:g}" for v in value)
    return (
        "+".join(map(str, value))
        if isinstance(value, list)
        else str(value).lower()
        if value is None or isinstance(value, bool)
        else str(value)
    )

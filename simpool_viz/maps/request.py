"""A map as it is asked for: a name and options, in Python or as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from simpool_viz.errors import OptionError
from simpool_viz.maps.registry import map_methods
from simpool_viz.modeling.pooling import poolings
from simpool_viz.settings import pairs_of, value_of


@dataclass(frozen=True)
class MapRequest:
    """A map by name with its options, such as ("cls", {"block": -2})."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its text form, as `parse_map` reads it."""
        return self.name + (
            ":" + ",".join(f"{k}={option_text(v)}" for k, v in self.options.items()) if self.options else ""
        )


def parse_map(text: str) -> MapRequest:
    """ "cls", "cls:block=-2", "token:at=120x80", "dense_rollout:classes=tench+church,soft=true".

    Values are read by `settings.value_of`, but `classes` is a list of texts and `at` a point (x, y) in pixels.

    Raises:
        OptionError: an option that is not key=value or is given twice, or `at` without a point.
    """
    name, _, options = text.partition(":")
    pairs = pairs_of(options, ",", "cls:block=-2")
    return MapRequest(name, {key: _value(key, value) for key, value in pairs.items()})


def parse_maps(texts: Sequence[str]) -> list[MapRequest]:
    """Several maps, each checked to exist for some checkpoint. Errors as in `parse_map`, and OptionError for an unknown
    name."""
    requests = [parse_map(text) for text in texts]
    known = [*map_methods(), *poolings()]
    for request in requests:
        if request.name not in known:
            raise OptionError(
                f"no map is called {request.name!r}; there are {', '.join(map_methods())}, or the name of a pooling"
            )
    return requests


def _value(key: str, text: str) -> Any:
    if key == "classes":
        return text.split("+")
    if key == "at":
        point = value_of(text)
        if not isinstance(point, tuple) or len(point) != 2:
            raise OptionError(f"a point is written at=XxY in pixels of the picture, such as at=120x80, not at={text}")
        return tuple(map(float, point))
    return value_of(text)


def option_text(value: Any) -> str:
    """An option's value as `parse_map` reads it."""
    if isinstance(value, tuple):
        return "x".join(f"{v:g}" for v in value)
    return (
        "+".join(map(str, value))
        if isinstance(value, list)
        else str(value).lower()
        if value is None or isinstance(value, bool)
        else str(value)
    )

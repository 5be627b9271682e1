"""A map as it is asked for: a name and options, in Python or as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from simpool_viz.errors import OptionError
from simpool_viz.maps.registry import map_methods
from simpool_viz.modeling.pooling import poolings


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

    Raises:
        OptionError: an option that is not key=value.
    """
    name, _, options = text.partition(":")
    pairs = [part.partition("=") for part in options.split(",") if part]
    wrong = [key for key, equals, _ in pairs if not equals]
    if wrong:
        raise OptionError(f"map {text!r}: options are written key=value, separated by commas, as in cls:block=-2")
    return MapRequest(name, {key: _value(key, value) for key, _, value in pairs})


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
        x, _, y = text.partition("x")
        try:
            return float(x), float(y)
        except ValueError:
            raise OptionError(
                f"a point is written at=XxY in pixels of the picture, such as at=120x80, not at={text}"
            ) from None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def option_text(value: Any) -> str:
    """An option's value as `parse_map` reads it."""
    if isinstance(value, tuple):
        return "x".join(f"{v:g}" for v in value)
    return (
        "+".join(map(str, value))
        if isinstance(value, list)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )

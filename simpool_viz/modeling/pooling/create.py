"""The list of poolings: a class and one decorator line make a pooling known everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from simpool_viz.errors import OptionError, bind_options
from simpool_viz.settings import check_arguments

if TYPE_CHECKING:
    from simpool_viz.modeling.pooling.framework import Pooling

_POOLINGS: dict[str, type[Pooling]] = {}
P = TypeVar("P", bound="type[Pooling]")


def register_pooling(cls: P) -> P:
    """Class decorator: make a pooling available under its `name`."""
    if not cls.name or cls.name in _POOLINGS:
        raise ValueError(f"pooling {cls.__name__} needs a name of its own, not {cls.name!r}")
    _POOLINGS[cls.name] = cls
    return cls


def poolings() -> dict[str, type[Pooling]]:
    """Every registered pooling by name, in the order of the table."""
    return dict(_POOLINGS)


def create_pooling(name: str, dim: int, **options: object) -> Pooling:
    """Make a pooling of width `dim`.

    Raises:
        OptionError: no pooling has that name, or an option does not fit it.
    """
    if name not in _POOLINGS:
        raise OptionError(f"no pooling is called {name!r}; there are {', '.join(_POOLINGS)}")
    check_arguments(_POOLINGS[name], options, f"pooling {name!r}: {{}} is")
    bind_options(f"pooling {name!r}", _POOLINGS[name], dim, **options)
    return _POOLINGS[name](dim, **options)

"""The registry of poolings: a class with this decorator appears in the app, the command line and the docs."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from simpool_viz.errors import OptionError, bind_options
from simpool_viz.settings import check_arguments

if TYPE_CHECKING:
    from simpool_viz.modeling.pooling.framework import Pooling

_POOLINGS: dict[str, type[Pooling]] = {}
P = TypeVar("P", bound="type[Pooling]")


def register_pooling(cls: P) -> P:
    """Class decorator that registers a pooling under its `name`.

    Raises:
        ValueError: the name is empty or in use.
    """
    if not cls.name or cls.name in _POOLINGS:
        raise ValueError(f"pooling {cls.__name__} needs a name of its own, not {cls.name!r}")
    _POOLINGS[cls.name] = cls
    return cls


def poolings() -> dict[str, type[Pooling]]:
    """Every registered pooling by name, in the order of the table.

    Examples:
        >>> from simpool_viz import poolings
        >>> poolings()["simpool"].title, poolings()["simpool"].attentive, poolings()["gap"].attentive
        ('SimPool', True, False)
    """
    return dict(_POOLINGS)


def create_pooling(name: str, dim: int, **options: object) -> Pooling:
    """Create a pooling by its name.

    Args:
        name: a key of `poolings()`.
        dim: width D of the tokens.
        options: for its class.

    Raises:
        OptionError: no pooling has that name, or an option does not fit it.
    """
    if name not in _POOLINGS:
        raise OptionError(f"no pooling is called {name!r}; there are {', '.join(_POOLINGS)}")
    check_arguments(_POOLINGS[name], options, f"pooling {name!r}: {{}} is")
    bind_options(f"pooling {name!r}", _POOLINGS[name], dim, **options)
    return _POOLINGS[name](dim, **options)

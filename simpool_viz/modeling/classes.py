"""The classes of an encoder by index and by name."""

from __future__ import annotations

from collections.abc import Sequence

from simpool_viz.errors import OptionError
from simpool_viz.modeling.encoder import Encoder


def class_name(encoder: Encoder, index: int) -> str:
    """The name of the class of an index, or "class 7" where the encoder has no names."""
    names = encoder.facts.classes
    return names[index] if index < len(names) else f"class {index}"


def class_index(encoder: Encoder, wanted: int | str, count: int) -> int:
    """Find the index of a class.

    Args:
        encoder: whose names are searched, without regard to case.
        wanted: index, also as digits, or name.
        count: number of classes.

    Raises:
        OptionError: no such class.
    """
    if isinstance(wanted, str) and not wanted.isdigit():
        lowered = [name.lower() for name in encoder.facts.classes]
        if wanted.lower() not in lowered:
            near = [n for n in encoder.facts.classes if wanted.lower() in n.lower()]
            raise OptionError(
                f"{encoder.facts.name} has no class {wanted!r}"
                + (f"; did you mean {', '.join(near[:5])}?" if near else "")
            )
        return lowered.index(wanted.lower())
    if not 0 <= int(wanted) < count:
        raise OptionError(f"{encoder.facts.name} has classes 0 to {count - 1}, not {wanted}")
    return int(wanted)


def class_indices(encoder: Encoder, wanted: Sequence[int | str] | int | str, count: int) -> list[int]:
    """Find the indices of one class or several.

    Args:
        encoder: whose names are searched, without regard to case.
        wanted: an index or a name, or several.
        count: number of classes.

    Raises:
        OptionError: no such class, or none given.
    """
    several = [wanted] if isinstance(wanted, (str, int)) else list(wanted)
    if not several:
        raise OptionError("name at least one class, or leave classes out")
    return [class_index(encoder, c, count) for c in several]

"""Errors whose message says in one sentence what was wrong and what to do; anything else is a bug and keeps its trace.

The command line and the app show the message of these, and of `OSError`, without a trace. Each kind is a `ValueError`,
so that code which does not know this package can catch them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata

ISSUES = "the project's issues"
_INSTALLED_AS = {"sklearn": "scikit-learn"}  # packages that are not installed by their import names


class SimpoolError(ValueError):
    """An input or a request that does not fit; the message says which, and what to do instead."""


class PictureError(SimpoolError):
    """A picture or a reference mask that cannot be read, or a reference mask of another picture."""


class CheckpointError(SimpoolError):
    """A checkpoint or a model that cannot be read, built or used, or that is not safe to read."""


class DownloadError(CheckpointError):
    """Weights that could not be fetched: the hub cannot be reached or refuses, or the disk is full."""


class MapError(SimpoolError):
    """A map, or an inspection, that a checkpoint does not have for this picture."""


class AbsentClassError(MapError):
    """A map of a class that the head assigns to no token of the picture."""


class OptionError(SimpoolError):
    """A name, a value or a combination of options that does not exist."""


class DataError(SimpoolError):
    """A folder or a data set that lacks what is needed, or whose contents are damaged."""


class TrainingError(SimpoolError):
    """A recipe that cannot be trained, or a training that cannot go on."""


class DivergedError(TrainingError, FloatingPointError):
    """A loss or a gradient that is not finite."""


class MissingPackageError(SimpoolError, ImportError):
    """An optional package that is not installed; the message says how to install it."""


_signature = lru_cache(maxsize=256)(inspect.signature)


def bind_options(what: str, function: Callable[..., object], *given: object, **options: object) -> None:
    """Check a user's options against the signature of the function that takes them, before it is called.

    Args:
        what: whose options they are, such as "map 'cls'", for the message.
        function: the function that takes them.
        given: its positional arguments, which this package supplies.
        options: the user's options.

    Raises:
        OptionError: an option that the function does not take, or a required one that is missing.
    """
    signature = _signature(function)
    try:
        signature.bind(*given, **options)
    except TypeError as error:  # bind raises it only for arguments that do not fit
        taken = list(signature.parameters.values())[len(given) :]
        known = [p.name for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        raise OptionError(f"{what}: {error}; it takes {', '.join(known) or 'no options'}") from None


@contextmanager
def needs_packages(purpose: str, *names: str) -> Iterator[None]:
    """A context in which optional packages are imported, so that a missing one becomes an error with instructions.

    Args:
        purpose: what the packages are for, such as "training"; it begins the message.
        names: their import names, mostly also those to install them by.

    Raises:
        MissingPackageError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in names:
            raise
        package = _INSTALLED_AS.get(error.name, error.name)
        raise MissingPackageError(
            f"{purpose} needs the package {package}, which is missing; install it with: pip install {package}"
        ) from error


def where_to_report() -> str:
    """The address for bug reports from the metadata of the installed package, else "the project's issues"."""
    try:
        urls = metadata.metadata("simpool-viz").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:  # a Space runs from its files, nothing is installed
        urls = []
    return next((url for kind, _, url in (line.partition(", ") for line in urls) if kind == "Issues"), ISSUES)

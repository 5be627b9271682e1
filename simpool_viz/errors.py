"""Errors that tell a user in one sentence what was wrong and what to do. Everything else is a bug and keeps its trace.

The command line and the app turn these, and `OSError`, into a sentence. Each kind is a `ValueError`, so that code which
knows nothing of this package catches them as it always did.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata

ISSUES = "the project's issues"


class SimpoolError(ValueError):
    """Something that a user gave, asked for or has does not fit; the message says what, and what to do instead."""


class PictureError(SimpoolError):
    """A picture or a reference mask that cannot be read or does not belong here."""


class CheckpointError(SimpoolError):
    """A checkpoint or a model that cannot be read, built or used, or that is not safe to read."""


class DownloadError(CheckpointError):
    """Weights that could not be fetched: the hub is out of reach, refuses, or the disk is full."""


class MapError(SimpoolError):
    """A map, or a question, that a checkpoint cannot answer on this picture."""


class AbsentClassError(MapError):
    """A map of a class that no token of the picture has."""


class OptionError(SimpoolError):
    """A name, a value or a combination of options that does not exist."""


class DataError(SimpoolError):
    """A folder or a data set that is not what is needed."""


class TrainingError(SimpoolError):
    """A recipe that cannot be trained, or a training that cannot go on."""


class DivergedError(TrainingError, FloatingPointError):
    """A loss or a gradient that is not finite."""


class MissingPackageError(SimpoolError, ImportError):
    """An optional package that is not installed; the message says how to install it."""


def bind_options(what: str, function: Callable[..., object], *given: object, **options: object) -> None:
    """Hold a user's options against the function that takes them, before it is called.

    Args:
        what: whose options they are, for the sentence.
        function: what takes them.
        given: the arguments by place, which are ours.
        options: those of the user.

    Raises:
        OptionError: an option that the function does not take, or one that it needs and was not given.
    """
    signature = inspect.signature(function)
    try:
        signature.bind(*given, **options)
    except TypeError as error:  # bind raises it for this alone
        taken = list(signature.parameters.values())[len(given) :]
        known = [p.name for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        raise OptionError(f"{what}: {error}; it takes {', '.join(known) or 'no options'}") from None


@contextmanager
def needs_packages(purpose: str, *names: str) -> Iterator[None]:
    """Import optional packages inside this context, so that a missing one is a sentence.

    Args:
        purpose: what they are for, such as "training".
        names: the packages as they are imported, which is also how they are installed.

    Raises:
        MissingPackageError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in names:
            raise
        raise MissingPackageError(
            f"{purpose} needs the package {error.name}, which is missing; install it with: pip install {error.name}"
        ) from error


def where_to_report() -> str:
    """The address for reports of bugs, as the installed package names it, else "the project's issues"."""
    try:
        urls = metadata.metadata("simpool-viz").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:  # a Space runs from its files, nothing is installed
        urls = []
    return next((url for kind, _, url in (line.partition(", ") for line in urls) if kind == "Issues"), ISSUES)

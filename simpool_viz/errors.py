"""Errors that tell a user in one sentence what was wrong and what to do. Everything else is a bug and keeps its trace.

The command line and the app turn these, and `OSError`, into a sentence. Each kind is a `ValueError`, so that code which
knows nothing of this package catches them as it always did.
"""

from __future__ import annotations


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

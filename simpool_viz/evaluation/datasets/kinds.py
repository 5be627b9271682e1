"""The registry of data sets: what each kind of folder holds, and which kind a folder is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path

from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation.datasets.samples import DataSet, Sample

# In the order in which a folder is tried: the first kind of which it holds every part.
FILES = ("pairs", "voc", "cub", "pets", "imagenet", "coco", "saliency", "saved", "shards")
SHOWN = 8  # names of a folder's content in a message


@dataclass(frozen=True)
class DataSetKind:
    """A kind of data set.

    Attributes:
        name: as it is given to `--data-set`.
        title: for readers.
        layout: what a folder of this kind holds, a phrase.
        needs: its parts; of each the patterns of which one must be there.
        places: patterns of subfolders in which it may lie.
        file: the suffix of a single file that is a set of this kind, "" for none.
        splits: the names of its splits are these, the default first; empty where it has none or names them itself.
        object_ids: what `object_ids` choose, a phrase; "" where they choose nothing.
        open: from the folder, or the file, and the split, its samples.
    """

    name: str
    title: str
    layout: str
    needs: tuple[tuple[str, ...], ...]
    open: Callable[[Path, str], Sequence[Sample]]
    places: tuple[str, ...] = ()
    file: str = ""
    has_splits: bool = False
    object_ids: str = ""

    def root(self, folder: Path) -> Path | None:
        """The folder, or the first one in it, that holds every part; None without one."""
        if folder.is_file():
            return folder if self.file and folder.suffix == self.file else None
        inside = (found for place in self.places for found in sorted(folder.glob(place)) if found.is_dir())
        return next((one for one in (folder, *inside) if not self.missing(one)), None)

    def missing(self, folder: Path) -> list[str]:
        """The parts that a folder lacks, each as its patterns."""
        return [" or ".join(part) for part in self.needs if not any(_holds(folder, one) for one in part)]


_KINDS: dict[str, DataSetKind] = {}


def _holds(folder: Path, pattern: str) -> bool:
    """Whether a folder holds a path of this pattern that is not hidden."""
    return any(not path.name.startswith(".") for path in islice(folder.glob(pattern), 100))


def register_data_set(kind: DataSetKind) -> DataSetKind:
    """Add a kind to the registry."""
    _KINDS[kind.name] = kind
    return kind


def data_set_kinds() -> dict[str, DataSetKind]:
    """Every kind of data set by name, in the order in which a folder is tried."""
    for name in FILES:
        import_module(f"simpool_viz.evaluation.datasets.{name}")
    return dict(_KINDS)


def open_data_set(path: Path | str, kind: str = "", split: str = "", object_ids: Sequence[int] = ()) -> DataSet:
    """Open a data set.

    Args:
        path: its folder, or the file of one that is a file.
        kind: a name of `data_set_kinds`; where empty, the first kind of which the folder holds every part.
        split: of those that it has, such as "val"; the kind's usual one by default.
        object_ids: the labels that will be asked for, which not every kind has.

    Raises:
        DataError: there is no such folder, or it is none of these kinds, or holds only half of one; the message says
            what was found and what was expected.
        OptionError: no such kind or split, or object_ids of a set that has no labels.

    Examples:
        >>> from simpool_viz.evaluation.datasets import data_set_kinds
        >>> list(data_set_kinds())[:4]
        ['pairs', 'voc', 'voc_boxes', 'cub']
    """
    path, kinds = Path(path), data_set_kinds()
    if kind and kind not in kinds:
        raise OptionError(f"there is no kind of data set {kind!r}; choose one of {', '.join(kinds)}")
    if not path.exists():
        raise DataError(f"there is no folder {path}")
    tried = [kinds[kind]] if kind else list(kinds.values())
    found = next(((one, root) for one in tried if (root := one.root(path)) is not None), None)
    if found is None:
        raise DataError(_explained(path, tried))
    one, root = found
    if split and not one.has_splits:
        raise OptionError(f"{path} is read as {one.title}, which has no splits; leave --split out")
    if object_ids and not one.object_ids:
        raise OptionError(f"{path} is read as {one.title}, which has no labels to choose from; leave --object-ids out")
    name = path.resolve().name if path.is_dir() else path.resolve().stem
    samples = one.open(root, split)
    if not len(samples):
        raise DataError(f"{path} is read as {one.title}, but holds no photo. It holds {one.layout}; {_content(root)}")
    if isinstance(samples, list) and len({sample.key for sample in samples}) < len(samples):
        keys = [sample.key for sample in samples]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"{path} names the photo {twice} twice; each may be there once")
    return DataSet(f"{name} {split}" if split else name, one.name, samples)


def _explained(path: Path, kinds: Sequence[DataSetKind]) -> str:
    """Why a folder is none of some kinds: what it holds, and what each half that it holds lacks."""
    halves = [kind for kind in kinds if not path.is_file() and 0 < len(kind.missing(path)) < len(kind.needs)]
    asked = halves or (list(kinds) if len(kinds) == 1 else [])
    if asked:
        lacks = "; ".join(
            f"as {one.title} it lacks {', '.join(one.missing(path)) or one.layout}, and would hold {one.layout}"
            for one in asked
        )
        return f"{path} is no whole data set: {lacks}. {_content(path)}"
    known = "; ".join(f"{kind.name}: {kind.layout}" for kind in kinds)
    return f"{path} is no data set of a known kind. {_content(path)} Known kinds: {known}"


def _content(path: Path) -> str:
    """What a folder holds, a sentence."""
    if path.is_file():
        return f"It is a file {path.suffix or 'without a suffix'}."
    names = sorted(f"{one.name}/" if one.is_dir() else one.name for one in path.iterdir() if one.name[0] != ".")
    if not names:
        return "Found: nothing."
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return f"Found: {', '.join(names[:SHOWN])}{more}."

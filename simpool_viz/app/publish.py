"""Uploads the app with its bundled models as a Hugging Face Space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from simpool_viz.checkpoints.hub import find_file, list_files
from simpool_viz.checkpoints.published import OWNER, published
from simpool_viz.errors import OptionError, SimpoolError

ROOT = Path(__file__).parent.parent.parent
TEXTS = ("README.md", "LICENSE", "NOTICE")
# models/ holds the checkpoints' cards and results.json besides their weights.
UPLOADED = ("app.py", "requirements.txt", *TEXTS, "simpool_viz/**", "models/**", "assets/**", "docs/*.jpg")
LEFT_OUT = ("**/__pycache__/**", "*.pyc", "*.pyi", "simpool_viz/_bundled/**")
NEEDED = ("app.py", "requirements.txt", *TEXTS, "models/README.md", "models/results.json")
FENCE = "---\n"  # around the front matter of README.md


@dataclass(frozen=True)
class Copy:
    """What a Space's repository gets.

    Attributes:
        files: by the path in the repository, the file here.
        readme: text of README.md, whose front matter names what the Space's builder fetches beforehand.
        preloaded: repositories and files of published weights that were found on the hub, as `preload_from_hub` has
            them, with their bytes.
        missing: sentences on published weights that were not found.
    """

    files: dict[str, Path]
    readme: str
    preloaded: dict[str, int]
    missing: list[str]

    @property
    def size(self) -> int:
        """Bytes that are uploaded."""
        rest = sum(path.stat().st_size for name, path in self.files.items() if name != "README.md")
        return rest + len(self.readme.encode())

    def lines(self) -> list[str]:
        """What is uploaded and how large it is, for readers."""
        sizes: dict[str, list[int]] = {}
        for name, path in self.files.items():
            top, slash, _ = name.partition("/")
            sizes.setdefault(f"{top}{slash}", []).append(path.stat().st_size)
        told = [f"{name:20} {len(s):5} files {_megabytes(sum(s)):>10}" for name, s in sorted(sizes.items())]
        told.append(f"{'together':20} {len(self.files):5} files {_megabytes(self.size):>10}")
        fetched = _megabytes(sum(self.preloaded.values()))
        if self.preloaded:
            told.append(f"the Space's builder fetches {len(self.preloaded)} published checkpoints, {fetched}")
        return told + self.missing


def prepare_copy(root: Path = ROOT) -> Copy:
    """Gather what a Space needs, and look on the hub which published weights its builder can fetch.

    Args:
        root: of a checkout.

    Raises:
        OptionError: it is no checkout.
    """
    from huggingface_hub.utils import filter_repo_objects

    missing = [name for name in NEEDED if not (root / name).exists()]
    if missing:
        raise OptionError(f"publishing runs from a checkout of simpool_viz; {root} has no {', '.join(missing)}")
    tops = {pattern.partition("/")[0] for pattern in UPLOADED}
    here = [
        path for top in sorted(tops) for path in ([root / top] if (root / top).is_file() else (root / top).rglob("*"))
    ]
    names = sorted(path.relative_to(root).as_posix() for path in here if path.is_file())
    kept = filter_repo_objects(names, allow_patterns=list(UPLOADED), ignore_patterns=list(LEFT_OUT))
    preloaded, absent = _preloaded()
    readme = with_preload((root / "README.md").read_text(encoding="utf-8"), list(preloaded))
    return Copy({name: root / name for name in kept}, readme, preloaded, absent)


def _preloaded() -> tuple[dict[str, int], list[str]]:
    """The published weights that the hub has, with their bytes, and a sentence for each that it has not."""
    found, absent = {}, []
    for one in published().values():
        repository = f"{OWNER}/{one.name}"
        try:
            file, size = find_file(repository, "", list_files(repository))
        except SimpoolError as error:
            absent.append(f"not fetched beforehand: {error}")
        else:
            found[f"{repository} {file}"] = size or 0
    return found, absent


def with_preload(readme: str, entries: list[str]) -> str:
    """A README.md whose front matter names what the Space's builder fetches from the hub.

    Args:
        readme: with front matter.
        entries: each "user/repository file"; where there are none, the text stays as it is.

    Raises:
        OptionError: there is no front matter.
    """
    parts = readme.split(FENCE, 2)
    if len(parts) != 3 or parts[0]:
        raise OptionError("README.md does not begin with the front matter of a Space; take that of the repository")
    if not entries:
        return readme
    added = yaml.safe_dump({"preload_from_hub": entries}, sort_keys=False, width=1000)
    return f"{FENCE}{parts[1]}{added}{FENCE}{parts[2]}"


def publish(space: str, copy: Copy, *, private: bool = False) -> str:
    """Make the Space or update it in one commit, as the user that is logged in to the hub.

    Args:
        space: "user/name".
        copy: from `prepare_copy`.
        private: whether a new Space is visible to its owner alone.

    Returns:
        Its address.

    Raises:
        OptionError: a name of another form.
        SimpoolError: not logged in, or the hub refuses or cannot be reached.
    """
    check_space(space)
    from huggingface_hub import CommitOperationAdd, HfApi

    hub, contents = HfApi(), {name: _content(copy, name) for name in copy.files}
    added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents.items()]
    try:
        hub.create_repo(space, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        hub.create_commit(repo_id=space, repo_type="space", operations=added, commit_message="simpool_viz")
    except Exception as error:  # of the hub's client, which are of several libraries
        reason = str(error).strip().partition("\n")[0]
        raise SimpoolError(
            f"{space} could not be published ({type(error).__name__}: {reason}); log in with: hf auth login, and check "
            "the network"
        ) from error
    return f"https://huggingface.co/spaces/{space}"


def check_space(space: str) -> None:
    """Check the name of a Space.

    Raises:
        OptionError: it is not "user/name".
    """
    if len([part for part in space.split("/") if part]) != 2 or space.count("/") != 1:
        raise OptionError(f"a Space is called USER/NAME, not {space!r}")


def _content(copy: Copy, name: str) -> Any:
    return copy.readme.encode() if name == "README.md" else copy.files[name]


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"

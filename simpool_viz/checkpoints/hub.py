"""Checkpoints on the Hugging Face hub: "hf:<user>/<repository>[/<file>]".

Downloads are those of the hub's client: resumable, with a progress bar, in the cache that HF_HOME names.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from simpool_viz.checkpoints.folders import INDEX, WHOLE, shards_of
from simpool_viz.checkpoints.formats.hints import read_json
from simpool_viz.errors import CheckpointError, DownloadError

Progress = Callable[[int, int], None]  # is told bytes that have arrived, and of how many


@dataclass(frozen=True)
class Access:
    """Limits and identity of requests to the hub.

    Attributes:
        limit: the largest download in bytes; None for any size.
        cache: folder of the downloads; None for the cache that HF_HOME names.
        token: False for anonymous requests; None for the account that is logged in, if any.
        progress: is told of a download, instead of a bar on standard error.
    """

    limit: int | None = None
    cache: Path | None = None
    token: bool | None = None
    progress: Progress | None = None


ANSWER = 4.5  # seconds within which the hub has to begin an answer
DESCRIPTION = 2**20  # the largest config.json in bytes that is fetched where downloads are limited
DESCRIPTIONS = ("config.json", "preprocessor_config.json")
SUFFIXES = (".safetensors", ".pth", ".pth.tar", ".pt", ".bin", ".ckpt", ".npz")


def split_address(address: str) -> tuple[str, str]:
    """Split an address of the hub.

    Args:
        address: what follows "hf:".

    Returns:
        ("user/repository", the file in it or "").

    Raises:
        CheckpointError: it names no repository.
    """
    user, _, rest = address.partition("/")
    repository, _, file = rest.partition("/")
    if not user or not repository:
        raise CheckpointError(f"hf:{address} is not hf:<user>/<repository> or hf:<user>/<repository>/<file>")
    return f"{user}/{repository}", file


def list_files(repository: str, access: Access | None = None) -> dict[str, int | None]:
    """The files of a repository, by one request; those in the cache where the hub is out of reach.

    Args:
        repository: "user/repository".
        access: limits and identity.

    Returns:
        Sizes in bytes by name; None where the hub does not give it.

    Raises:
        DownloadError: the hub is out of reach, and nothing of the repository is in the cache.
    """
    from huggingface_hub import HfApi

    access = access or Access()
    try:
        siblings = HfApi(token=access.token).model_info(repository, files_metadata=True, timeout=ANSWER).siblings or []
        return {s.rfilename: s.size for s in siblings}
    except Exception as error:  # of the hub's client, which are of several libraries
        sizes = _sizes_in_cache(repository, access)
        if not sizes:
            raise DownloadError(explain(error, repository)) from error
        return sizes


def find_file(repository: str, file: str, sizes: Mapping[str, int | None]) -> tuple[str, int | None]:
    """Find the file of weights in a repository.

    Args:
        repository: "user/repository".
        file: its name; by default the only file with weights, .safetensors first.
        sizes: as of `list_files`.

    Returns:
        (name, size in bytes); the size is None where the hub does not give it.

    Raises:
        CheckpointError: there is not exactly one such file.
    """
    if file:
        if file not in sizes:
            raise CheckpointError(
                f"hf:{repository} has no file {file!r}; it has {', '.join(sorted(sizes)[:8]) or 'none'}"
            )
        return file, sizes[file]
    for index in INDEX:
        if index in sizes and index.removesuffix(".index.json") not in sizes:
            return index, sizes[index]
    names = [name for suffix in SUFFIXES for name in sizes if name.endswith(suffix)]
    if not names:
        raise CheckpointError(
            f"hf:{repository} holds no weights ({', '.join(SUFFIXES)}); it holds "
            f"{', '.join(sorted(sizes)[:8]) or 'nothing'}"
        )
    best = [name for name in names if name.endswith(".safetensors")] or names
    best = [name for name in best if name in WHOLE] or best
    if len(best) > 1:
        raise CheckpointError(
            f"hf:{repository} holds several weights: name one, as in hf:{repository}/{best[0]} (there are "
            f"{', '.join(best[:8])})"
        )
    return best[0], sizes[best[0]]


def download(
    repository: str, file: str, access: Access | None = None, sizes: Mapping[str, int | None] | None = None
) -> Path:
    """Download a file, unless it is in the cache.

    Args:
        repository: "user/repository".
        file: its name; "" as in `find_file`.
        access: limits and identity.
        sizes: as of `list_files`, where that was asked already.

    Returns:
        The file's path in the cache.

    Raises:
        DownloadError: the hub is out of reach, the file is too large, or there is no space for it.
        CheckpointError: there is no such file.
    """
    from huggingface_hub import hf_hub_download

    access = access or Access()
    cached = _cached(repository, file, access)
    if cached is not None:
        return cached
    file, size = find_file(repository, file, list_files(repository, access) if sizes is None else sizes)
    if access.limit is not None and (size is None or size > access.limit):
        raise DownloadError(
            f"hf:{repository}/{file} has {_megabytes(size)}; at most {_megabytes(access.limit)} are fetched here"
        )
    try:
        told: dict[str, Any] = {"tqdm_class": _bar_for(access.progress)} if access.progress else {}
        path = Path(hf_hub_download(repository, file, cache_dir=access.cache, token=access.token, **told))
    except Exception as error:  # of the hub's client
        raise DownloadError(explain(error, repository)) from error
    if size is not None and path.stat().st_size != size:
        raise DownloadError(
            f"{file} of hf:{repository} arrived with {path.stat().st_size:,} of {size:,} bytes; delete {path} and try "
            "again"
        )
    return path


def _bar_for(progress: Progress) -> type[tqdm]:
    """A class of progress bars that tell `progress` and write nothing."""

    class Told(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)  # of the hub's own class
            super().__init__(*args, **{**options, "disable": False, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            progress(int(self.n), int(self.total or 0))
            return shown

    return Told


def is_reachable() -> bool:
    """Whether the hub answers within `ANSWER` seconds; False where HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        return bool(get_session().head(constants.ENDPOINT, timeout=ANSWER).status_code < 500)
    except Exception:  # of the hub's client
        return False


def is_in_cache(repository: str) -> bool:
    """Whether weights of a repository are in the cache that HF_HOME names."""
    return any(name.endswith(SUFFIXES) for name in _sizes_in_cache(repository, Access()))


def descriptions(
    repository: str, sizes: Mapping[str, int | None], access: Access | None = None
) -> dict[str, dict[str, Any]]:
    """Read the descriptions in a repository in transformers' or timm's form.

    Args:
        repository: "user/repository".
        sizes: as of `list_files`.
        access: limits and identity. A description of unknown size or of more than `DESCRIPTION` bytes is ignored.

    Returns:
        The content of those of `DESCRIPTIONS` that are there and can be fetched, by name.
    """
    access = access or Access()
    limited = replace(access, limit=min(access.limit or DESCRIPTION, DESCRIPTION))
    found: dict[str, dict[str, Any]] = {}
    for name in DESCRIPTIONS:
        if name not in sizes:
            continue
        try:
            content = json.loads(download(repository, name, limited, sizes).read_text(encoding="utf-8"))
        except Exception:  # too large, out of reach, or no JSON: then it describes nothing
            continue
        if isinstance(content, dict):
            found[name] = content
    return found


def download_shards(
    repository: str, index: Path, sizes: Mapping[str, int | None], access: Access | None = None
) -> None:
    """Download the files that an index names, beside it.

    Args:
        repository: "user/repository".
        index: as downloaded.
        sizes: as of `list_files`.
        access: limits, for all of them together, and identity.

    Raises:
        DownloadError: as in `download`.
        CheckpointError: the index names files that are not there.
    """
    access = access or Access()
    left = access.limit
    for name in shards_of(read_json(index), index.name):
        download(repository, name, replace(access, limit=left), sizes)
        left = None if left is None else left - (sizes[name] or 0)


def _cached(repository: str, file: str, access: Access) -> Path | None:
    """The path of a file in the cache, found without a request; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository, file, cache_dir=access.cache) if file else None
    return Path(path) if isinstance(path, str) else None


def _sizes_in_cache(repository: str, access: Access) -> dict[str, int | None]:
    """Names and sizes in bytes of a repository's files in the cache; {} for none."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, local_files_only=True, cache_dir=access.cache))
    except Exception:  # nothing of it is there
        return {}
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
    }


def explain(error: Exception, repository: str) -> str:
    """Turn an error of the hub's client into a sentence with a remedy.

    Args:
        error: of any of the client's libraries.
        repository: "user/repository".
    """
    kind, status = type(error).__name__, getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, OSError) and error.errno == 28:
        return f"there is no space left for hf:{repository}; free some, or let HF_HOME name a larger disk"
    if kind in ("RepositoryNotFoundError", "HFValidationError"):
        return (
            f"the Hugging Face hub has no repository {repository!r} that can be read; check the name, or log in "
            "with: hf auth login"
        )
    if kind == "GatedRepoError":
        return f"hf:{repository} asks for consent first; give it on its page, then log in with: hf auth login"
    if status is not None:
        return f"the Hugging Face hub answered {status} for {repository}; try again later"
    return (
        f"the Hugging Face hub cannot be reached for {repository} ({kind}); check the network, or choose a bundled "
        "checkpoint. "
        "What was fetched so far is kept, and the next try goes on from there"
    )


def _megabytes(size: int | None) -> str:
    return "an unknown size" if size is None else f"{size / 2**20:,.0f} MB"

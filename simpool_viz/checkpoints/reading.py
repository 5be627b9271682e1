"""Reads checkpoint files without executing anything in them.

A `.safetensors` file holds tensors and text alone. Every other file is a pickle, which can run any program when
Python's own `pickle` opens it. Here PyTorch's `weights_only` reader opens it: it accepts tensors, containers and the
few harmless kinds of object in `ALLOWED`, which training checkpoints of this field hold, and refuses all others.

What a file may cost is bounded before it is believed: the length of its pickle and of its table of contents, the codecs
that it may ask for, and no file is mapped into memory, since one that is cut off meanwhile would end the process.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import pickletools
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load as tensors_of_bytes
from safetensors.torch import save_file
from torch import Tensor
from torch._weights_only_unpickler import _get_allowed_globals

from simpool_viz.checkpoints.archives import read_npz, refuse_torchscript
from simpool_viz.errors import CheckpointError


def _encode(text: str, codec: str = "latin1") -> bytes:
    """`_codecs.encode` as pickles of protocol 2 use it for bytes, with no codec that enlarges, is slow or reads a file.

    Raises:
        ValueError: another codec.
    """
    if str(codec).lower().replace("-", "") not in ("latin1", "ascii"):
        raise ValueError(f"it asks for the codec {str(codec)[:20]!r}, and bytes are written with latin1")
    return str(text).encode("latin1")


def _bytearray(*given: Any) -> bytearray:
    """`bytearray` of bytes or text; of a number it would take that much memory."""
    if given and not isinstance(given[0], (bytes, bytearray, str)):
        raise ValueError("it asks for an array of bytes without naming them")
    return bytearray(_encode(*given)) if given and isinstance(given[0], str) else bytearray(*given[:1])


class _NumberType:
    """`numpy.dtype` as a pickle makes it, of numbers alone: numpy's own believes any state and can end the process."""

    def __init__(self, kind: Any = None, *_: Any) -> None:
        if not isinstance(kind, str) or kind not in NUMBERS:
            raise ValueError(f"it holds a number of the kind {str(kind)[:20]!r}; known are {', '.join(NUMBERS)}")
        self.dtype = np.dtype(kind)

    def __setstate__(self, state: Any) -> None:
        """Take the order of bytes, and nothing else of what a pickle tells beside the kind."""
        order: Any = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
        if order not in ("<", ">", "=", "|"):
            raise ValueError("it holds a number whose order of bytes is not told")
        self.dtype = self.dtype.newbyteorder(order)


def _number(kind: Any, data: Any) -> Any:
    """`numpy.core.multiarray.scalar`: a number of numpy's from its bytes."""
    if not isinstance(kind, _NumberType) or not isinstance(data, bytes) or len(data) != kind.dtype.itemsize:
        raise ValueError("it holds a number of numpy's whose bytes do not fit its kind")
    return np.frombuffer(data, kind.dtype)[0]


NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
ALLOWED: list[Any] = [
    argparse.Namespace,
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),  # as numpy 1 wrote it
    (_number, "numpy._core.multiarray.scalar"),  # as numpy 2 does
]
TABLE = 16 * 2**20  # bytes of an archive's table of contents: that of some 200,000 tensors
PICKLE = 4 * 2**20  # bytes of a pickle, without the numbers of its tensors: some 30,000 tensors; and its steps
LAYERS = ("torch.nn.modules.", "timm.models.", "timm.layers.", "torchvision.models.", "transformers.models.")
IN_MEMORY = 2**30  # bytes of a .safetensors file up to which it is read; a larger one is mapped
_REPLACED = {"_codecs.encode": _encode, "builtins.bytearray": _bytearray}  # of what PyTorch itself allows
_LOCK = threading.Lock()  # the list of allowed globals is the whole process's


def read_file(path: Path) -> tuple[Any, dict[str, str]]:
    """Read a checkpoint file without executing anything in it.

    Args:
        path: of the file.

    Returns:
        The content as saved, with tensors on the CPU, and the metadata of a `.safetensors` file ({} otherwise).

    Raises:
        CheckpointError: no such file, a damaged one, one that would run code, or one that unpacks to more than it is.
    """
    if path.is_dir():
        raise CheckpointError(
            f"no checkpoint is called {str(path)!r}: it is a folder without config.json; name the weights' file in it"
        )
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path.name} is a pipe or a device, not a file; copy what it gives into a file")
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check its name") from None
    if not start:
        raise CheckpointError(f"{path.name} is empty; copy or download it again")
    if fault := _other_kind(path, start):
        raise CheckpointError(fault)
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return read_safetensors(path)
    if start.startswith(b"PK") and path.suffix == ".npz":
        return read_npz(path), {}
    if start.startswith(b"PK"):
        _check_archive(path)
    return _read_pickle(path), {}


def _other_kind(path: Path, start: bytes) -> str:
    """A sentence on a file that is known not to be a checkpoint of PyTorch; "" for others.

    Args:
        path: of the file.
        start: its first bytes.
    """
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return f"{path.name} is a web page, as a download gives that first asks for consent; download the file itself"
    if start.startswith(b"version https://git-lfs"):
        return f"{path.name} is a pointer of Git LFS, not the file that it stands for; fetch that with: git lfs pull"
    if start.startswith(b"\x89HDF") or path.suffix in (".onnx", ".tflite", ".pb", ".keras", ".mlmodel", ".engine"):
        return (
            f"{path.name} is a file of another framework; save the weights of the PyTorch model that it was made from, "
            "model.state_dict(), as .safetensors"
        )
    return ""


def read_safetensors(path: Path, called: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a `.safetensors` file.

    Args:
        path: of the file.
        called: the file's name in errors; by default without its folder, which means nothing to who uploaded it.

    Returns:
        The tensors by name, on the CPU, and the metadata.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as source:
            length = int.from_bytes(source.read(8), "little")
            if TABLE < length < path.stat().st_size:
                raise CheckpointError(
                    f"{called or path.name} has a header of {length / 2**20:,.0f} MB, where {TABLE / 2**20:.0f} MB "
                    "hold some 200,000 tensors; it was not opened"
                )
            if path.stat().st_size <= IN_MEMORY:
                source.seek(0)
                return _tensors_in(source.read(), length)
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)
    except CheckpointError:
        raise
    except Exception as error:  # of damaged bytes, the library raises whatever they lead to
        cause = str(error).strip().partition("\n")[0][:120]
        raise CheckpointError(
            f"{called or path.name} is damaged or not a safetensors file ({cause}); copy or download it again"
        ) from error


def _tensors_in(content: bytes, length: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a `.safetensors` file; length: of its header in bytes, which the library has checked."""
    tensors = tensors_of_bytes(content)
    return tensors, json.loads(content[8 : 8 + length]).get("__metadata__") or {}


class _CountedReads(io.BufferedReader):
    """An open file for the reader of pickles that bounds its steps: each reads at least a byte.

    Files that PyTorch wrote before it used archives do not say how long their pickle is.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.left, self.length = PICKLE, path.stat().st_size

    def fileno(self) -> int:
        raise io.UnsupportedOperation("PyTorch would read around this class")

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise CheckpointError(f"it has more than {PICKLE:,} steps")
        if size is not None and size > 2**16:
            size = min(size, self.length)  # memory for as much is taken before it is read
        return super().read(size)


class _ShortTable(io.FileIO):
    """A file for `zipfile` that refuses to read a huge table of contents.

    `zipfile` reads the table in one call and makes objects of its entries that are ten times as large.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > TABLE:
            raise CheckpointError(
                f"{Path(os.fsdecode(self.name)).name} has a table of contents of {size / 2**20:,.0f} MB, where "
                f"{TABLE / 2**20:.0f} MB hold 200,000 tensors; it was not opened"
            )
        return super().read(size)


def write_safetensors(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors as a `.safetensors` file that every user can read; the library allows its owner alone.

    Args:
        path: of the file.
        state: tensors by name, contiguous and on the CPU.
        metadata: texts by name.
    """
    save_file(state, path, metadata=metadata)
    path.chmod(0o644)


def _check_archive(path: Path) -> None:
    """Refuse archives that unpack to more than their size. PyTorch stores its own uncompressed.

    Raises:
        CheckpointError: a damaged archive, a compressed one, or one that lists countless entries or describes countless
            objects.
    """
    try:
        with _ShortTable(path) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except CheckpointError:
        raise
    except Exception as error:  # of damaged bytes, `zipfile` raises NotImplementedError and more
        raise CheckpointError(f"{path.name} is damaged or incomplete ({error}); download it again") from error
    refuse_torchscript(path, [entry.filename for entry in entries])
    size = sum(entry.file_size for entry in entries)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or size > path.stat().st_size:
        raise CheckpointError(
            f"{path.name} is compressed and unpacks to {size / 2**20:,.0f} MB, which PyTorch never writes; it was not "
            "opened"
        )
    longest = max((entry.file_size for entry in entries if entry.filename.endswith(".pkl")), default=0)
    if longest > PICKLE:
        raise CheckpointError(_too_long(path, f"{longest / 2**20:,.0f} MB"))


def _too_long(path: Path, length: str) -> str:
    return (
        f"{path.name} describes objects on {length}, beside the numbers of its tensors, where {PICKLE / 2**20:.0f} MB "
        "describe 30,000 tensors; it was not opened. Save its state dict alone as .safetensors"
    )


@contextmanager
def _allowed_globals() -> Iterator[None]:
    """A context in which the reader of pickles knows `ALLOWED`, and two functions of Python in a bounded form."""
    with _LOCK, torch.serialization.safe_globals(ALLOWED):
        own = _get_allowed_globals()
        before = {name: own[name] for name in _REPLACED if name in own}
        own.update(_REPLACED)
        try:
            yield
        finally:
            own.update(before)


def _read_pickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            archive = file.read(2) == b"PK"
        with _allowed_globals():
            if archive:
                return torch.load(path, map_location="cpu", weights_only=True)
            with _CountedReads(path) as steps:
                return torch.load(steps, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise CheckpointError(_too_long(path, f"more than {PICKLE / 2**20:.0f} MB")) from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path)) from error
    except Exception as error:  # of damaged bytes, the reader raises whatever they lead to
        cause = str(error).strip().partition("\n")[0][:120] or type(error).__name__  # EOFError has no text
        raise CheckpointError(
            f"{path.name} is damaged, incomplete or no checkpoint ({cause}); download it again"
        ) from error


def _refusal(path: Path) -> str:
    """A sentence that lists the objects beside tensors for which the file would run code."""
    try:
        with _allowed_globals():
            others = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # it reads zip archives only, and these bytes may be anything
        others = _names_before_archives(path)
    if classes := [name for name in sorted(others) if name.startswith(LAYERS)]:
        return (
            f"{path.name} holds a whole model, pickled with its classes ({', '.join(classes[:3])}, ...), and code of "
            "others is not run here; nothing in it was run and nothing was loaded. If you trust it, save "
            "torch.load(..., weights_only=False).state_dict() as .safetensors and load that, or give the model itself "
            "to load_checkpoint in Python"
        )
    content = f"asks for {', '.join(sorted(others)[:8])}" if others else "is damaged, or asks for code"
    return (
        f"{path.name} {content}, beside tensors; nothing in it was run and nothing was loaded. "
        "If you trust it, save its state dict alone as .safetensors and load that"
    )


def _names_before_archives(path: Path) -> list[str]:
    """The functions and classes that a file asks for in PyTorch's format before 1.6, one pickle after another, beside
    those that are allowed; as many as can be told without running anything."""
    asked: set[str] = set()
    with _CountedReads(path) as file, suppress(Exception):  # of damaged bytes, whatever they lead to
        for _ in range(4):  # a magic number, the version, the machine, the object
            for code, value, _ in pickletools.genops(file):
                if code.name in ("GLOBAL", "INST"):
                    asked.add(str(value).replace(" ", "."))
    with _allowed_globals():
        return sorted(asked - set(_get_allowed_globals()))


def check_tensor(name: str, value: Any, source: str) -> Tensor:
    """Check that a value is an ordinary dense tensor whose storage holds all of its elements.

    Args:
        name: of the tensor.
        value: from the file.
        source: name of the file, for errors.

    Returns:
        The value.

    Raises:
        CheckpointError: it is anything else.
    """
    if not isinstance(value, Tensor):
        raise CheckpointError(f"{source}: {name} is a {type(value).__name__}, not a tensor")
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise CheckpointError(f"{source}: {name} is no ordinary tensor; save it as a dense one")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise CheckpointError(
            f"{source}: {name} claims {value.numel():,} numbers and holds fewer; the file is damaged or malicious"
        )
    return value

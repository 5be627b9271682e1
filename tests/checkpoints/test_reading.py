"""Reading a file runs nothing in it, and every damage is a sentence that names it."""

from __future__ import annotations

import argparse
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from simpool_viz import load_checkpoint
from simpool_viz.checkpoints.reading import check_tensor, read_file
from simpool_viz.errors import CheckpointError
from tests import made_files as made
from tests.helpers import save_weights


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_malicious_pickle_runs_nothing_and_is_named(tmp_path: Path, legacy: bool) -> None:
    path, touched = tmp_path / "bad.pth", tmp_path / "touched"
    torch.save({"state_dict": made.vit(), "extra": Malicious(touched)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"bad\.pth .*nothing in it was run and nothing was loaded") as caught:
        load_checkpoint(path, device="cpu")
    assert not touched.exists() and (legacy or "system" in str(caught.value))


def test_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Malicious(tmp_path / "touched")))
    with pytest.raises(ValueError, match=r"bad\.pkl"):
        load_checkpoint(tmp_path / "bad.pkl", device="cpu")
    assert not (tmp_path / "touched").exists()


def test_zip_bomb_is_not_opened(tmp_path: Path) -> None:
    path = save_weights(tmp_path, {"a": torch.zeros(2_000_000)}, "good.pth")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"bomb\.pth is compressed and unpacks to 8 MB, which PyTorch never writes"):
        load_checkpoint(tmp_path / "bomb.pth", device="cpu")


def test_compressed_archive_is_not_opened_though_it_unpacks_to_less_than_it_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "odd.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("odd/data.pkl", os.urandom(10_000))  # which no compression makes smaller
    with pytest.raises(ValueError, match=r"odd\.pth is compressed and unpacks to 0 MB"):
        load_checkpoint(tmp_path / "odd.pth", device="cpu")


def repeated(path: Path, content: bytes, times: int) -> None:
    """An archive of one stored entry that its table of contents lists so many times."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bomb/data.pkl", content)
    raw = path.read_bytes()
    start, end = raw.index(b"PK\1\2"), raw.index(b"PK\5\6")
    table, count = raw[start:end] * times, min(times, 65535)
    path.write_bytes(raw[:start] + table + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(table), start, 0))


def test_archive_whose_entries_overlap_is_not_opened(tmp_path: Path) -> None:
    """Stored as PyTorch stores them, but all on the same bytes, so that they unpack to more than the file holds."""
    repeated(tmp_path / "bomb.pth", bytes(2**20), 8)
    with pytest.raises(ValueError, match=r"bomb\.pth .*unpacks to 8 MB"):
        load_checkpoint(tmp_path / "bomb.pth", device="cpu")


def test_archive_of_countless_entries_is_not_opened(tmp_path: Path) -> None:
    """Each takes some 60 bytes of the file and ten times as much of memory, before anything is known of them."""
    repeated(tmp_path / "bomb.pth", b"", 400_000)
    with pytest.raises(ValueError, match=r"bomb\.pth .*table of contents .* was not opened"):
        load_checkpoint(tmp_path / "bomb.pth", device="cpu")


def test_archive_of_many_tensors_is_read(tmp_path: Path) -> None:
    torch.save({f"a.{i}": torch.full((1,), i) for i in range(3000)}, tmp_path / "many.pth")
    content, _ = read_file(tmp_path / "many.pth")
    assert len(content) == 3000 and content["a.2999"].item() == 2999


def test_tensor_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    state = made.vit() | {"head.weight": torch.zeros(1).expand(10**6, 10**5)}
    with pytest.raises(ValueError, match=r"head\.weight claims 100,000,000,000 numbers and holds fewer"):
        load_checkpoint(save_weights(tmp_path, state), device="cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_what_a_tensor_claims_is_compared_in_bytes(dtype: torch.dtype) -> None:
    held = torch.zeros(6, dtype=dtype)
    assert check_tensor("a", held, "x.pth") is held
    for claimed in (7, 11):  # numbers; 6 are held, which are 12 to 48 bytes
        with pytest.raises(ValueError, match=f"a claims {claimed} numbers and holds fewer"):
            check_tensor("a", held.as_strided((claimed,), (0,)), "x.pth")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "legacy.pth"])
@pytest.mark.parametrize(
    "damage", [truncate, lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"hello, this is no checkpoint")]
)
def test_damaged_file_is_a_sentence_that_names_it(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file(made.vit(), path)
    else:
        torch.save(made.vit(), path, _use_new_zipfile_serialization=name != "legacy.pth")
    damage(path)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")) as caught:
        load_checkpoint(path, device="cpu")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_loading_leaves_the_list_of_allowed_globals_as_it_was(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    load_checkpoint(
        save_weights(tmp_path, made.self_supervised(made.vit(cls=False) | made.simpool(128, "simpool."))), device="cpu"
    )
    assert set(torch.serialization.get_safe_globals()) == before


class Reduced:
    """An object whose pickle calls a function and sets a state."""

    def __init__(self, *reduction: Any) -> None:
        self.reduction = reduction

    def __reduce__(self) -> Any:
        return self.reduction


SCALAR = np.float64(0).__reduce__()[0]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "i8", "u2", "b1", ">f8", ">i4"])
def test_numbers_of_numpy_load_as_they_were(tmp_path: Path, kind: str, zipped: bool) -> None:
    number = np.ones(1, kind)[0]
    torch.save({"args": argparse.Namespace(gamma=number)}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    (content, _) = read_file(tmp_path / "a.pth")
    assert content["args"].gamma == number and type(content["args"].gamma) is type(number)


STATES = [(3, "<", None, -1, -1, 0), (3,), (), (3, "x"), "<", 7, None, (3, "<", None, ("a",), {"a": 1}, 8, 1, 16)]
KINDS = ["f8", "O", "V8", "S4", "U99999999", "M8[ns]", "f8,i4", "", "f16", 7, None, [("a", "f8")]]


@pytest.mark.parametrize("state", STATES, ids=repr)
@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_a_kind_of_number_in_any_state_is_a_number_or_a_sentence(tmp_path: Path, kind: Any, state: Any) -> None:
    """numpy's own would end the process: a file with a cut state was found by benchmarks/fuzz.py."""
    given = Reduced(np.dtype, (kind, False, True), state)
    for data in (b"\0" * 8, b"", "text", 5):
        torch.save({"gamma": Reduced(SCALAR, (given, data))}, tmp_path / "a.pth")
        try:
            (content, _) = read_file(tmp_path / "a.pth")
        except CheckpointError as error:
            assert "a.pth" in str(error)
        else:
            assert content == {"gamma": 0.0} and kind == "f8" and data == b"\0" * 8


def test_training_checkpoints_of_numpy_1_and_2_both_load(tmp_path: Path) -> None:
    newer = save_weights(
        tmp_path, made.self_supervised(made.vit(cls=False) | made.simpool(128, "simpool.")), "newer.pth"
    )
    older = made.with_numpy_1_names(newer, tmp_path / "older.pth")
    first, second = (load_checkpoint(path, device="cpu") for path in (newer, older))
    assert torch.equal(first.pooling.wq.weight, second.pooling.wq.weight)


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "before PyTorch 1.6"])
@pytest.mark.parametrize("where", ["whole", "entry"])
@pytest.mark.parametrize("package", ["timm", "torchvision", "torch"])
def test_whole_model_is_not_unpickled_and_the_sentence_says_what_to_do(
    tmp_path: Path, package: str, where: str, archive: bool
) -> None:
    if package == "timm":
        model: Any = timm.create_model("vit_tiny_patch16_224", depth=1)
    else:
        model = torchvision.models.resnet18() if package == "torchvision" else torch.nn.Linear(2, 2)
    saved = model if where == "whole" else {"epoch": 1, "model": model}
    torch.save(saved, tmp_path / "whole.pt", _use_new_zipfile_serialization=archive)
    with pytest.raises(
        ValueError, match=r"whole\.pt holds a whole model, pickled with its classes .*not run"
    ) as caught:
        load_checkpoint(tmp_path / "whole.pt", device="cpu")
    assert "state_dict() as .safetensors" in str(caught.value) and "load_checkpoint in Python" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.pth", b"<!DOCTYPE html><html><head>", "is a web page, as a download gives that first asks"),
        ("a.safetensors", b"\n <html>", "is a web page"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), "is a file of another framework"),
        ("a.onnx", b"\x08\x07\x12\x07pytorch", "is a file of another framework"),
    ],
)
def test_file_that_is_no_checkpoint_of_pytorch_is_told_apart(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name.replace('.', chr(92) + '.')} {says}"):
        load_checkpoint(tmp_path / name, device="cpu")


def test_program_of_torch_export_is_refused_in_a_sentence(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "a.pt2")
    with pytest.raises(ValueError, match=r"a\.pt2 is a program of torch\.export with its weights"):
        load_checkpoint(tmp_path / "a.pt2", device="cpu")

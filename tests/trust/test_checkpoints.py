"""Hostile checkpoints: what they may cost is bounded before anything in them is believed."""

from __future__ import annotations

import json
import os
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file

from simpool_viz import load_checkpoint
from simpool_viz.app.events import refusal
from simpool_viz.bundled import bundled_folder
from simpool_viz.checkpoints import reading
from simpool_viz.checkpoints.bundle import load_bundle
from simpool_viz.checkpoints.formats import containers
from simpool_viz.checkpoints.reading import PICKLE, TABLE, read_file, read_safetensors
from simpool_viz.errors import CheckpointError
from tests import made_files as made


def archive(path: Path, pickled: bytes) -> Path:
    """A file as PyTorch writes it, with this pickle in it."""
    torch.save({}, path)
    with zipfile.ZipFile(path) as old:
        others = {entry.filename: old.read(entry) for entry in old.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, content in others.items():
            new.writestr(name, pickled if name.endswith("data.pkl") else content)
    return path


def legacy(path: Path, pickled: bytes) -> Path:
    """A file as PyTorch wrote it before it used archives."""
    torch.save({}, path, _use_new_zipfile_serialization=False)
    whole, empty = path.read_bytes(), b"\x80\x02}q\x00.\x80\x02]q\x00."
    assert whole.endswith(empty), "a table of no objects, and a list of no tensors"
    path.write_bytes(whole[: -len(empty)] + pickled + b"\x80\x02]q\x00.")
    return path


FORMS = [archive, legacy]


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def encoded(value: str, *codecs: str) -> bytes:
    """A table with a text that goes through codecs, each in place of the one before."""
    inner = text(value)
    for codec in codecs:
        inner = b"c_codecs\nencode\n" + inner + text(codec) + b"\x86R"
    return b"\x80\x02}" + text("a") + inner + b"s."


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("codec", ["hex", "punycode", "utf-8", "idna", "zlib", "rot13", "../../etc/passwd", "x" * 500])
def test_codecs_that_enlarge_are_slow_or_unknown_are_not_reached(
    tmp_path: Path, form: Callable[[Path, bytes], Path], codec: str
) -> None:
    path = form(tmp_path / "a.pth", encoded("a" * 300_000, codec))
    before = time.process_time()
    with pytest.raises(CheckpointError, match=r"a\.pth is damaged.*codec") as caught:
        read_file(path)
    assert time.process_time() - before < 20 and "site-packages" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("codec", ["latin1", "latin-1", "ascii"])
def test_bytes_as_protocol_2_writes_them_are_read(
    tmp_path: Path, form: Callable[[Path, bytes], Path], codec: str
) -> None:
    assert read_file(form(tmp_path / "a.pth", encoded("abc", codec)))[0] == {"a": b"abc"}


@pytest.mark.parametrize("form", FORMS)
def test_array_of_bytes_takes_no_memory_by_its_length_alone(
    tmp_path: Path, form: Callable[[Path, bytes], Path]
) -> None:
    huge = b"\x80\x02}" + text("a") + b"cbuiltins\nbytearray\nJ" + struct.pack("<i", 2**30) + b"\x85Rs."
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"a\.pth is damaged"):
            read_file(form(tmp_path / "a.pth", huge))
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()
    assert bytearray(3) == b"\0\0\0", "Python's own is left as it was"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", [b"]", b"}", b"\x8f", b")"])
def test_pickle_of_countless_objects_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Callable[[Path, bytes], Path], step: bytes
) -> None:
    monkeypatch.setattr(reading, "PICKLE", 2**14)
    path = form(tmp_path / "a.pth", b"\x80\x02(" + step * 2**15 + b"\x65.")
    with pytest.raises(CheckpointError, match=r"a\.pth describes objects on .* it was not opened"):
        read_file(path)


def test_pickle_of_60_mb_is_given_up_in_an_instant(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pth", b"\x80\x02(" + b"]" * (60 * 2**20) + b"l.")
    before = time.process_time()
    with pytest.raises(CheckpointError, match="describes objects on 60 MB"):
        read_file(path)
    assert time.process_time() - before < 20
    assert PICKLE <= 2**22, "4 million sets of Python take 1 GB"


def test_checkpoints_of_both_forms_are_read_within_the_limits(tmp_path: Path) -> None:
    state = {f"blocks.{i}.weight": torch.full((3, 2), float(i)) for i in range(3000)}
    for number, zipped in enumerate((True, False)):
        torch.save({"model": state, "epoch": 3}, tmp_path / f"{number}.pth", _use_new_zipfile_serialization=zipped)
        content, _ = read_file(tmp_path / f"{number}.pth")
        assert content["epoch"] == 3
        assert all(torch.equal(content["model"][key], value) for key, value in state.items())


def test_a_million_tiny_tensors_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = {f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(4000)}
    raw = json.dumps(header).encode()
    monkeypatch.setattr(reading, "TABLE", len(raw) - 1)
    assert TABLE <= 2**24
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)
    with pytest.raises(CheckpointError, match=r"a\.safetensors has a header of \d+ MB"):
        read_file(tmp_path / "a.safetensors")


def test_model_of_more_tensors_than_any_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a ViT of 10,000 blocks, whose layers take longer to make than its numbers to read."""
    monkeypatch.setattr(containers, "MOST_TENSORS", 40)
    torch.save(made.vit(depth=8), tmp_path / "deep.pth")
    with pytest.raises(CheckpointError, match=r"deep\.pth holds \d+ tensors; at most 40 are read as one model"):
        load_checkpoint(tmp_path / "deep.pth", device="cpu")
    torch.save(made.vit(depth=1), tmp_path / "small.pth")
    assert load_checkpoint(tmp_path / "small.pth", device="cpu").depth == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    for name in ("pipe.pth", "pipe.safetensors"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(CheckpointError, match="is a pipe or a device, not a file"):
            load_checkpoint(tmp_path / name, device="cpu")


def test_tensors_live_on_when_their_file_is_cut(tmp_path: Path) -> None:
    """Of a mapped file, the next number that is read would end the process (SIGBUS)."""
    state = {"a": torch.arange(2_000_000.0), "b": torch.ones(3, dtype=torch.bfloat16)}
    save_file(state, tmp_path / "a.safetensors", {"title": "T"})
    read, metadata = read_safetensors(tmp_path / "a.safetensors")
    os.truncate(tmp_path / "a.safetensors", 10)
    assert all(torch.equal(read[key], value) and read[key].dtype == value.dtype for key, value in state.items())
    assert metadata == {"title": "T"}


def test_what_is_read_is_what_the_library_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(made.vit(), tmp_path / "a.safetensors", {"k": "ü"})
    expected = load_tensors(tmp_path / "a.safetensors")
    for limit in (2**30, 0):
        monkeypatch.setattr(reading, "IN_MEMORY", limit)
        read, metadata = read_safetensors(tmp_path / "a.safetensors")
        assert read.keys() == expected.keys() and all(torch.equal(read[key], expected[key]) for key in read)
        assert metadata == {"k": "ü"}


@pytest.mark.parametrize("version", [99, 255])
def test_archive_of_an_unknown_version_is_a_sentence(tmp_path: Path, version: int) -> None:
    torch.save(made.vit(depth=1), tmp_path / "a.pth")
    raw = bytearray((tmp_path / "a.pth").read_bytes())
    place = -1
    while (place := raw.find(b"PK\1\2", place + 1)) >= 0:
        raw[place + 6 : place + 8] = struct.pack("<H", version)
    (tmp_path / "a.pth").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"a\.pth is damaged or incomplete"):
        read_file(tmp_path / "a.pth")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("entry", ["state_dict", "x"])
def test_half_characters_and_odd_names_are_refused_in_text_that_can_be_sent(
    tmp_path: Path, form: Callable[[Path, bytes], Path], entry: str
) -> None:
    for odd in (text("blocks\ud800"), b"N", b"K\1", b")" + b"\x85" * 5000):
        table = b"}" + odd + b"K\1s"
        path = form(tmp_path / "a.pth", b"\x80\x02}" + text(entry) + table + b"s" + odd + b"K\2s.")
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(path, device="cpu")
        assert str(caught.value).encode() and len(str(caught.value)) < 400


def test_half_characters_of_a_name_do_not_cost_the_visitor_the_answer() -> None:
    assert isinstance(refusal("a\udcff.pth is empty"), gr.Error)
    assert str(refusal("a\udcff.pth is empty").message) == "a?.pth is empty."


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_metadata_nested_without_end_is_a_sentence(tmp_path: Path, opening: str) -> None:
    save_file(made.vit(depth=1), tmp_path / "a.safetensors", {"simpool_viz": opening * 100_000})
    with pytest.raises(CheckpointError, match="does not record what it was converted from"):
        load_checkpoint(tmp_path / "a.safetensors", device="cpu")


# --- config.json ---


def copied(folder: Path, change: Callable[[Any], Any]) -> Path:
    source = bundled_folder("models") / "resnet_simpool"
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    change(config)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    return folder


def vit(**kwargs: Any) -> Callable[[Any], Any]:
    return lambda config: config["encoder"].update(
        backbone="vit_tiny_patch16_224", backbone_kwargs=kwargs, stem_pool=True, pooling="gap", pooling_options={}
    )


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (vit(depth=3000), "backbone_kwargs.depth is at most 256"),
        (vit(depth=0), "backbone_kwargs.depth is at least 1"),
        (vit(embed_dim=0), "backbone_kwargs.embed_dim is at least 1"),
        (vit(embed_dim=10**9), "backbone_kwargs.embed_dim is at most 16,384"),
        (vit(norm_layer="nothing"), "backbone_kwargs.norm_layer is the name of one of timm's layers"),
        (vit(act_layer="nothing"), "backbone_kwargs.act_layer is the name of one of timm's layers"),
        (vit(norm_layer=""), "backbone_kwargs.norm_layer is the name of one of timm's layers"),
        (vit(act_layer=7), "backbone_kwargs.act_layer"),
        (
            lambda c: c["encoder"]["backbone_kwargs"].update(layers=[3, 3, 10**6, 3]),
            "backbone_kwargs.layers is at most",
        ),
        (lambda c: c["facts"].update(mean="grey"), "facts.mean is a list"),
        (lambda c: c["facts"].update(mean=["a", "b", "c"]), "facts.mean"),
        (lambda c: c["facts"].update(std=[0, 1, 1]), "facts.std"),
        (lambda c: c["facts"].update(size=-3), "facts.size"),
    ],
)
def test_config_is_refused_with_the_key(tmp_path: Path, change: Callable[[Any], Any], key: str) -> None:
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        load_bundle(copied(tmp_path, change))


def test_config_of_a_model_far_larger_than_its_file_takes_no_memory(tmp_path: Path) -> None:
    """Within every single limit it would be a model of 800 billion numbers."""
    with pytest.raises(CheckpointError, match=r"does not fit its encoder: .* is missing"):
        load_bundle(copied(tmp_path, vit(depth=256, embed_dim=16_384, num_heads=4)))


def test_config_nested_without_end_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match=r"config\.json is not readable as JSON"):
        load_bundle(tmp_path)

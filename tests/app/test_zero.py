"""Boards on a ZeroGPU Space: in a forked process, with names and photos going in and arrays coming out."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from simpool_viz import Board, OptionError, Settings, load_checkpoints, make_board, read_picture
from simpool_viz.app.compare import ComparePage
from simpool_viz.app.own_checkpoint import OwnCheckpoints
from simpool_viz.app.store import EncoderStore
from simpool_viz.app.zero import LONGEST_CALL, BoardMaker, ZeroGpu, estimated, find_package
from simpool_viz.bundled import bundled_folder
from simpool_viz.errors import CheckpointError, MapError
from simpool_viz.maps.request import MapRequest
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.references import read_reference

EXAMPLE = bundled_folder("assets") / "chelsea.jpg"
MASK = bundled_folder("assets") / "masks" / "chelsea.png"
NAMES = ["resnet_gap?size=96", "resnet_simpool?size=96"]


class NoTensors(pickle.Pickler):
    """Refuses what must not travel between processes."""

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, (torch.Tensor, torch.nn.Module)):
            raise pickle.PicklingError(f"a {type(thing).__name__} was sent")
        return NotImplemented


def packed(thing: Any) -> bytes:
    out = io.BytesIO()
    NoTensors(out).dump(thing)
    return out.getvalue()


class Forking:
    """Stands for `spaces` on a Space: each call runs in a process of its own, forked when it is made."""

    def __init__(self) -> None:
        self.durations: list[int] = []
        self.processes: list[int] = []

    def GPU(self, *, duration: Callable[..., int]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        context = multiprocessing.get_context("fork")

        def decorate(task: Callable[..., Any]) -> Callable[..., Any]:
            def work(given: bytes, results: Any) -> None:
                torch.set_num_threads(1)
                try:
                    for one in task(*pickle.loads(given)):
                        results.put((os.getpid(), packed(one)))
                except BaseException as error:
                    results.put((os.getpid(), repr(error)))
                results.put(None)

            def call(*given: Any) -> Iterator[Any]:
                self.durations.append(duration(*given))
                results = context.Queue()
                process = context.Process(target=work, args=(packed(given), results), daemon=True)
                process.start()
                while (found := results.get(timeout=120)) is not None:
                    self.processes.append(found[0])
                    if isinstance(found[1], str):
                        raise RuntimeError(f"ZeroGPU worker error: {found[1]}")
                    yield pickle.loads(found[1])
                process.join()

            return call

        return decorate


def nobody(name: str, own: OwnCheckpoints | None = None) -> Encoder:
    raise AssertionError(f"{name} was loaded in this process")


def same(found: Board, wanted: Board) -> None:
    assert [(row.checkpoint, row.request.label) for row in found.rows] == [
        (row.checkpoint, row.request.label) for row in wanted.rows
    ]
    for one, other in zip(found.rows, wanted.rows, strict=True):
        np.testing.assert_allclose(one.attention.weights, other.attention.weights, rtol=1e-5, atol=1e-8)
        assert one.scores.keys() == other.scores.keys() and one.picture == other.picture
    assert found.skipped == wanted.skipped and len(found.pictures) == len(wanted.pictures)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the package forks")
def test_a_board_of_a_forked_process_is_that_of_python_and_no_tensor_travels() -> None:
    package = Forking()
    maker = BoardMaker(nobody, ZeroGpu(package, "cpu"))
    truth, picture = read_reference(MASK), read_picture(EXAMPLE)
    wanted = make_board([EXAMPLE], load_checkpoints(NAMES, device="cpu"), ["own", "pooling"], None, {0: truth})
    requests = [MapRequest("own"), MapRequest("pooling")]
    growing = list(maker.iterate([picture], NAMES, requests, Settings(), {0: truth}))
    assert [len(board.rows) for board in growing] == [1, 2] or len(growing) == 2
    same(growing[-1], wanted)
    assert len(package.durations) == 1 and os.getpid() not in package.processes and len(set(package.processes)) == 1
    assert np.array_equal(growing[-1].references[0].objects, wanted.references[0].objects)


def test_boards_there_are_computed_in_the_precision_of_the_app() -> None:
    assert ZeroGpu(Forking(), "cpu", "bfloat16").store.where() == "cpu, bfloat16"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the package forks")
def test_errors_of_the_forked_process_are_our_sentences() -> None:
    maker = BoardMaker(nobody, ZeroGpu(Forking(), "cpu"))
    picture = read_picture(EXAMPLE)
    with pytest.raises(CheckpointError, match="no bundled checkpoint is called 'nobody'"):
        maker.make([picture], ["nobody"], ["own"], Settings())
    with pytest.raises(MapError, match="none of these checkpoints has any of these maps"):
        maker.make([picture], NAMES[:1], ["cls"], Settings())
    with pytest.raises(OptionError):
        maker.make([picture], NAMES[:1], ["own"], Settings(mask="mass:7"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the package forks")
def test_the_page_makes_its_boards_there_and_its_first_one_and_own_checkpoints_here(resnet: Encoder) -> None:
    package = Forking()
    page = ComparePage(EncoderStore("cpu"), ZeroGpu(package, "cpu"))
    page.first_checkpoints = NAMES
    assert page.first_board() is not None and not package.durations, "opening the page costs nobody's quota"
    *_, last = page.run(str(EXAMPLE), NAMES, ["own"])
    assert len(package.durations) == 1 and len(last.board.rows) == 2
    own = OwnCheckpoints()
    own.encoders["mine"] = resnet
    *_, last = page.run(str(EXAMPLE), ["mine"], ["own"], own)
    assert len(package.durations) == 1 and len(last.board.rows) == 1


def test_the_package_itself_is_inert_off_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("spaces")
    monkeypatch.setenv("SPACES_ZERO_GPU", "")
    import spaces

    maker = BoardMaker(nobody, ZeroGpu(spaces, "cpu"))
    found = maker.make([read_picture(EXAMPLE)], NAMES, ["own"], Settings())
    same(found, make_board([EXAMPLE], load_checkpoints(NAMES, device="cpu"), ["own"]))


def test_the_package_is_used_on_a_zerogpu_space_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    assert find_package({}) is None and find_package({"SPACES_ZERO_GPU": "false"}) is None
    stand_in = SimpleNamespace(GPU=None)
    monkeypatch.setitem(sys.modules, "spaces", stand_in)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: stand_in)
    assert find_package({"SPACES_ZERO_GPU": "true"}) is stand_in and find_package({}) is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_package({"SPACES_ZERO_GPU": "1"}) is None and "without the package spaces" in caplog.text


def test_a_call_asks_for_more_seconds_the_more_there_is_to_do_and_never_for_many() -> None:
    picture, own = read_picture(EXAMPLE), [MapRequest("own")]
    one = estimated([picture], NAMES[:1], own)
    assert 5 <= one <= 10
    assert one < estimated([picture] * 6, NAMES, own) < estimated([picture] * 6, ["vit_cls?size=448"] * 2, own)
    assert estimated([picture] * 12, ["vit_cls?size=1792"] * 12, own * 5) == LONGEST_CALL

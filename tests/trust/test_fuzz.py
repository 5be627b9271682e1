"""The fuzzer of `benchmarks/fuzz.py` on a few inputs of each kind: it finds what is wrong, and here nothing is."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import fuzz
from simpool_viz.errors import PictureError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no alarms and no limits of memory here")


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_mutated_files_are_read_or_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    count, found = fuzz.run(kind, 600, seed=3, keep=tmp_path / "found", most=150)
    assert count == 150 and not found, found


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_unchanged_seeds_are_read(kind: str, tmp_path: Path) -> None:
    make, _, name = fuzz.KINDS[kind]
    reader = fuzz.read_picture if kind == "pictures" else fuzz.read_weights
    for data in make():
        (tmp_path / name).write_bytes(data)
        if b"simpool_viz" not in data[:200]:  # a converted file says what it was converted from; the seed does not
            reader(tmp_path / name)


def test_finding_is_counted_and_kept_and_a_sentence_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> None:
        if len(path.read_bytes()) % 2:
            raise KeyError("of a decoder")
        try:
            raise PictureError("a sentence")
        except PictureError:
            return

    monkeypatch.setitem(fuzz.KINDS, "pictures", (fuzz.pictures, read, "photo.jpg"))
    count, found = fuzz.run("pictures", 600, seed=1, keep=tmp_path / "found", most=40)
    assert list(found) == ["KeyError: 'of a decoder'"] and 0 < found.total() < count == 40
    kept = list((tmp_path / "found").iterdir())
    assert len(kept) == min(3, found.total()) and all(len(path.read_bytes()) % 2 for path in kept)


def test_input_that_ends_the_process_is_a_finding_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = tmp_path / "once"

    def read(path: Path) -> None:
        if not marked.exists() and path.read_bytes()[:1] == b"G":
            marked.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)

    monkeypatch.setitem(fuzz.KINDS, "pictures", (fuzz.pictures, read, "photo.jpg"))
    count, found = fuzz.run_supervised("pictures", 3, seed=1, keep=tmp_path / "found")
    assert found == {"the process ended with status -9": 1} and count > 30
    (kept,) = (tmp_path / "found").iterdir()
    assert kept.read_bytes()[:1] == b"G"


FINDINGS = sorted((Path(__file__).parent / "findings").iterdir())


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda path: path.name)
def test_what_was_found_once_is_read_or_refused_now(finding: Path, tmp_path: Path) -> None:
    _, read, name = fuzz.KINDS[finding.name.partition("-")[0]]
    (tmp_path / name).write_bytes(finding.read_bytes())
    read(tmp_path / name)


def test_a_seed_gives_the_same_inputs() -> None:
    seeds = fuzz.pictures()[:4]
    first, second = ([fuzz.mutated(seeds, draw) for _ in range(20)] for draw in (random.Random(5), random.Random(5)))
    assert first == second and len(set(first)) > 15

"""The benchmark's own parts: every subject does its work on a small ViT, equals are compared, and tables and medians
are right."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import batch, life, measure, subjects, waits
from benchmarks import changes as compare_runs
from simpool_viz.app.allocator import give_back
from simpool_viz.images import Geometry
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.pooling import create_pooling
from simpool_viz.outputs import markdown_table
from simpool_viz.scores.results import bundled_results


@pytest.fixture(scope="module")
def setup() -> subjects.Setup:
    """A ViT-S for 32 x 32 pixels, two pictures."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", img_size=32, patch_size=8, num_classes=1000).eval()
    encoder = Encoder(model, create_pooling("simpool", 384), head=model.head, facts=Facts("small", size=32)).eval()
    return subjects.Setup(model, encoder, torch.randn(2, 3, 32, 32), Geometry((32, 32), (4, 4), 8))


@pytest.mark.parametrize("name", subjects.SUBJECTS)
def test_every_subject_does_its_work_and_leaves_the_model_as_it_was(setup: subjects.Setup, name: str) -> None:
    try:
        result = subjects.SUBJECTS[name](setup)()
    except ImportError as error:
        pytest.skip(f"{error.name} is not installed")
    assert result is not None
    assert all(block.attn.fused_attn for block in setup.model.blocks)
    assert not any(m._forward_hooks for m in setup.model.modules())


def test_equals_are_compared(setup: subjects.Setup) -> None:
    assert subjects.check_same(setup) < 1e-4


@pytest.mark.parametrize(
    "name", [*subjects.OURS, "eager N x N: CLS, roll-out, dense", "timm AttentionExtract + products"]
)
def test_subjects_run_in_half_precision_as_on_a_gpu(setup: subjects.Setup, name: str) -> None:
    halves = dataclasses.replace(setup, encoder=copy.deepcopy(setup.encoder).half(), images=setup.images.half())
    halves = dataclasses.replace(halves, model=halves.encoder.backbone)
    assert subjects.SUBJECTS[name](halves)() is not None
    if name == "every map in one request":
        assert subjects.check_same(halves) < 2e-2, "their products run in half precision, ours in float32"


class FakeCuda:
    """Stands for `torch.cuda`: events that tick every 3 ms, and memory that grows by 500 bytes."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.now = 0.0

    class Event:
        def __init__(self, fake: FakeCuda, enable_timing: bool) -> None:
            self.fake, self.timing = fake, enable_timing

        def record(self) -> None:
            assert self.timing
            self.fake.now += 3.0
            self.at = self.fake.now
            self.fake.calls.append("record")

        def elapsed_time(self, other: FakeCuda.Event) -> float:
            return other.at - self.at

    def synchronize(self) -> None:
        self.calls.append("synchronize")


def test_a_gpu_is_timed_by_its_events_and_asked_for_its_own_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: FakeCuda.Event(fake, enable_timing))
    monkeypatch.setattr(torch.cuda, "synchronize", fake.synchronize)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: fake.calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 200)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 700)
    assert measure.seconds(lambda: fake.calls.append("work"), "cuda:0") == pytest.approx(0.003)
    assert fake.calls == ["synchronize", "record", "work", "record", "synchronize"]
    fake.calls.clear()
    assert measure.peak_of(lambda: fake.calls.append("work"), "cuda") == 500
    assert fake.calls == ["synchronize", "reset", "work", "synchronize"]


def test_the_model_of_legrad_is_the_same_model(setup: subjects.Setup) -> None:
    twin = subjects._as_torchvision(setup)
    with torch.inference_mode():
        np.testing.assert_allclose(twin(setup.images).numpy(), setup.model(setup.images).numpy(), rtol=1e-3, atol=1e-4)


def test_medians_turns_and_tables() -> None:
    assert measure.quartiles([3.0, 1.0, 2.0]) == (2.0, 1.5, 2.5) and measure.quartiles([4.0]) == (4.0, 4.0, 4.0)
    calls: list[str] = []
    works = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    taken = measure.in_turns(works, 4, slow=frozenset("b"))
    assert calls == ["a", "a", "b", "a", "a", "a", "b"] and [len(t) for t in taken.values()] == [4, 2]
    assert markdown_table(["x", "y"], [["1", "2"]]) == "| x | y |\n| --- | --- |\n| 1 | 2 |"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak where Linux tells it")
def test_a_peak_is_what_stood_in_memory_at_once() -> None:
    code = (
        "import numpy as np; from benchmarks.measure import peak_of; print(peak_of(lambda: [np.ones(10**7), "
        "np.ones(10**7)]))"
    )
    root = Path(__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, cwd=root)
    assert 155_000_000 < int(result.stdout) < 190_000_000, result.stderr


def test_memory_of_a_process_and_its_children_is_seen_along_the_way() -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("the system does not say what a process has")
    give_back()  # or what other tests have freed is used again
    before = batch.memory_of_tree(os.getpid())
    held = np.ones(2**28, np.uint8)
    assert batch.memory_of_tree(os.getpid()) - before > 0.5 * held.nbytes
    alone = batch.memory_of_tree(os.getpid())
    code = "x = bytearray(b'1' * 2**25); print(1, flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline()
    assert batch.memory_of_tree(os.getpid()) - alone > 0.8 * 2**25
    child.communicate(b"\n")
    assert held[0] == 1


def test_the_rate_of_a_run_leaves_out_its_beginning_and_its_end() -> None:
    stamps = [10.0, 12.0, 14.0, 16.0, 99.0]  # the first part waits for processes to start, the last is short
    assert batch._steady_rate(stamps, 4 * batch.PICTURES + 3, 200.0) == pytest.approx(batch.PICTURES / 2)
    assert batch._steady_rate([10.0], 50, 20.0) == 2.5


# --- two runs ---------------------------------------------------------------------------------------------------------


def a_run(path: Path, factor: float, seed: int, machine: str = "a processor, float32; 2 threads; Python 3.11") -> Path:
    """A file of `run.py --json` with made-up values: one figure by a factor, one of noise alone, one of few rounds."""
    draw, samples = np.random.default_rng(seed), measure.Samples()
    assert samples.add("roll-out", "x", list(factor * draw.normal(1.4, 0.02, 9))) == pytest.approx(1.4 * factor, 0.03)
    samples.add("click", "ms", list(draw.normal(11, 2, 20)))
    samples.add("peak", "MiB", [100 * factor])
    samples.save(path, machine)
    return path


@pytest.mark.parametrize(("factor", "status", "word"), [(1.1, 1, "slower"), (0.9, 0, "faster"), (1.0, 0, "")])
def test_two_runs_differ_where_a_figure_moved_beyond_the_noise_of_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float, status: int, word: str
) -> None:
    before, now = a_run(tmp_path / "before.json", 1.0, 1), a_run(tmp_path / "now.json", factor, 2)
    assert compare_runs.main([str(before), str(now)]) == status
    out = capsys.readouterr().out
    assert ("| roll-out |" in out) == bool(word) and word in out and "| click |" not in out
    assert f"{2 - bool(word)} of 3 figures moved no further" in out and "1 have fewer than 5 values" in out


def test_a_wide_spread_of_either_run_hides_no_less_than_it_should() -> None:
    quiet, noisy = [1.0 + 0.001 * i for i in range(9)], [1.0 + 0.5 * (i % 3) for i in range(9)]
    assert compare_runs.change("a", "s", quiet, [1.02 + 0.001 * i for i in range(9)]).moved == "slower"
    assert compare_runs.change("a", "s", quiet, noisy).moved == ""
    assert compare_runs.change("a", "s", noisy, [value + 0.4 for value in noisy]).moved == ""
    assert compare_runs.change("a", "s", quiet[:4], [2.0, 2.0, 2.0, 2.0]).moved == "few"
    assert compare_runs.change("a", "s", quiet, [0.5] * 9).ratio == pytest.approx(0.5 / 1.004)


def test_runs_that_cannot_be_compared_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = a_run(tmp_path / "1.json", 1, 1), a_run(tmp_path / "2.json", 1, 1, "another; 8 threads; Python 3.11")
    assert compare_runs.main([str(one), str(other)]) == 2 and "measure both on one machine" in capsys.readouterr().err
    empty = tmp_path / "3.json"
    measure.Samples().save(empty, "a processor, float32; 2 threads; Python 3.12")
    assert compare_runs.main([str(one), str(empty)]) == 2 and "no figure in common" in capsys.readouterr().err
    assert compare_runs.main([str(one), str(tmp_path / "none.json")]) == 2 and "No such file" in capsys.readouterr().err
    samples = measure.Samples({"click": [1.0]}, {"click": "ms"})
    with pytest.raises(ValueError, match="click was measured twice"):
        samples.add("click", "ms", [2.0])


def test_the_bundled_table_of_what_life_costs_has_its_models_with_and_without_it() -> None:
    table = bundled_results().tables[life.TABLE]
    kinds = [f"{name}, {kind}" for name in life.MODELS for kind in ("plain", "LIFE")]
    assert [row["model"] for row in table.rows] == kinds
    assert all(row["forward"] == 1 and row["step"] == 1 for row in table.rows[::2])


def test_life_costs_the_depthwise_convolutions_and_their_weights() -> None:
    """At 64 px, of 4 blocks of 192 channels and 64 patches: three products of C x C make way for three others."""
    (plain, size), (with_life, _) = (life.build("patch_vit", kind) for kind in (False, True))
    channels, patches, blocks, depthwise = 192, 64, 4, 3 * 3 + 5 * 5
    more = life.operations(with_life, size) - life.operations(plain, size)
    # The class token passes the first and both pointwise layers too, as it passes the plain projection.
    assert more == pytest.approx(blocks * depthwise * channels * patches / 1e6, rel=0.01)
    wide = {name: value.numel() for name, value in with_life.named_parameters() if "depthwise" in name}
    assert sum(wide.values()) == blocks * depthwise * channels
    rows = life.rows_of("patch_vit", rounds=1)
    assert [row["model"] for row in rows] == ["patch_vit, plain", "patch_vit, LIFE"]
    assert all(float(str(row["memory"])) > 0 and row["step"] for row in rows)


def test_waits_import_the_package_of_another_checkout_and_the_measures_of_this_one(tmp_path: Path) -> None:
    home = Path(__file__).parent.parent
    (tmp_path / "simpool_viz").mkdir()
    (tmp_path / "simpool_viz" / "__init__.py").touch()
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    code = f"""
import sys
from importlib.util import find_spec
sys.path.insert(0, {str(home)!r})
from benchmarks import waits
waits._use({str(tmp_path)!r})
sys.path.insert(0, {str(home)!r})  # as the measures do
import simpool_viz
print(simpool_viz.__file__)
print(find_spec("benchmarks.start").origin)
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    package, measures = map(Path, told.stdout.split())
    assert package.parent == tmp_path / "simpool_viz" and measures.parent == home / "benchmarks"


def test_waits_tell_a_line_for_each_figure_and_a_cell_for_each_checkout() -> None:
    home = Path(__file__).parent.parent
    every, eager_line = waits._rows("maps", {"before": home, "now": home}, [], 1, tokens=(50,))
    assert (
        every[0] == "every map, x the forward, 50 tokens" and eager_line[0] == "eager N x N, x the forward, 50 tokens"
    )
    assert all(float(cell) > 0.5 for line in (every, eager_line) for cell in line[1:])


def test_a_cell_of_waits_tells_the_median_and_the_range() -> None:
    assert waits._cell([3.0, 1.0, 2.04]) == "2.04 (1 to 3)" and waits._cell([0.25]) == "0.25" and waits._cell([]) == ""

"""The engine on Ray gives what the local one gives, to the last digit, also where its processes are killed."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from simpool_viz.batch import engine, ray_engine
from simpool_viz.batch.boards import Job
from simpool_viz.batch.engine import Made, PartReport, cut_to_parts
from simpool_viz.batch.inputs import Item, find_items
from simpool_viz.batch.part_files import MANIFEST, Cluster, PartFiles, part_paths, report_of, run_parts
from simpool_viz.batch.places import Remote
from simpool_viz.batch.rows import BoardWork
from simpool_viz.board.board import Settings
from simpool_viz.errors import DataError, MapError, OptionError, SimpoolError
from simpool_viz.evaluation import keeping
from simpool_viz.evaluation.datasets import open_data_set
from simpool_viz.evaluation.keeping import EvaluationWork, evaluate_into
from simpool_viz.evaluation.passes import Pace
from simpool_viz.maps.request import parse_map
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import make_mask_set, make_photo

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One for all tests: two copies of the models, a task that reads and one that writes."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [before])])
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # On a busy machine Ray's own patience is too short, and its workers starve.
    patience = {"worker_register_timeout_seconds": "600", "worker_niceness": "0"}
    for name, value in patience.items():
        os.environ.setdefault(f"RAY_{name}", value)
    try:
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
    except Exception as error:
        ray.shutdown()
        if os.environ.get("CI"):
            raise
        pytest.skip(f"Ray, which gives its own start 30 s, does not start on this machine: {error}")
    yield
    ray.shutdown()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def end_once(mark: Path) -> None:
    """End this process as the system does when memory runs out, if no other has."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def read_or_end(key: str, place: Any, read: Callable[[str, Any], Any], marks: Path, key_of_end: str = "07.png") -> Any:
    if key == key_of_end:
        end_once(marks / "reader")
    return read(key, place)


@dataclass(frozen=True)
class Killed(BoardWork):
    """A `BoardWork` of which a reader and a model are killed once, in the middle of their part."""

    marks: Path = Path()

    @property
    def read(self) -> Callable[[str, Any], Any]:
        return partial(read_or_end, read=super().read, marks=self.marks)

    def record(self, read: Iterator[Any]) -> Iterator[Made]:
        for number, one in enumerate(super().record(read)):
            if number == 2:
                end_once(self.marks / "model")
            yield one


def test_result_is_the_local_one_also_after_lost_processes(cluster: None, resnet: Encoder, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(14):
        width, height = (91, 60) if i % 3 else (64, 100)
        Image.fromarray(make_photo(width, height, i)).save(photos / f"{i:02}.png")
    (photos / "05.png").write_bytes(b"no picture")
    job = Job([resnet], [parse_map(m) for m in ("pooling", "gradcam")], Settings(size=64))
    items, options = find_items([photos]), {"settings": {}, "size": 4}
    local = run_parts(BoardWork(job, batch=2), items, tmp_path / "local", **options, cluster=Cluster(workers=1))
    # The first part stands there already, from the other engine.
    begun = tmp_path / "ray"
    run_parts(BoardWork(job, batch=2), items, begun, **options, cluster=Cluster(workers=1))
    for path in [begun / MANIFEST, *part_paths(begun)[1:]]:
        path.unlink()
    kept = part_paths(begun)[0].stat().st_mtime_ns
    report = run_parts(Killed(job, batch=2, marks=tmp_path), items, begun, **options, cluster=Cluster("ray", models=2))
    assert (tmp_path / "reader").exists() and (tmp_path / "model").exists(), "both were killed"
    assert report.earlier == 4 and report.done == local.done == 13 and report.faults == local.faults
    assert part_paths(begun)[0].stat().st_mtime_ns == kept, "what was done is not done again"
    for one, other in zip(part_paths(tmp_path / "local"), part_paths(begun), strict=True):
        assert parquet.read_table(one).equals(parquet.read_table(other), check_metadata=True)
    names = {path.name for path in begun.iterdir()}
    assert not {name for name in names if name.startswith(".part-")} and MANIFEST in names


@dataclass(frozen=True)
class KilledEvaluation(EvaluationWork):
    """An `EvaluationWork` of which a reader and a model are killed once, in the middle of their part."""

    marks: Path = Path()

    @property
    def read(self) -> Callable[[str, Any], Any]:
        return partial(read_or_end, read=super().read, marks=self.marks, key_of_end="3.jpg")

    def record(self, read: Iterator[Any]) -> Iterator[Made]:
        for number, one in enumerate(super().record(read)):
            if number == 1:
                end_once(self.marks / "model")
            yield one


def test_evaluations_of_both_engines_are_the_same_to_the_last_digit_also_after_lost_processes(
    cluster: None, resnet: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_data_set(make_mask_set(tmp_path / "discs"))
    (tmp_path / "discs" / "images" / "2.jpg").write_bytes(b"torn")
    job, pace = Job([resnet], [parse_map(m) for m in ("pooling", "gradcam")], Settings(size=48)), Pace(2, 0, part=2)
    local = evaluate_into(tmp_path / "local", data, job, pace)
    monkeypatch.setattr(keeping, "EvaluationWork", partial(KilledEvaluation, marks=tmp_path))
    made = evaluate_into(tmp_path / "ray", data, job, pace, cluster=Cluster("ray", models=2))
    assert (tmp_path / "reader").exists() and (tmp_path / "model").exists(), "both were killed"
    assert made.tables == local.tables and made.faults == local.faults and made.scored == local.scored == 3
    same_evaluations(tmp_path / "ray", tmp_path / "local")


def same_evaluations(out: Path, other: Path) -> None:
    for one, two in zip(part_paths(out / "parts"), part_paths(other / "parts"), strict=True):
        assert parquet.read_table(one).equals(parquet.read_table(two), check_metadata=True)
    for name in ("rows.parquet", "results.json", "tables.md", "localization.csv", "protocols.csv"):
        assert (out / name).read_bytes() == (other / name).read_bytes()


def test_stages_of_an_evaluation_one_after_the_other_give_that_of_the_local_engine(
    resnet: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "get", pickle.loads)
    data = open_data_set(make_mask_set(tmp_path / "discs"))
    (tmp_path / "discs" / "masks" / "1.png").unlink()
    job, pace = Job([resnet], [parse_map("pooling")], Settings(size=48)), Pace(2, 0, part=2)
    evaluate_into(tmp_path / "local", data, job, pace)

    def one_after_the_other(work: Any, parts: Any, write: Any, **options: Any) -> Iterator[PartReport]:
        recorder = ray_engine._Recorder([ray.cloudpickle.dumps(work)], "cpu", torch.get_num_threads())
        for part in reversed(parts):
            made = recorder(ray_engine._read({"part": pickle.dumps(part)}, work.read))
            yield ray_engine._told(ray_engine._write(made, pickle.loads(pickle.dumps(write))))

    monkeypatch.setattr(ray_engine, "ray_parts", one_after_the_other)
    evaluate_into(tmp_path / "ray", data, job, pace, cluster=Cluster("ray"))
    same_evaluations(tmp_path / "ray", tmp_path / "local")


def test_stages_one_after_the_other_give_the_files_of_the_local_engine(
    resnet: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tasks and actors do, with all that travels between them pickled, but without a cluster."""
    monkeypatch.setattr(engine, "work_ahead", lambda read, given, *_: (read(key, *rest) for key, rest in given))
    monkeypatch.setattr(ray, "get", pickle.loads)
    for i in range(6):
        width, height = (91, 60) if i % 3 else (64, 100)
        Image.fromarray(make_photo(width, height, i)).save(tmp_path / f"{i}.png")
    (tmp_path / "5.png").write_bytes(b"no picture")
    work = BoardWork(Job([resnet], [parse_map("pooling")], Settings(size=64)), batch=2)
    items = find_items([tmp_path])
    run_parts(work, items, tmp_path / "local", {}, size=4)
    sent = ray.cloudpickle.dumps(work)
    recorder = ray_engine._Recorder([sent], "cpu", torch.get_num_threads())
    write = PartFiles(tmp_path / "ray")
    write.out.mkdir()
    for part in cut_to_parts(items, 4):
        made = recorder(ray_engine._read({"part": pickle.dumps(part)}, work.read))
        report = ray_engine._told(ray_engine._write(made, write))
        assert report == report_of(write.path(part.number)) and report.number == part.number
    assert [path.name for path in part_paths(write.out)] == ["part-000000.parquet", "part-000001.parquet"]
    for one, other in zip(part_paths(tmp_path / "local"), part_paths(write.out), strict=True):
        assert parquet.read_table(one).equals(parquet.read_table(other), check_metadata=True)


def test_an_error_of_the_work_travels_as_it_is(
    resnet: Encoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray, "get", lambda work: work)
    Image.fromarray(make_photo()).save(tmp_path / "a.png")
    work = BoardWork(Job([resnet], [parse_map("cls")], Settings(size=64)))
    part = cut_to_parts(find_items([tmp_path]), 4)[0]
    made = ray_engine._Recorder([work], "cpu", 1)(ray_engine._read({"part": pickle.dumps(part)}, work.read))
    with pytest.raises(MapError, match="its backbone is a CNN"):
        ray_engine._told(ray_engine._write(made, PartFiles(tmp_path)))


def test_an_error_on_a_node_is_raised_here() -> None:
    row = {"report": "", "table": b"", "error": pickle.dumps(DataError("the end"))}
    assert ray_engine._write(row, write=None) == {"report": "", "error": row["error"]}  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the end"):
        ray_engine._told(row)
    report = PartReport(3, 2, 1)
    assert ray_engine._told({"report": report.text, "error": b""}) == report


@pytest.mark.parametrize(
    ("resources", "models", "gpus", "count"),
    [({"CPU": 4}, None, False, 1), ({"CPU": 4}, 2, False, 2), ({"CPU": 96, "GPU": 8}, None, True, 8)],
)
def test_there_is_a_copy_of_the_models_for_each_gpu(
    resources: dict[str, float], models: int | None, gpus: bool, count: int
) -> None:
    assert ray_engine._copies(resources, models, gpus) == count


@pytest.mark.parametrize(
    ("resources", "models", "gpus"), [({"CPU": 4}, 3, False), ({"CPU": 2}, None, False), ({"CPU": 9}, None, True)]
)
def test_more_copies_than_devices_are_refused(resources: dict[str, float], models: int | None, gpus: bool) -> None:
    with pytest.raises(OptionError, match="copies of the models need as many"):
        ray_engine._copies(resources, models, gpus)


def test_what_lies_in_the_memory_of_this_process_is_refused(resnet: Encoder) -> None:
    parts = cut_to_parts([Item("a.png", Remote("memory://a.png"))], 4)
    with pytest.raises(OptionError, match="is read by --engine local alone"):
        list(ray_engine.ray_parts(BoardWork(Job([resnet])), parts, print, models=1, address=None, device="cpu"))


def test_an_address_without_a_cluster_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(**options: Any) -> None:
        raise ConnectionError(f"nothing answers at {options['address']}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refusing)
    monkeypatch.setenv("RAY_ADDRESS", "ada:6379")
    for address, told in (("localhost:1", "localhost:1"), (None, "ada:6379")):
        with (
            pytest.raises(SimpoolError, match=f"no Ray cluster can be reached at {told}"),
            ray_engine._cluster(address, 1),
        ):
            pass

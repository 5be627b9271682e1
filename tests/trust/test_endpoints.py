"""Whatever JSON another program sends to an endpoint is answered, or refused with a sentence; nothing else gets out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from gradio.data_classes import FileData
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simpool_viz.app.endpoints import Endpoints
from simpool_viz.app.visits import upload_folder
from simpool_viz.app.zero import BoardMaker
from simpool_viz.errors import OptionError, SimpoolError
from simpool_viz.maps.registry import map_methods
from simpool_viz.masks import mask_rules
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import disc, make_photo, small_resnet

settings.register_profile("endpoints", max_examples=60, deadline=None, derandomize=True, database=None)
settings.load_profile("endpoints")
ENCODERS = {"small_simpool": small_resnet(), "small_gap": small_resnet("gap")}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PHOTO = "photo"  # stands for the uploaded file, whose place is known only while a test runs
FILES = st.just(PHOTO) | JSON | st.sampled_from([{"path": "/etc/passwd"}, {"path": "../../x"}, {"path": "\0"}, {}])
OPTIONS = st.sampled_from(["block", "at", "classes", "fusion", "layer", "target", "seed", "soft", "residual", "", "k"])
VALUES = st.sampled_from(["-1", "0", "99", "1x2", "x", "nan", "inf", "a+b", "true", "", "1e400", "-0.0", "mean"])
MAPS = st.builds(
    lambda name, options: name + (":" + ",".join(f"{k}={v}" for k, v in options) if options else ""),
    st.sampled_from(["own", "simpool", "", *map_methods()]),
    st.lists(st.tuples(OPTIONS, VALUES), max_size=2),
)
MASKS = st.builds("{}:{}".format, st.sampled_from(["default", *mask_rules()]), VALUES) | st.text(max_size=12)
NAMES = st.sampled_from([*ENCODERS, "no_such", "small_gap?size=32", "small_gap?size=-1", "../x", "\ud800"])


def find(name: str) -> Encoder:
    if name not in ENCODERS:
        raise OptionError(f"no checkpoint is called {name!r}")
    return ENCODERS[name]


ENDPOINTS = Endpoints(find, BoardMaker(lambda name, own: find(name)))


@pytest.fixture(scope="module")
def files() -> Iterator[dict[str, Any]]:
    folder = upload_folder() / "test-endpoints"
    folder.mkdir(parents=True, exist_ok=True)
    photo, mask = folder / "photo.png", folder / "mask.png"
    Image.fromarray(make_photo()).save(photo)
    Image.fromarray((255 * disc(91, 60)).astype(np.uint8)).save(mask)
    yield {PHOTO: FileData(path=str(photo)).model_dump(), "mask": FileData(path=str(mask)).model_dump()}
    for path in (photo, mask):
        path.unlink()
    folder.rmdir()


def answered(call: Any, **sent: Any) -> None:
    """Call an endpoint; a refusal is a sentence, and an answer holds no number that JSON lacks."""
    try:
        told, picture = call(**sent)
    except (SimpoolError, gr.Error) as error:
        sentence = str(getattr(error, "message", error))
        assert sentence.strip() and "\n" not in sentence and "Traceback" not in sentence
    else:
        assert told["rows"] or told["left_out"]
        assert Path(picture["path"] if isinstance(picture, dict) else picture.path).is_file()


def placed(sent: Any, files: dict[str, Any]) -> Any:
    """What is sent, with the uploaded file for its sign."""
    if isinstance(sent, list):
        return [placed(one, files) for one in sent]
    return files.get(sent, sent) if isinstance(sent, str) else sent


@given(
    photos=st.lists(FILES, max_size=2) | JSON,
    checkpoints=st.lists(NAMES, max_size=3) | JSON,
    maps=st.lists(MAPS, max_size=2) | JSON,
    mask=MASKS | JSON,
    grids=st.booleans(),
)
def test_compare_answers_any_json(files: dict[str, Any], photos: Any, **sent: Any) -> None:
    answered(ENDPOINTS.compare, photos=placed(photos, files), **sent)


@given(maps=st.lists(MAPS, min_size=1, max_size=2), mask=MASKS)
def test_compare_answers_any_map_and_mask(files: dict[str, Any], maps: Any, mask: Any) -> None:
    answered(ENDPOINTS.compare, photos=[files[PHOTO]], checkpoints=list(ENCODERS), maps=maps, mask=mask)


@given(
    photo=FILES,
    checkpoint=NAMES | JSON,
    question=st.sampled_from(["token", "cls", "pooling", "class", "gates"]) | JSON,
    at=st.lists(st.floats() | st.integers(), min_size=2, max_size=2) | JSON,
    block=st.integers() | JSON,
    fusion=st.sampled_from(["mean", "max", "min", "0", "99", "³"]) | JSON,
    target=st.sampled_from(["", "0", "-1", "99", "no class"]) | JSON,
)
def test_inspect_answers_any_json(files: dict[str, Any], photo: Any, **sent: Any) -> None:
    answered(ENDPOINTS.inspect, photo=placed(photo, files), **sent)


@given(
    question=st.sampled_from(["token", "pooling", "class", "gates"]),
    at=st.lists(st.floats() | st.integers(), min_size=2, max_size=2) | st.none(),
    block=st.integers(-3, 3),
    target=st.sampled_from(["", "0", "-1", "99", "no class"]),
)
def test_inspect_answers_any_question(files: dict[str, Any], **sent: Any) -> None:
    answered(ENDPOINTS.inspect, photo=files[PHOTO], checkpoint="small_simpool", **sent)


@given(photo=FILES, reference=FILES, checkpoints=st.lists(NAMES, max_size=2) | JSON, maps=st.lists(MAPS, max_size=2))
def test_score_answers_any_json(files: dict[str, Any], photo: Any, reference: Any, **sent: Any) -> None:
    answered(ENDPOINTS.score, photo=placed(photo, files), reference=placed(reference, files), **sent)


@given(photo=FILES, checkpoint=NAMES | JSON, method=st.sampled_from(["lost", "tokencut"]) | JSON, seed=MAPS | JSON)
def test_discover_answers_any_json(files: dict[str, Any], photo: Any, **sent: Any) -> None:
    answered(ENDPOINTS.discover, photo=placed(photo, files), **sent)

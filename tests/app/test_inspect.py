"""The Inspect page without a browser: what is recorded once, kept for one visit, bounded, and answered from."""

from __future__ import annotations

import base64
import copy
import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from simpool_viz import record
from simpool_viz.app import inspect as module
from simpool_viz.app.board.inspected import InspectView, segmentation_payload
from simpool_viz.app.inspect import ALONE, InspectPage, Visit
from simpool_viz.app.own_checkpoint import OwnCheckpoints
from simpool_viz.board.segmentation import segment
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import SCENE_CLASSES, dense, make_photo, small_resnet, small_vit


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    return {
        "vit": small_vit(),
        "life": small_vit(inside="life"),
        "ggem": small_resnet("ggem"),
        "simpool": small_resnet(),
    }


def record_photo(page: InspectPage, visit: Visit, photo: Path, name: str, question: str = "") -> list[Any]:
    return page.record(str(photo), name, 0, question, OwnCheckpoints(), visit)


def weights(row: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(row["weights"]), "<f4").reshape(row["grid"])


def test_first_answer_gives_way_to_what_the_visitor_asks_for_meanwhile(
    page: InspectPage, encoders: dict[str, Encoder], photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(visit: Visit) -> list[Any]:
        return page.begin(str(photos["wide"]), "vit", 0, "", OwnCheckpoints(), visit)

    visit = Visit()
    assert begin(visit)[0].board.rows and visit.now is not None
    assert begin(visit) == gr.skip()  # it stays as it was left

    hurried, prepare = Visit(), Visit.prepare

    def asked_meanwhile(self: Visit, photo: str, encoder: Encoder, size: int) -> dict[Any, Any]:
        if not self.asked:
            record_photo(page, self, photos["tall"], "life", "cls")
        return prepare(self, photo, encoder, size)

    monkeypatch.setattr(Visit, "prepare", asked_meanwhile)
    assert begin(hurried) == gr.skip()
    assert hurried.now is not None and hurried.now.recording.encoder is encoders["life"]


def test_newest_recording_is_shown_whichever_ends_last(
    page: InspectPage, encoders: dict[str, Encoder], photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    visit, answer, newer = Visit(), InspectPage._answer, []

    def slow(self: InspectPage, kept: Any, *given: Any) -> Any:
        if kept.recording.encoder is encoders["vit"] and not newer:
            newer.append(pool.submit(record_photo, page, visit, photos["tall"], "life", "cls"))
            while visit.asked < 2:
                time.sleep(0.01)
        return answer(self, kept, *given)

    monkeypatch.setattr(InspectPage, "_answer", slow)
    with ThreadPoolExecutor(1) as pool:
        older = page.begin(str(photos["wide"]), "vit", 0, "", OwnCheckpoints(), visit)
    assert older == gr.skip()  # whatever the order in which both reach the page
    shown = newer[0].result()[0]
    assert shown.kept.recording.encoder is encoders["life"] and shown.facts_wanted
    assert visit.now is shown.kept and visit.question == "cls"


def test_waiting_recording_is_not_made_once_another_is_asked_for(
    page: InspectPage, encoders: dict[str, Encoder], photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    visit, made = Visit(), []
    original = module.record
    monkeypatch.setattr(module, "record", lambda encoder, *given: made.append(encoder) or original(encoder, *given))
    with ThreadPoolExecutor(2) as pool, visit.recording:
        first = pool.submit(record_photo, page, visit, photos["wide"], "vit")
        while visit.asked < 1:
            time.sleep(0.01)
        second = pool.submit(record_photo, page, visit, photos["wide"], "life")
        while visit.asked < 2:
            time.sleep(0.01)
        visit.recording.release()
        assert first.result() == gr.skip() and second.result()[0].board.rows
        visit.recording.acquire()
    assert made == [encoders["life"]]


@pytest.mark.parametrize("again", [False, True], ids=["question", "recording"])
def test_answer_that_is_overtaken_changes_nothing(
    page: InspectPage, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    visit, answer, newer = Visit(), InspectPage._answer, []
    record_photo(page, visit, photos["wide"], "life", "cls")

    def ask(block: int) -> Any:
        return page.ask("cls", block, "mean", 0, 0, 0.5, 0, None, ALONE[1], visit)

    def slow(*given: Any) -> Any:
        if not newer:
            newer.append(None)
            newer[0] = record_photo(page, visit, photos["wide"], "life", "token") if again else ask(0)
        return answer(*given)

    monkeypatch.setattr(InspectPage, "_answer", slow)
    assert ask(1) == gr.skip()
    assert newer[0][0].board.rows
    assert (visit.lens.block, visit.question) == ((2, "token") if again else (0, "cls"))


def test_point_gives_the_maps_of_the_python_call(
    page: InspectPage, encoders: dict[str, Encoder], photos: dict[str, Path]
) -> None:
    visit = Visit()
    record_photo(page, visit, photos["wide"], "life", "cls")
    for x, y in ((3.5, 50.0), (91.0, 60.0)):
        shown, question = page.point(gr.EventData(None, {"x": x, "y": y}), visit)
        sent = page.view.postprocess(shown)
        assert question["value"] == "token" and sent is not None
        recording = record(encoders["life"], photos["wide"])
        heads = recording.map("token", at=(x, y), block=2).weights
        assert np.array_equal(weights(sent["rows"][0]), heads.mean(axis=0))
        assert np.array_equal(weights(sent["rows"][1]), recording.map("token", at=(x, y), rollout=True).weights[0])
        assert [np.array_equal(weights(part), head) for part, head in zip(sent["gallery"], heads, strict=True)] == [
            True
        ] * 6
        assert [part["group"] for part in sent["gallery"]] == [
            f"scale {s}" for s in ("1 x 1", "3 x 3", "5 x 5") for _ in range(2)
        ]
        assert (sent["point"]["row"], sent["point"]["column"]) == recording.geometry.token_at(x, y)


def test_controls_follow_the_checkpoint_and_change_the_answer(page: InspectPage, photos: dict[str, Path]) -> None:
    visit = Visit()
    _, _, question, block, fusion, head, first, residual, discard, target, _ = record_photo(
        page, visit, photos["wide"], "vit"
    )
    assert [name for _, name in question["choices"]] == ["token", "cls", "class"] and question["value"] == "token"
    assert block["maximum"] == block["value"] == 2 and head["maximum"] == 5 and not head["visible"]
    assert (
        fusion["visible"]
        and first["visible"]
        and residual["visible"]
        and discard["visible"]
        and len(target["choices"]) == 5
    )
    assert visit.now is not None
    shown, slider = page.ask("cls", 0, "one head", 3, 1, 0.2, 0.6, None, ALONE[1], visit)
    assert slider["visible"] and np.array_equal(
        shown.board.rows[0].mask.weights, visit.now.recording.map("cls", block=0).weights[3]
    )
    assert shown.board.rows[1].request.options == {"first": 1, "residual": 0.2, "discard": 0.6}
    *_, question, block, _, _, _, residual, _, _, also = record_photo(page, visit, photos["wide"], "ggem")
    assert (
        [name for _, name in question["choices"]] == ["class"]
        and not block["visible"]
        and not residual["visible"]
        and not also["visible"]
    )


def test_facts_tell_exponents_classes_and_what_cannot_be_asked(page: InspectPage, photos: dict[str, Path]) -> None:
    shown = record_photo(page, Visit(), photos["wide"], "ggem")[0]
    sent = page.view.postprocess(shown)
    assert sent is not None and sent["point"] is None
    facts = sent["facts"]
    assert facts["exponents"] == [3.0] * 4 and facts["gates"] == []
    titles = [section["title"] for section in facts["sections"]]
    assert titles == ["Classes found", "GGeM pooling", "What cannot be asked here"]
    assert any("its backbone is a CNN" in line for line in facts["sections"][2]["lines"])


def test_recordings_are_kept_bounded_and_made_once(
    page: InspectPage, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    original = module.record

    def counted(encoder: Encoder, *arguments: Any) -> Any:
        made.append(encoder.facts.name)
        return original(encoder, *arguments)

    monkeypatch.setattr(module, "record", counted)
    visit = Visit()
    for name in ("vit", "ggem", "vit", "simpool", "life"):
        record_photo(page, visit, photos["wide"], name)
    assert len(made) == 4, "the second recording with the same checkpoint makes nothing"
    assert [key[1] for key in visit.kept] == ["small_cls", "small_simpool", "small_clslife"]
    monkeypatch.setattr(module, "BYTES", 1)
    record_photo(page, visit, photos["tall"], "vit")
    assert [(key[0], key[1]) for key in visit.kept] == [(str(photos["tall"]), "small_cls")]
    visit.clear()
    with pytest.raises(gr.Error, match="Press Run first"):
        page.ask("cls", 0, "mean", 0, 0, 0.5, 0.0, None, ALONE[1], visit)


def keys(visit: Visit) -> list[tuple[str, str, int]]:
    return [(Path(photo).stem, name, size) for photo, name, size in visit.kept]


def test_of_the_recordings_of_a_visit_the_one_looked_at_longest_ago_goes(
    encoders: dict[str, Encoder], photos: dict[str, Path]
) -> None:
    visit, encoder, wide, tall = Visit(), encoders["simpool"], str(photos["wide"]), str(photos["tall"])
    first = visit.record(wide, encoder, 0)
    visit.record(tall, encoder, 0)
    visit.record(wide, encoder, 32)
    assert visit.record(wide, encoder, 0) is first is visit.now, "of another size, it is another recording"
    visit.record(tall, encoder, 32)
    own = encoder.facts.name
    assert keys(visit) == [("wide", own, 32), ("wide", own, 0), ("tall", own, 32)]
    assert [s.recording.geometry.grid for s in visit.kept.values()] == [(4, 6), (8, 12), (6, 4)]


def test_recordings_of_a_visit_together_hold_no_more_than_the_bound(
    encoders: dict[str, Encoder], photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "recording_bytes", lambda recording: 100)
    visit, encoder = Visit(), encoders["simpool"]
    for bound, kept in ((300, 3), (299, 2), (199, 1), (1, 1)):
        monkeypatch.setattr(module, "BYTES", bound)
        for photo, size in (("wide", 0), ("tall", 0), ("wide", 32), ("tall", 32)):
            visit.record(str(photos[photo]), encoder, size)
        assert len(visit.kept) == kept and keys(visit)[-1] == ("tall", encoder.facts.name, 32)


def test_checkpoint_brought_again_under_its_name_is_recorded_anew(photos: dict[str, Path]) -> None:
    former, present, visit = small_resnet(seed=1), small_resnet(seed=2), Visit()
    for photo in ("wide", "tall"):
        visit.record(str(photos[photo]), former, 0)
    for photo in ("wide", "tall"):
        seen = visit.record(str(photos[photo]), present, 0)
        assert seen.recording.encoder is present and visit.record(str(photos[photo]), present, 0) is seen
        expected = record(present, photos[photo]).map("simpool").weights
        assert np.array_equal(seen.recording.map("simpool").weights, expected)
        assert not np.allclose(record(former, photos[photo]).map("simpool").weights, expected)
    assert len(visit.kept) == 2, "nothing of the former is left"


def test_visits_are_apart(page: InspectPage, photos: dict[str, Path]) -> None:
    one, other = Visit(), Visit()
    record_photo(page, one, photos["wide"], "vit")
    assert copy.deepcopy(one).now is None, "Gradio copies the state for each visit"
    record_photo(page, other, photos["tall"], "vit")
    for visit, photo in ((one, "wide.png"), (other, "tall.png")):
        shown, _ = page.point(gr.EventData(None, {"x": 10.0, "y": 10.0}), visit)
        assert [p.name for p in shown.board.pictures] == [photo]


def test_what_does_not_fit_is_told_in_a_sentence(page: InspectPage, photos: dict[str, Path], tmp_path: Path) -> None:
    visit = Visit()
    with pytest.raises(gr.Error, match="Choose a photo first"):
        page.record(None, "vit", 0, "", OwnCheckpoints(), visit)
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(gr.Error, match=r"bad\.png is not a picture"):
        record_photo(page, visit, tmp_path / "bad.png", "vit")
    record_photo(page, visit, photos["wide"], "simpool")
    with pytest.raises(gr.Error, match="cannot answer 'token'"):
        page.point(gr.EventData(None, {"x": 1.0, "y": 1.0}), visit)
    record_photo(page, visit, photos["wide"], "vit")
    with pytest.raises(gr.Error, match="outside the picture"):
        page.point(gr.EventData(None, {"x": 1000.0, "y": 1.0}), visit)


def test_class_that_is_clicked_shows_its_maps(tmp_path: Path) -> None:
    import base64

    encoder, photo = dense(), tmp_path / "scene.png"
    Image.fromarray(make_photo(150, 90)).save(photo)
    page, visit = InspectPage([("Dense", "dense")], lambda name, own: encoder, [("own", 0)], None), Visit()
    state, _, *controls = page.record(str(photo), "dense", 0, "token", None, visit)  # type: ignore[arg-type]
    assert controls[-1]["choices"][0] == ALONE and controls[-1]["visible"]
    view, payload = InspectView(), segmentation_payload(state.kept.recording)
    sent = view.postprocess(state)
    assert sent is not None and sent["facts"]["segmentation"] == payload and sent["chosen"] is None
    width, height = payload["size"]
    runs = np.frombuffer(base64.b64decode(payload["runs"]), "<u4").reshape(-1, 2)
    labels = np.repeat(runs[:, 0], runs[:, 1]).reshape(height, width)
    assert np.array_equal(labels, segment(state.kept.recording).pixels((width, height)))
    index = payload["classes"][1]["index"]
    answer, question, target, also = page.choose_class(dataclasses.make_dataclass("Event", ["index"])(index), visit)
    assert (question["value"], target["value"], also["value"]) == ("class", index, ALONE[1])
    assert answer.answer.rows[0].attention.names == (SCENE_CLASSES[index],)
    sent = view.postprocess(answer)
    assert sent is not None and sent["chosen"] == index
    together, _ = page.ask("class", 0, "mean", 0, 0, 0.5, 0.0, index, payload["classes"][0]["index"], visit)
    assert together.answer.rows[0].attention.names == (f"{SCENE_CLASSES[index]} + {payload['classes'][0]['name']}",)

"""What is known of a recording beside its maps is sent with its first answer alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from simpool_viz.app import inspect as module
from simpool_viz.app.inspect import ALONE, InspectPage, Visit
from simpool_viz.app.own_checkpoint import OwnCheckpoints
from simpool_viz.errors import OptionError
from tests.helpers import small_resnet


@pytest.fixture(scope="module")
def page() -> InspectPage:
    encoders = {pooling: small_resnet(pooling) for pooling in ("simpool", "ggem")}
    page = InspectPage([(name, name) for name in encoders], lambda name, own: encoders[name], [("own", 0)], None)
    with gr.Blocks():
        page.build(gr.State(OwnCheckpoints()))
    return page


def record_photo(page: InspectPage, visit: Visit, photo: Path, name: str) -> dict[str, Any]:
    return sent(page, page.record(str(photo), name, 0, "class", OwnCheckpoints(), visit)[0])


def ask(page: InspectPage, visit: Visit, target: int) -> dict[str, Any]:
    return sent(page, page.ask("class", 0, "mean", 0, 0, 0.5, 0.0, target, ALONE[1], visit)[0])


def sent(page: InspectPage, state: Any) -> dict[str, Any]:
    payload = page.view.postprocess(state)
    assert payload is not None
    return payload


def test_facts_come_with_the_recording_and_not_with_each_answer(page: InspectPage, photos: dict[str, Path]) -> None:
    visit = Visit()
    first = record_photo(page, visit, photos["wide"], "ggem")
    second = ask(page, visit, 1)
    assert first["facts"]["exponents"] == [3.0] * 4 and second["facts"] is None and second["rows"]
    assert first["recording"] == second["recording"]
    assert "exponents" not in json.dumps(second)
    other = record_photo(page, visit, photos["wide"], "simpool")
    assert other["facts"]["exponents"] == [] and other["recording"] != first["recording"]
    assert ask(page, visit, 1)["facts"] is None
    again = record_photo(page, visit, photos["wide"], "ggem")
    assert again["facts"] == first["facts"] and again["recording"] == first["recording"], "kept, and sent again"


def test_visits_are_sent_their_facts_apart(page: InspectPage, photos: dict[str, Path]) -> None:
    one, other = Visit(), Visit()
    assert record_photo(page, one, photos["wide"], "ggem")["facts"]
    assert record_photo(page, other, photos["wide"], "ggem")["facts"]
    assert ask(page, one, 0)["facts"] is None is ask(page, other, 0)["facts"]


def test_facts_of_a_look_that_failed_come_with_the_next_answer(
    page: InspectPage, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    visit = Visit()
    record_photo(page, visit, photos["wide"], "ggem")

    def failing(*arguments: Any) -> Any:
        raise OptionError("not today")

    with monkeypatch.context() as patch:
        patch.setattr(module, "ask_each", failing)
        with pytest.raises(gr.Error, match="not today"):
            record_photo(page, visit, photos["tall"], "ggem")
    answer = ask(page, visit, 0)
    assert answer["photos"][0]["title"] == "tall.png" and answer["facts"] is not None
    assert ask(page, visit, 1)["facts"] is None

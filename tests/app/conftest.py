"""A page of Inspect that finds the encoders of a test file, by its fixture `encoders`."""

from __future__ import annotations

import gradio as gr
import pytest

from simpool_viz.app.inspect import InspectPage
from simpool_viz.app.own_checkpoint import OwnCheckpoints
from simpool_viz.modeling.encoder import Encoder


@pytest.fixture(scope="module")
def page(encoders: dict[str, Encoder]) -> InspectPage:
    page = InspectPage([(name, name) for name in encoders], lambda name, own: encoders[name], [("own", 0)], None)
    with gr.Blocks():
        page.build(gr.State(OwnCheckpoints()))
    return page

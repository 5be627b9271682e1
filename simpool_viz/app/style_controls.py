"""Controls that act in the browser alone: each tells its board what changed, without a request."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from simpool_viz.app.board.component import AMOUNTS, LOOK
from simpool_viz.drawing.pixels import SEQUENTIAL
from simpool_viz.masks import mask_rules


def look_controls(board: str, shown: bool = True) -> gr.Accordion:
    """Create the controls of the board with the element id `board`; `shown`: whether their panel is open at first."""
    rules = [(r.title, r.name) for r in mask_rules().values()]

    def name(part: str) -> str:
        return part if board == "board" else f"{board}-{part}"

    with gr.Accordion("Drawing: changes at once", open=shown, elem_classes="simpool-look") as panel:
        with gr.Row():
            rule = gr.Dropdown(rules, value=LOOK["rule"], label="Mask rule", min_width=150)
            amount = gr.Slider(
                AMOUNTS[0],
                AMOUNTS[-1],
                LOOK["amount"],
                step=AMOUNTS[0],
                label="Amount",
                min_width=170,
                elem_id=name("amount"),
            )
            opacity = gr.Slider(
                0, 1, LOOK["opacity"], step=0.01, label="Opacity", min_width=150, elem_id=name("opacity")
            )
            colours = gr.Dropdown(list(SEQUENTIAL), value=LOOK["colours"], label="Colours", min_width=120)
        with gr.Row(elem_classes="switches"):
            smooth = gr.Checkbox(LOOK["smooth"], label="Smooth", min_width=140, elem_id=name("smooth"))
            shared = gr.Checkbox(LOOK["shared"], label="One scale for all rows", min_width=200)
            boxes = gr.Checkbox(LOOK["boxes"], label="Boxes", min_width=140)
            largest = gr.Checkbox(
                LOOK["largest"], label="Largest component only", min_width=200, elem_id=name("largest")
            )
    controls: dict[str, Any] = {"amount": amount, "opacity": opacity, "colours": colours}
    controls |= {"smooth": smooth, "shared": shared, "boxes": boxes, "largest": largest}
    for key, control in controls.items():
        control.input(None, [control], None, js=_tell(board, key), queue=False, api_visibility="private")
    rule.input(None, [rule, amount], [amount], js=_tell_rule(board), queue=False, api_visibility="private")
    return panel


def dispatch(board: str, event: str, detail: str = "{}", before: str = "", after: str = "", takes: str = "") -> str:
    """JavaScript that sends a board an event."""
    target = f"document.querySelector('#{board} .simpool-board')"
    return (
        f"({takes}) => {{ {before} {target}.dispatchEvent(new CustomEvent('{event}', {{ bubbles: true, detail: "
        f"{detail} }})); {after} }}"
    )


def _tell(board: str, key: str) -> str:
    """JavaScript that tells the board of a changed control."""
    return dispatch(board, "simpool-look", f"{{ {key}: value }}", takes="value")


def _tell_rule(board: str) -> str:
    """The same for the mask rule, which brings its own default amount; rules without an amount leave the slider as it
    is."""
    defaults = json.dumps({rule.name: rule.default for rule in mask_rules().values()})
    chosen = f"const amount = {defaults}[rule] ?? old;"
    return dispatch(board, "simpool-look", "{ rule, amount }", before=chosen, after="return amount;", takes="rule, old")

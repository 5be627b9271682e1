"""Controls that act in the browser alone: each sends its board an event, and the server no request."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import gradio as gr

from simpool_viz.app.board.component import AMOUNTS, FIRST_STYLE, SMOOTHINGS
from simpool_viz.drawing.pixels import SEQUENTIAL
from simpool_viz.masks import DINO_CUT, mask_rules


class StyleControls(NamedTuple):
    """The panel, and its controls by the key of the style that each sets."""

    panel: gr.Accordion
    controls: dict[str, Any]


def style_controls(board: str, shown: bool = True) -> StyleControls:
    """Create the controls of how a board is drawn.

    Args:
        board: element id of the board.
        shown: whether the panel is open at first.
    """
    rules = [(r.title, r.name) for r in mask_rules().values()]

    def name(part: str) -> str:
        return part if board == "board" else f"{board}-{part}"

    def slider(key: str, label: str, ends: tuple[float, float], step: float, width: int = 150) -> gr.Slider:
        return gr.Slider(*ends, FIRST_STYLE[key], step=step, label=label, min_width=width, elem_id=name(key))

    with gr.Accordion("Drawing: changes at once", open=shown, elem_classes="simpool-look") as panel:
        with gr.Row():
            rule = gr.Dropdown(rules, value=FIRST_STYLE["rule"], label="Mask rule", min_width=150)
            amount = slider("amount", "Amount", (AMOUNTS[0], AMOUNTS[-1]), AMOUNTS[0], 170)
            opacity = slider("opacity", "Opacity", (0, 1), 0.01)
            smoothing = slider("smoothing", "Smoothing (tokens)", (SMOOTHINGS[0], SMOOTHINGS[-1]), SMOOTHINGS[1], 200)
            colours = gr.Dropdown(list(SEQUENTIAL), value=FIRST_STYLE["colours"], label="Colours", min_width=120)
        with gr.Row(elem_classes="switches"):
            smooth = gr.Checkbox(FIRST_STYLE["smooth"], label="Smooth", min_width=140, elem_id=name("smooth"))
            shared = gr.Checkbox(FIRST_STYLE["shared"], label="One scale for all rows", min_width=200)
            boxes = gr.Checkbox(FIRST_STYLE["boxes"], label="Boxes", min_width=140)
            largest = gr.Checkbox(
                FIRST_STYLE["largest"], label="Largest component only", min_width=200, elem_id=name("largest")
            )
    controls: dict[str, Any] = {"amount": amount, "smoothing": smoothing, "opacity": opacity, "colours": colours}
    controls |= {"smooth": smooth, "shared": shared, "boxes": boxes, "largest": largest}
    for key, control in controls.items():
        control.input(None, [control], None, js=_send_value(board, key), queue=False, api_visibility="private")
    amount.input(None, [rule], [rule], js=_send_amount_rule(board), queue=False, api_visibility="private")
    rule.input(None, [rule, amount], [amount], js=_send_rule(board), queue=False, api_visibility="private")
    return StyleControls(panel, {"rule": rule, **controls})


def dispatch(board: str, event: str, detail: str = "{}", before: str = "", after: str = "", takes: str = "") -> str:
    """JavaScript that sends a board an event.

    Args:
        board: element id of the board.
        event: its name, as "simpool-look".
        detail: what the event carries, a JavaScript expression.
        before: a statement in front of it.
        after: a statement behind it.
        takes: names of the function's parameters: the values of the control's inputs.

    Returns:
        The text of a function, for `js` of a Gradio event.
    """
    target = f"document.querySelector('#{board} .simpool-board')"
    return (
        f"({takes}) => {{ {before} {target}.dispatchEvent(new CustomEvent('{event}', {{ bubbles: true, detail: "
        f"{detail} }})); {after} }}"
    )


def _send_value(board: str, key: str) -> str:
    """JavaScript that sends the board the new value of a control."""
    return dispatch(board, "simpool-look", f"{{ {key}: value }}", takes="value")


def _default_amounts() -> str:
    """The default amount of each rule, as JavaScript; null for a rule without an amount."""
    return json.dumps({rule.name: rule.default for rule in mask_rules().values()})


def _send_amount_rule(board: str) -> str:
    """JavaScript for a moved amount: a rule that takes none gives way to the first one that does."""
    chosen = (
        f"const defaults = {_default_amounts()}, chosen = defaults[rule] === null ? {json.dumps(DINO_CUT.rule)} : rule;"
    )
    return dispatch(board, "simpool-look", "{ rule: chosen }", before=chosen, after="return chosen;", takes="rule")


def _send_rule(board: str) -> str:
    """JavaScript that sends the board a new mask rule and its default amount; a rule without one leaves the slider."""
    chosen = f"const amount = {_default_amounts()}[rule] ?? old;"
    return dispatch(board, "simpool-look", "{ rule, amount }", before=chosen, after="return amount;", takes="rule, old")

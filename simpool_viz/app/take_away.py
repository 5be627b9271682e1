"""What leaves the page: the board it shows as one ZIP, a figure for a paper, and the lines that make it again.

Pressing a button computes the board anew from what the board says it was made of (`component.Ran`), with the masks,
colours and order that the browser shows, so that nothing of a visit has to be kept for it. A run that failed or was
stopped before it had rows leaves the board as it was, and so what is taken; of one that ended half-way, the rows are
taken that are shown.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils

from simpool_viz.app.board.component import AMOUNTS, SMOOTHINGS, BoardState
from simpool_viz.app.events import checked_index, checked_number, event_handler, refusal
from simpool_viz.app.visits import upload_folder
from simpool_viz.board.board import Board, Settings
from simpool_viz.board.comparison import arrange
from simpool_viz.board.recut import recut
from simpool_viz.drawing.paper import CAPTIONS, FORMATS, WIDTHS, check_figure, figure_file, paper_figure
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.errors import OptionError
from simpool_viz.export import export_board, plain_name, zipped
from simpool_viz.masks import mask_rules
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.repeat import Asked, python_snippet, shell_snippet

TITLES = {"one": "one column", "two": "two columns"}
# How the browser draws the board, and what it was made of, in place of what is chosen now.
_SHOWN = """(...given) => {
  const shown = {};
  document.querySelector('#board .simpool-board').dispatchEvent(
    new CustomEvent('simpool-ask', { bubbles: true, detail: shown }));
  const { ran, ...drawn } = shown, [, , , , , , , own, , references] = given;
  if (!ran) return [drawn, ...given.slice(1)];
  const [photo, ...photos] = ran.photos;
  const run = [photo, ran.checkpoints, ran.maps, own, photos, references];
  return [{ ...drawn, steps: ran.steps }, ...given.slice(1, 4), ...run];
}"""

# The page's own address, once it says what is chosen now (address.js); without a clipboard (plain http), to be copied.
_COPY = """async () => {
  document.dispatchEvent(new CustomEvent('simpool-link'));
  const button = document.querySelector('#take-link'), text = button.textContent;
  try {
    await navigator.clipboard.writeText(location.href);
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = text; }, 2000);
  } catch {
    prompt('The link to this board:', location.href);
  }
}"""


class TakeAway:
    """The panel below the board.

    Args:
        run: the states of a board from what was chosen, as `ComparePage.run`.
        find: a checkpoint by name and the visit's own ones, as `ComparePage.find`.
        names: the names of checkpoints and maps, and the visit's own checkpoints, in what `run` takes.
    """

    def __init__(
        self,
        run: Callable[..., Iterable[BoardState]],
        find: Callable[[str, Any], Encoder],
        names: Callable[..., tuple[list[str], list[str], Any]],
    ) -> None:
        self.run, self.find, self.names = run, find, names

    def build(self, inputs: list[Any]) -> None:
        """Create the controls and connect their events.

        Args:
            inputs: of `run`.
        """
        with gr.Accordion("Take it away", open=False, elem_id="take-away"):
            gr.Markdown(
                "The board as it is drawn now: its masks, colours and order are those of the files. "
                "The lines run in the folder of the ZIP."
            )
            with gr.Row():
                columns = gr.Radio(
                    [
                        (f"{name} column{'s' if name == 'two' else ''}, {inches} in", name)
                        for name, inches in WIDTHS.items()
                    ],
                    value="two",
                    label="Width of the figure",
                    elem_id="figure-width",
                )
                pictures = gr.CheckboxGroup(
                    [("maps", "overlay"), ("masks", "mask")],
                    value=["overlay"],
                    label="It shows",
                    elem_id="figure-pictures",
                )
                captions = gr.CheckboxGroup(
                    [(title, name) for name, title in CAPTIONS.items()],
                    value=["checkpoint", "map"],
                    label="Captions of the figure",
                    elem_id="figure-captions",
                )
            with gr.Row():
                everything = gr.Button("Everything as ZIP", variant="primary", elem_id="take-zip")
                figure = gr.Button("The figure alone", elem_id="take-figure")
                lines = gr.Button("Python and command line", elem_id="take-lines")
                link = gr.Button("Copy link", elem_id="take-link")
            files = gr.File(label="Files", visible=False, file_count="multiple", elem_id="taken")
            python = gr.Code(language="python", label="Python", visible=False, elem_id="taken-python")
            shell = gr.Code(
                language="shell", label="Command line", wrap_lines=True, visible=False, elem_id="taken-shell"
            )
        shown = gr.JSON({}, visible="hidden")
        given = [shown, columns, pictures, captions, *inputs]
        link.click(None, None, None, js=_COPY, queue=False, api_visibility="private")
        usual: dict[str, Any] = {"js": _SHOWN, "concurrency_id": "look", "api_visibility": "private"}
        everything.click(self.take_everything, given, files, **usual)
        figure.click(self.take_figure, given, files, **usual)
        lines.click(self.take_lines, given, [python, shell], **usual)

    # --- events -------------------------------------------------------------------------------------------------------

    @event_handler
    def take_everything(
        self, shown: Any, width: str, pictures: list[str], captions: list[str], *given: Any
    ) -> dict[str, Any]:
        """The board as a ZIP: pictures, masks, maps, scores, manifest, sources, figure and the lines that repeat it."""
        check_figure(width, pictures, captions)
        board, style, asked, encoders = self._shown(shown, given)
        extras: dict[str, Any] = dict(_figure(board, style, width, pictures, captions))
        extras |= {"again.py": python_snippet(board, style, asked), "again.sh": shell_snippet(board, style, asked)}
        device = str(next(encoders[0].parameters()).device)
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / plain_name(f"board_{Path(board.pictures[0].name).stem}")
            export_board(board, folder, style, device=device, extras=extras, encoders=encoders, sources=True)
            return _files({f"{folder.name}.zip": zipped(folder)})

    @event_handler
    def take_figure(
        self, shown: Any, width: str, pictures: list[str], captions: list[str], *given: Any
    ) -> dict[str, Any]:
        """The figure in each format."""
        check_figure(width, pictures, captions)
        board, style, _, _ = self._shown(shown, given)
        return _files(_figure(board, style, width, pictures, captions))

    @event_handler
    def take_lines(self, shown: Any, _width: str, _pictures: list[str], _captions: list[str], *given: Any) -> list[Any]:
        """Python and the command line that make the board again in the folder of the ZIP."""
        board, style, asked, _ = self._shown(shown, given)
        return [gr.update(value=make(board, style, asked), visible=True) for make in (python_snippet, shell_snippet)]

    def _shown(self, shown: Any, given: tuple[Any, ...]) -> tuple[Board, DrawingStyle, Asked, list[Encoder]]:
        """The board as the browser draws it, and what it was asked for with."""
        settings, style, group, sort = drawn_by(shown)
        checkpoints, maps, own = self.names(*given)
        steps = checked_index(shown.get("steps", 0), "the number of recordings")
        made = self._made(steps, given) if steps else None
        if made is None or not made.rows:
            raise refusal("The board is empty; choose checkpoints and maps that fit, and press Run.")
        board = arrange(recut(_begun(made, steps, len(checkpoints)), settings), group, sort)
        checkpoints = checkpoints[:steps]  # those of one photo, of which a run that was stopped has no more
        return board, style, Asked(checkpoints, maps, group, sort), [self.find(name, own) for name in checkpoints]

    def _made(self, steps: int, given: tuple[Any, ...]) -> Board | None:
        """The board after so many recordings, or all of them."""
        state = None
        for state in self.run(*given):
            if state.ran and state.ran.steps >= steps:
                break
        return state.board if state else None


def _begun(board: Board, steps: int, checkpoints: int) -> Board:
    """A board without the photos that it has no recording of.

    Args:
        board: with all photos.
        steps: recordings that are on it.
        checkpoints: how many recordings a photo has.
    """
    count = -(-steps // max(1, checkpoints))
    references = {i: one for i, one in board.references.items() if i < count}
    return replace(board, pictures=board.pictures[:count], references=references)


def drawn_by(shown: Any) -> tuple[Settings, DrawingStyle, str, str]:
    """How a browser draws a board, as it sent it.

    Args:
        shown: style, group, sort and whether the lowest come first, as `simpool-ask` of board.js gives them.

    Returns:
        Settings of the masks, the style of pictures, and grouping and sorting as `arrange` takes them.

    Raises:
        OptionError: something that no page of ours sends.
    """
    style = shown.get("style") if isinstance(shown, dict) else None
    if not isinstance(style, dict):
        raise OptionError("the board did not say how it is drawn; load the page again")
    rule = str(style.get("rule"))
    if rule not in mask_rules():
        raise OptionError(f"no mask rule is called {rule!r}; load the page again")
    amount = checked_number(style.get("amount"), "the amount")
    place = min(len(AMOUNTS), max(1, round(amount * len(AMOUNTS)))) - 1  # as the browser looks its level up
    smoothing = checked_number(style.get("smoothing"), "the smoothing")
    if smoothing not in SMOOTHINGS:
        raise OptionError(f"a smoothing is one of {', '.join(f'{s:g}' for s in SMOOTHINGS)}, not {smoothing:g}")
    smooth = bool(style.get("smooth"))
    settings = Settings(
        mask=rule if mask_rules()[rule].default is None else f"{rule}:{AMOUNTS[place]:g}",
        largest=bool(style.get("largest")),
        smoothing=smoothing,
        smooth=smooth,
    )
    opacity = checked_number(style.get("opacity"), "the opacity")
    look = DrawingStyle(str(style.get("colours")), opacity, smooth, bool(style.get("shared")), bool(style.get("boxes")))
    sort = str(shown.get("sort") or "")
    return settings, look, str(shown.get("group") or "none"), f"{sort}:lowest" if sort and shown.get("lowest") else sort


def _figure(
    board: Board, style: DrawingStyle, width: str, pictures: list[str], captions: list[str]
) -> dict[str, bytes]:
    """The figure for a paper in each format, by the name of its file."""
    figure = paper_figure(board, style, width=width, pictures=pictures, captions=captions)
    return {f"figure.{form}": figure_file(figure, form) for form in FORMATS}


def _files(contents: dict[str, bytes]) -> dict[str, Any]:
    """Files of the app's own folder, which Gradio deletes in time, as the value of the panel's files."""
    cache = str(upload_folder())
    places = [processing_utils.save_bytes_to_cache(data, name, cache) for name, data in contents.items()]
    return dict(gr.update(value=places, visible=True))

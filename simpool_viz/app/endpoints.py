"""What other programs call: the Python calls as endpoints, over HTTP, with `gradio_client`, and as tools of MCP.

Each answers with JSON and a picture. Checkpoints are those that the page offers, photos are files that were uploaded or
addresses of pictures, and the page's queue and limits hold.
"""

# Gradio reads the types of these functions itself, so they must not be texts: no `from __future__ import annotations`.
import inspect
import io
import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_type_hints

import gradio as gr
import numpy as np
from gradio import FileData, processing_utils
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from simpool_viz.app.events import UNREADABLE, event_handler, refusal
from simpool_viz.app.outlines import described
from simpool_viz.app.visits import VisitedBlocks, upload_folder
from simpool_viz.app.zero import BoardMaker
from simpool_viz.board.board import Board, Row, Settings
from simpool_viz.board.inspection import Lens, facts_of, questions_by_maps
from simpool_viz.board.inspection import inspect as ask
from simpool_viz.checkpoints.load import split_size
from simpool_viz.checkpoints.published import published
from simpool_viz.drawing.render import render_board
from simpool_viz.errors import OptionError
from simpool_viz.export import row_names
from simpool_viz.images import read_picture
from simpool_viz.maps.registry import map_methods
from simpool_viz.maps.request import MapRequest
from simpool_viz.masks import mask_rules
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.recording import record
from simpool_viz.scores.localization import score_baselines
from simpool_viz.scores.references import read_reference

PHOTOS_A_CALL = CHECKPOINTS_A_CALL = 12  # at most
Function = TypeVar("Function", bound=Callable[..., Any])


def typed(function: Function) -> Function:
    """Decorator of an endpoint: what a caller sent is of the types that the endpoint tells.

    Files are checked where they are read. Gradio itself passes on whatever JSON it gets.

    Raises:
        OptionError: a value is of another type; says which one and what it should be.
    """
    hints = {name: hint for name, hint in get_type_hints(function).items() if name != "return"}
    checks = {name: TypeAdapter(hint) for name, hint in hints.items() if hint not in (FileData, list[FileData])}
    signature = inspect.signature(function)

    @wraps(function)
    def called(*given: Any, **named: Any) -> Any:
        for name, value in signature.bind(*given, **named).arguments.items():
            try:
                if name in checks:
                    checks[name].validate_python(value, strict=True)
            except ValidationError as error:
                fault = error.errors()[0]
                place = "".join(f"[{part}]" for part in fault["loc"] if isinstance(part, int))
                raise OptionError(fault["msg"].replace("Input", name + place, 1)) from None
        return function(*given, **named)

    return cast(Function, called)


_PHOTO = {"path": "cat.jpg", "meta": {"_type": "gradio.FileData"}}  # the name that an upload was answered with
_CHECKPOINTS = ["resnet_gap", "resnet_simpool"]
# What /gradio_api/info gives as examples, by endpoint and parameter; the defaults where a parameter is not named.
EXAMPLES: dict[str, dict[str, Any]] = {
    "compare": {"photos": [_PHOTO], "checkpoints": _CHECKPOINTS},
    "inspect": {"photo": _PHOTO, "checkpoint": "vit_simpool", "at": [220.0, 150.0]},
    "score": {"photo": _PHOTO, "reference": {**_PHOTO, "path": "cat_mask.png"}, "checkpoints": _CHECKPOINTS},
    "discover": {"photo": _PHOTO},
    "list_checkpoints": {},
}


class Endpoints:
    """The functions of the endpoints.

    Args:
        find: a checkpoint by name, as `ComparePage.find`.
        boards: makes boards, as `ComparePage.boards`.
    """

    def __init__(self, find: Callable[[str], Encoder], boards: BoardMaker) -> None:
        self.find, self.boards = find, boards

    def build(self, blocks: VisitedBlocks) -> None:
        """Add the endpoints to an app that is being built."""
        blocks.examples = EXAMPLES
        for function in (self.compare, self.inspect, self.score, self.discover, self.list_checkpoints):
            # A board is as much work as one of the page, so it waits in the same line.
            gr.api(event_handler(function), api_name=function.__name__, concurrency_id="look")

    @typed
    def compare(
        self,
        photos: list[FileData],
        checkpoints: list[str],
        maps: list[str] = ["own"],  # noqa: B006 (read by Gradio as the default, never changed)
        mask: str = "default",
        grids: bool = False,
    ) -> tuple[dict[str, Any], FileData]:
        """Attention maps and object masks of several vision models on the same photos, side by side.

        Args:
            photos: 1 to 12 photos, in any common format.
            checkpoints: names from list_checkpoints, such as "vit_simpool"; "?size=448" may follow, the input's side.
            maps: names of maps from list_checkpoints, with options as in "token:block=5"; "own" is the map by which each model pools.
            mask: "default", or a rule and its amount, such as "mass:0.6", the fewest tokens with 60 % of the attention.
            grids: whether each row also has the map's weights and its mask, number by number.

        Returns:
            The rows: for each photo, checkpoint and map the class predicted, the mask's boxes in pixels and its share of the photo, the spatial entropy in nats and the times in milliseconds; what had to be left out, and why
            The board as a picture
        """  # noqa: E501 (Gradio reads one line for each)
        names, pictures = _checkpoints(checkpoints), [read_picture(photo) for photo in self._photos(photos)]
        return _answer(self.boards.make(pictures, names, maps, Settings(mask=mask)), grids)

    @typed
    def inspect(
        self,
        photo: FileData,
        checkpoint: str,
        question: Literal["token", "cls", "pooling", "class", "gates"] = "pooling",
        at: list[float] | None = None,
        block: int = -1,
        fusion: str = "mean",
        target: str = "",
        grids: bool = False,
    ) -> tuple[dict[str, Any], FileData]:
        """Ask one vision model about one photo: what a token, the class token or the pooling attends to, what contributes to a class, what channel gates let through.

        Args:
            photo: a photo in any common format.
            checkpoint: a name from list_checkpoints.
            question: token, cls, pooling, class or gates; list_checkpoints says which ones a checkpoint can answer.
            at: x and y of the token in pixels of the photo; its centre by default.
            block: of the attention, from 0; negative from the last.
            fusion: of the heads: mean, max, min, or the number of one.
            target: a class by name or number; the predicted one by default.
            grids: whether each row also has the map's weights and its mask, number by number.

        Returns:
            What is known of the model on this photo (classes, grid, blocks, exponents, gates), and the rows of the answer as in compare
            The answer as a picture
        """  # noqa: E501 (Gradio reads one line for each)
        lens = Lens(
            None if at is None else _place(at),
            block,
            int(fusion) if fusion.isdecimal() else fusion,
            target=target or None,
        )
        recording = record(self.find(_checkpoints([checkpoint])[0]), self._photos([photo])[0])
        answer = ask(recording, question, lens)
        if not answer.rows:
            raise OptionError(" ".join(answer.notes))
        told, picture = _answer(Board([recording.picture], answer.rows, {}, answer.notes, Settings()), grids)
        facts = facts_of(recording)
        told["facts"] = {
            "grid": list(facts.grid),
            "blocks": facts.blocks,
            "pooling": facts.pooling,
            "classes": [vars(found) for found in facts.classes],
            "exponents": list(facts.exponents),
            "gates": [vars(gate) | {"quantiles": list(gate.quantiles)} for gate in facts.gates],
            "questions": facts.answers,
        }
        return told, picture

    @typed
    def score(
        self,
        photo: FileData,
        reference: FileData,
        checkpoints: list[str],
        maps: list[str] = ["own"],  # noqa: B006 (read by Gradio as the default, never changed)
        mask: str = "default",
        grids: bool = False,
    ) -> tuple[dict[str, Any], FileData]:
        """Score attention maps of vision models against a mask that says where the object is.

        Args:
            photo: a photo in any common format.
            reference: its mask as a picture: 0 is background, all else the object.
            checkpoints: names from list_checkpoints.
            maps: names of maps from list_checkpoints; "own" is the map by which each model pools.
            mask: "default", or a rule and its amount, such as "mass:0.6".
            grids: whether each row also has the map's weights and its mask, number by number.

        Returns:
            The rows as in compare, each with scores in [0, 1] (iou, iou_at_true_area, iou_at_best_threshold, pointing, energy, precision, recall), and the same of two baselines that look at no photo
            The board as a picture
        """  # noqa: E501 (Gradio reads one line for each)
        picture = read_picture(_file(photo))
        truth = read_reference(_file(reference), picture.size)
        names, settings = _checkpoints(checkpoints), Settings(mask=mask)
        board = self.boards.make([picture], names, maps, settings, {0: truth})
        told, drawn = _answer(board, grids)
        return told | {"baselines": score_baselines(board.references[0])}, drawn

    @typed
    def discover(
        self,
        photo: FileData,
        checkpoint: str = "vit_simpool",
        method: Literal["tokencut", "lost"] = "tokencut",
        seed: str = "",
        grids: bool = False,
    ) -> tuple[dict[str, Any], FileData]:
        """Find one object of a photo without labels, from the tokens of a vision model, by TokenCut or LOST.

        Args:
            photo: a photo in any common format.
            checkpoint: a name from list_checkpoints.
            method: tokencut or lost.
            seed: a map of the checkpoint whose peak lies in the object; the method's own choice by default.
            grids: whether the row also has the map's weights and its mask, number by number.

        Returns:
            One row as in compare, whose boxes say where the object is, in pixels
            The object as a picture
        """
        request = MapRequest(method, {"seed": seed} if seed else {})
        pictures, names = [read_picture(one) for one in self._photos([photo])], _checkpoints([checkpoint])
        return _answer(self.boards.make(pictures, names, [request], Settings(mask="mass:1")), grids)

    def list_checkpoints(self) -> dict[str, Any]:
        """List everything that the other tools take by name: checkpoints, maps, mask rules.

        Returns:
            Checkpoints with their pooling, maps and questions; maps and mask rules with a sentence on each
        """
        here, _ = described()
        checkpoints = [
            {
                "name": name,
                "title": entry.facts.title or name,
                "pooling": entry.spec.pooling,
                "accuracy": entry.facts.accuracy,
                "maps": [one for one, why in outline.maps.items() if why is None],
                "questions": [one for one, why in questions_by_maps(outline.maps).items() if why is None],
            }
            for name, (entry, outline) in here.items()
        ]
        return {
            "checkpoints": checkpoints,
            "published": [{"name": one.name, "title": one.title} for one in published().values()],
            "maps": [{"name": one.name, "title": one.title, "summary": one.summary} for one in map_methods().values()],
            "masks": [{"name": one.name, "title": one.title, "summary": one.summary} for one in mask_rules().values()],
        }

    def _photos(self, files: list[FileData]) -> list[Path]:
        if not isinstance(files, list) or not 0 < len(files) <= PHOTOS_A_CALL:
            raise OptionError(f"photos are a list of 1 to {PHOTOS_A_CALL} files")
        return [_file(one) for one in files]


def _checkpoints(names: list[str]) -> list[str]:
    if not 0 < len(names) <= CHECKPOINTS_A_CALL:
        raise OptionError(f"1 to {CHECKPOINTS_A_CALL} checkpoints are taken in one call, not {len(names)}")
    if len({split_size(name) for name in names}) < len(names):
        raise OptionError("each checkpoint is named once")
    return names


def _place(at: list[float]) -> tuple[float, float]:
    if len(at) != 2:
        raise OptionError("at: a token's place is given by two numbers, x and y in pixels of the photo")
    return at[0], at[1]


def _file(given: Any) -> Path:
    """A file that was uploaded; nothing else of this machine is read, whatever a caller names.

    Raises:
        gr.Error: it is none.
    """
    path = given.get("path") if isinstance(given, dict) else None
    if not isinstance(path, str) or "\0" in path:
        raise refusal(UNREADABLE)
    place, folder = Path(path).resolve(), upload_folder().resolve()
    if not place.is_relative_to(folder):
        raise refusal("A photo is a file that was uploaded here first, or an address that starts with https://.")
    return place


def _answer(board: Board, grids: bool) -> tuple[dict[str, Any], FileData]:
    """A board as JSON and as a picture."""
    rows = [_row(name, board, row, grids) for name, row in zip(row_names(board), board.rows, strict=True)]
    photos = [{"width": picture.size[0], "height": picture.size[1]} for picture in board.pictures]
    told = {"photos": photos, "rows": rows, "left_out": board.skipped}
    return json.loads(json.dumps(told, default=_plain)), _kept("board.png", render_board(board))


def _row(name: str, board: Board, row: Row, grids: bool) -> dict[str, Any]:
    attention, mask = row.attention, row.mask
    told: dict[str, Any] = {
        "name": name,
        "photo": row.picture,
        "checkpoint": row.checkpoint,
        "map": row.request.label,
        "title": row.title,
        "grid": attention.geometry.grid,
        "prediction": None
        if row.prediction is None
        else dict(zip(("class", "probability"), row.prediction, strict=True)),
        "boxes": mask.boxes,
        "coverage": mask.coverage,
        "entropy": row.entropy,
        "entropy_of": row.entropy_of,
        "milliseconds": dict(zip(("forward", "map"), row.milliseconds, strict=True)),
        "scores": row.scores,
    }
    if grids:
        told |= {"unit": attention.unit, "weights": mask.weights, "mask": mask.grid}
    return told


def _plain(value: Any) -> Any:
    """Numbers and arrays of NumPy as JSON has them."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value)} is not JSON")


def _kept(name: str, picture: Image.Image) -> FileData:
    """A picture in the app's own folder, which Gradio deletes in time."""
    content = io.BytesIO()
    picture.save(content, "PNG", compress_level=1)
    place = processing_utils.save_bytes_to_cache(content.getvalue(), name, str(upload_folder()))
    return FileData(path=place, orig_name=name, mime_type="image/png")

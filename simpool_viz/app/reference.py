"""The panel in which a visitor says where the object is: a mask file, a painting, or a box. Scores follow at once.

References are kept for the visit by the photo's content, so that they are there again when the photo comes back.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from simpool_viz.app.address import MOST_BOXES
from simpool_viz.app.board.component import Given, Painting, reference_payload
from simpool_viz.app.events import checked_number, event_handler, refusal, sent_value
from simpool_viz.app.style_controls import dispatch
from simpool_viz.errors import OptionError
from simpool_viz.images import Picture, read_picture
from simpool_viz.scores.references import Box, Reference, bounded, read_reference, reference_of_boxes, resized

KEPT = 24  # references of one visit
CANVAS = 1024  # pixels of the longer side of what is painted on
PAINT = "#ff7a00"
LARGE, BACK = "Paint on the whole window", "Back to the page"
# Gives the painting the whole window or its place in the panel, and says what the button does next. Escape goes back.
ENLARGE = f"""(wanted) => {{
  const panel = document.querySelector("#paint-panel"), large = panel.classList.toggle("large", wanted === {LARGE!r});
  if (large && !panel.dataset.heard) {{
    panel.dataset.heard = "yes";
    document.addEventListener("keydown", (event) => {{
      if (event.key === "Escape" && panel.classList.contains("large")) document.querySelector("#paint-large").click();
    }});
  }}
  return large ? {BACK!r} : {LARGE!r};
}}"""


class References:
    """The references of one visit, by `photo_key`; the oldest are dropped."""

    def __init__(self) -> None:
        self.kept: OrderedDict[str, Given] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> References:
        return References()  # each visit begins with nothing

    def keep(self, key: str, given: Given) -> None:
        """Keep the reference of a photo in place of an earlier one."""
        self.kept.pop(key, None)
        self.kept[key] = given
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)


def photo_key(photo: str) -> str:
    """What tells a photo from others: a digest of its file."""
    return hashlib.blake2b(Path(photo).read_bytes(), digest_size=10).hexdigest()


def painted_reference(layers: Sequence[Any], picture: Picture) -> Reference:
    """What was painted over a picture, brought to the picture's size.

    Args:
        layers: RGBA pictures of one size, of the picture's proportions.
        picture: the photo.

    Raises:
        OptionError: nothing is painted, or all of it.
        PictureError: layers of other proportions: another photo was painted on.
    """
    painted: np.ndarray | None = None
    for layer in layers:
        opaque = np.asarray(Image.fromarray(np.asarray(layer)).convert("RGBA"))[:, :, 3] >= 128
        painted = opaque if painted is None or painted.shape != opaque.shape else painted | opaque
    if painted is None or not painted.any():
        raise OptionError("nothing is painted yet; paint over the object with the brush, and press the button again")
    if painted.all():
        raise OptionError("all of the photo is painted, which leaves no background; erase what is not the object")
    return bounded(resized(Reference(painted, np.zeros_like(painted)), picture.size))


def _boxed(boxes: Sequence[Box], picture: Picture) -> Given:
    """Boxes as the reference of a picture."""
    origin = "the box" if len(boxes) == 1 else "the boxes"
    return Given(bounded(reference_of_boxes(boxes, picture.size)), origin, tuple(boxes))


def photo_of(event: gr.EventData, photo: str | None, photos: Sequence[str] | None, what: str) -> str:
    """The chosen photo that an event of the board is about, found by its key.

    Args:
        event: with the key of the photo.
        photo: the first one that is chosen.
        photos: further ones.
        what: of the board the event is about, for the sentence where the photo is no longer chosen.
    """
    wanted = sent_value(event, "key")
    here = next((p for p in [photo, *(photos or [])] if p and photo_key(p) == wanted), None)
    if here is None:
        raise refusal(f"The photo of this {what} is no longer chosen; choose it again and press Run.")
    return here


class ReferencePanel:
    """Builds the panel inside a `gr.Blocks` and answers its events.

    Args:
        example: the reference of an example photo, None for another photo.
    """

    def __init__(self, example: Any) -> None:
        self.example = example

    def of(self, photo: str, references: References | None) -> Given | None:
        """The reference of a photo: the visitor's, else that of an example."""
        own = references.kept.get(photo_key(photo)) if references else None
        if own:
            return own
        found = self.example(photo)
        return Given(bounded(found), "the example's mask", own=False) if found else None

    def build(self, photo: gr.Image, photos: gr.File) -> gr.State:
        """Create the controls; `connect` ties them to the board.

        Returns:
            The visit's `References`, an input of a run.
        """
        self.photo, self.photos = photo, photos
        self.references = gr.State(References(), time_to_live=7200)
        with gr.Accordion("Where the object is: scores", open=False, elem_id="reference"):
            self.status = gr.Markdown(elem_id="reference-status")
            with gr.Tabs():
                with gr.Tab("Mask file"):
                    self.file = gr.File(
                        label="A mask of the photo", file_types=["image"], height=120, elem_id="mask-file"
                    )
                    self.labels = gr.Textbox(
                        label="Labels that are objects",
                        placeholder="1, 2: for trimaps and maps of classes",
                        max_lines=1,
                        elem_id="mask-labels",
                    )
                with gr.Tab("Paint") as self.paint_tab, gr.Column(elem_id="paint-panel"):
                    self.editor = Painting(
                        type="numpy",
                        label="Paint over the object",
                        sources=(),
                        transforms=(),
                        layers=False,
                        format="png",
                        height=340,
                        canvas_size=(CANVAS, CANVAS),
                        brush=gr.Brush(default_size=28, colors=[PAINT], color_mode="fixed"),
                        elem_id="painting",
                    )
                    with gr.Row():
                        self.large = gr.Button(LARGE, elem_id="paint-large")
                        self.use = gr.Button("Use the painting", elem_id="use-painting")
                with gr.Tab("Box"):
                    gr.Markdown("Press *Mark the object with a box* under the photo on the board and drag, or type it:")
                    self.box = gr.Textbox(
                        label="Box in pixels of the photo",
                        placeholder="x0, y0, x1, y1",
                        max_lines=1,
                        elem_id="box-text",
                    )
            self.baselines = gr.Checkbox(False, label="Baselines as rows", elem_id="baselines")
            self.remove = gr.Button("Remove", elem_id="remove-reference")
        self.payload = gr.JSON(visible="hidden", elem_id="reference-payload")
        return self.references

    def connect(self, view: Any) -> None:
        """Tie the controls to the board `view`."""
        outputs = [self.references, self.payload, self.status]
        photo, photos, references = self.photo, self.photos, self.references
        from_file = [photo, self.file, self.labels, references]
        events = [
            self.file.upload(self.take_file, from_file, outputs, api_visibility="private"),
            self.labels.submit(self.take_file, from_file, outputs, api_visibility="private"),
            self.use.click(self.take_painting, [photo, self.editor, references], outputs, api_visibility="private"),
            self.box.submit(self.take_box_text, [photo, self.box, references], outputs, api_visibility="private"),
            self.remove.click(self.forget, [photo, references], outputs, api_visibility="private"),
            view.reference(self.take_box, [photo, photos, references], outputs, api_visibility="private"),
        ]
        send = dispatch("board", "simpool-references", "payload", takes="payload")
        for event in events:
            event.success(None, [self.payload], None, js=send, queue=False, api_visibility="private")
        self.baselines.input(
            None,
            [self.baselines],
            None,
            js=dispatch("board", "simpool-baselines", "{ shown }", takes="shown"),
            queue=False,
            api_visibility="private",
        )
        for button, wanted in ((self.large, self.large), (self.use, None)):  # what is used goes back in any case
            button.click(None, wanted, self.large, js=ENLARGE, queue=False, api_visibility="private")
        self.paint_tab.select(self.canvas, photo, self.editor, api_visibility="private")
        photo.change(self.tell, [photo, references], self.status, api_visibility="private")

    # --- events ---------------------------------------------------------------------------------------------------

    @event_handler
    def tell(self, photo: str | None, references: References) -> str:
        """Which reference the photo has, in a sentence."""
        if not photo:
            return ""
        given = self.of(photo, references)
        if given is None:
            return "No reference yet. With one, every row shows how well its map and its mask meet the object."
        share = 100 * given.reference.objects.mean()
        return f"Scores are against {given.origin}: {share:.0f} % of the photo."

    @event_handler
    def canvas(self, photo: str | None) -> dict[str, Any] | None:
        """The photo to paint on, with nothing painted."""
        if not photo:
            return None
        image = Image.fromarray(read_picture(photo).rgb)
        image.thumbnail((CANVAS, CANVAS))
        return {"background": np.asarray(image), "layers": [], "composite": None}

    @event_handler
    def take_file(self, photo: str | None, file: str | None, labels: str, references: References) -> list[Any]:
        """Take a mask file as the reference of the photo."""
        if not file:
            raise refusal("Choose a mask file first.")
        path = str(file)
        name = Path(path).name
        try:
            reference = bounded(read_reference(Path(path), self._picture(photo).size, self._ids(labels)))
        except ValueError as error:
            # The sentence names the file; the place where the server keeps it is no business of a visitor.
            raise refusal(str(error).replace(path, name)) from error
        return self._took(photo, Given(reference, f"the mask {name}"), references)

    @event_handler
    def take_painting(self, photo: str | None, painting: dict[str, Any] | None, references: References) -> list[Any]:
        """Take what is painted as the reference of the photo."""
        picture = self._picture(photo)
        reference = painted_reference((painting or {}).get("layers") or [], picture)
        return self._took(photo, Given(reference, "the painting"), references)

    @event_handler
    def take_box_text(self, photo: str | None, text: str, references: References) -> list[Any]:
        """Take a box that was typed, x0, y0, x1, y1, as the reference of the photo; several with semicolons."""
        picture = self._picture(photo)
        try:
            boxes = [tuple(float(number) for number in box.split(",")) for box in text.split(";")]
        except ValueError:
            boxes = []
        if not boxes or any(len(box) != 4 for box in boxes):
            raise refusal(f"A box is x0, y0, x1, y1 in pixels, as 40, 30, 220, 180, not {text!r}.")
        return self._took(photo, _boxed(boxes, picture), references)  # type: ignore[arg-type]

    @event_handler
    def take_box(
        self, event: gr.EventData, photo: str | None, photos: list[str] | None, references: References
    ) -> list[Any]:
        """Take boxes that were drawn on a photo of the board, or stand in a link."""
        here, sent = photo_of(event, photo, photos, "box"), sent_value(event, "boxes")
        if not isinstance(sent, list) or any(not isinstance(box, list) or len(box) != 4 for box in sent):
            raise refusal("A box is four numbers, which is not what this page sent; load it again.")
        boxes = [tuple(checked_number(side, "a side of the box") for side in box) for box in sent[:MOST_BOXES]]
        return self._took(here, _boxed(boxes, read_picture(here)), references)  # type: ignore[arg-type]

    @event_handler
    def forget(self, photo: str | None, references: References) -> list[Any]:
        """Remove the reference of the photo; that of an example comes back."""
        if not photo:
            raise refusal("Choose a photo first.")
        key = photo_key(photo)
        references.kept.pop(key, None)
        given = self.of(photo, references)
        return [references, {key: reference_payload(given) if given else None}, self.tell(photo, references)]

    def _took(self, photo: str | None, given: Given, references: References) -> list[Any]:
        key = photo_key(str(photo))
        references.keep(key, given)
        return [references, {key: reference_payload(given)}, self.tell(photo, references)]

    def _picture(self, photo: str | None) -> Picture:
        if not photo:
            raise refusal("Choose a photo first.")
        return read_picture(photo)

    @staticmethod
    def _ids(labels: str) -> list[int]:
        try:
            return [int(part) for part in labels.split(",")] if labels.strip() else []
        except ValueError:
            raise OptionError(f"labels are whole numbers with commas between them, as 1, 2, not {labels!r}") from None

"""The guided tour: what each method changes on one photo, with the bundled models, and its limitations."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from simpool_viz.board.board import Board, Settings, make_board
from simpool_viz.checkpoints.bundle import bundled_folder
from simpool_viz.checkpoints.load import load_checkpoints
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.references import read_reference
from simpool_viz.scores.results import bundled_results, quoted

PHOTO = "motorcycle.jpg"


@dataclass(frozen=True)
class Stop:
    """A stop of the tour: one method on one photo.

    Attributes:
        name: in events.
        title: its heading.
        text: what the method does.
        observation: what the maps of the photo show.
        limits: what they do not show, with the addresses of figures that were measured on many photos.
        checkpoints: names of the bundled checkpoints that are compared.
        maps: as `parse_map` reads them.
        photo: file name of a bundled photo.
    """

    name: str
    title: str
    text: str
    observation: str
    limits: str
    checkpoints: tuple[str, ...]
    maps: tuple[str, ...]
    photo: str = PHOTO

    @property
    def limitations(self) -> str:
        """What the maps do not show, with the measured figures."""
        return quoted(self.limits, bundled_results())

    @property
    def markdown(self) -> str:
        """The stop as a visitor reads it."""
        observation, limitations = f"**What to observe.** {self.observation}", f"**Limitations.** {self.limitations}"
        return f"### {self.title}\n\n{self.text}\n\n{observation}\n\n{limitations}"


STOPS: tuple[Stop, ...] = (
    Stop(
        name="cls",
        title="A class token gathers the picture",
        text="A ViT's class token gathers what it needs through attention, in every block and head anew, and the "
        "classifier is applied to that token alone. Its attention in the last block is the usual answer to where a ViT "
        "attends.",
        observation="The heads attend to different regions, and their mean is patchy: most of it lies on the "
        "motorcycle, some in the background.",
        limits="The stem under these blocks was trained with SimPool, so even this attention lies mostly on "
        "objects. On 327 photos of horses its IoU with the object at true area is 0.436, no better than a centre prior "
        "(0.438), and the roll-out's is 0.451.",
        checkpoints=("vit_cls",),
        maps=("cls", "rollout"),
    ),
    Stop(
        name="simpool",
        title="SimPool pools by one attention",
        text="SimPool has no class token. One query, the mean of the tokens, attends to them once at the end, without "
        "heads or skip connections, and the weighted mean of the tokens is the picture's vector.",
        observation="One region on the engine; some of the class token's attention falls on the window behind.",
        limits="On the horses SimPool's map has an IoU of 0.501 at true area where the class token's has 0.436. "
        "But it is peaked on discriminative parts, so its mask covers little of a large object, and it classifies no "
        "better: 70.4 % where the class token has 71.6 %. And most of it is owed to the frozen stem, which was trained "
        "with SimPool: on one trained with GAP the map is far worse.",
        checkpoints=("vit_cls", "vit_simpool"),
        maps=("cls", "pooling"),
    ),
    Stop(
        name="ggem",
        title="GGeM averages with an exponent",
        text="GGeM has no attention. In each group of channels the tokens' values are raised to a learned power p and "
        "averaged, and the root is taken: p = 1 is the plain mean of GAP, a large p comes near the maximum. The map is "
        "what each token adds to the logit.",
        observation="The exponents of the groups, under Inspect; and that GGeM's contributions are strongly positive "
        "or negative, red and blue, where GAP's are even.",
        limits="GGeM classifies no better than GAP here, 70.0 % against 70.3 %, and its exponents stayed where "
        "they began, near 3. The contributions of neither outline the object: on the horses they are far below the "
        "centre prior.",
        checkpoints=("vit_gap", "vit_ggem"),
        maps=("contribution",),
    ),
    Stop(
        name="life",
        title="LIFE gives queries and keys a neighbourhood",
        text="In a plain ViT a token's query and key depend on that token alone. LIFE makes them at three scales, from "
        "the token itself and from its 3 x 3 and 5 x 5 surroundings, so that each head attends at one scale.",
        observation="Under Inspect the heads are grouped by scale. Attention at the coarser scales is smoother.",
        limits="At this scale LIFE does not improve the classifiers: 70.8 % against 71.6 % with a class token, "
        "70.1 % against 70.4 % with SimPool; the class token's map is less on the object (IoU 0.369 against 0.436). In "
        "the dense models it helps: 3.3 points of mean IoU.",
        checkpoints=("vit_cls", "vit_life_cls", "vit_simpool", "vit_life_simpool"),
        maps=("cls", "pooling"),
    ),
    Stop(
        name="spatial_entropy",
        title="Spatial entropy favours few connected regions",
        text="The spatial entropy of a map is low where its mass lies in few connected regions. As a loss in training "
        "it concentrates each head of the class token on few regions; as a figure it stands in the caption of every "
        "map.",
        observation="The entropy in the two captions, and the number of components of the masks.",
        limits="The loss does what it was made for: on the horses the entropy falls from 0.135 to 0.103, and the "
        "map comes to lie better on the object, 0.457 against 0.436. The difference is hardly visible, and on a single "
        "photo it may go the other way.",
        checkpoints=("vit_cls", "vit_cls_sar"),
        maps=("cls",),
    ),
    Stop(
        name="dense_rollout",
        title="Dense Attention Roll-Out starts from every token of a class",
        text="Roll-out follows attention through all blocks down to the patches, usually from the class token. The "
        "dense form starts from all tokens that a head assigns to one class, so that each class has its map. A dense "
        "model's head classifies every token anyway; the head of a classifier, as here, is applied to every token.",
        observation="Where the tokens of the class take their information from, compared with the class token.",
        limits="With a classifier the classes of tokens are guesses: they were never trained. The dense models "
        "know street scenes alone; open one under Inspect with a photo of a street, and raise the weight of the skip "
        "connection to 0.8, since LayerScale makes attention add little here.",
        checkpoints=("vit_cls", "vit_life_cls"),
        maps=("dense_rollout", "class_logits", "rollout"),
    ),
)


def stops(having: Container[str]) -> list[Stop]:
    """The stops whose checkpoints are all among the names `having`."""
    return [stop for stop in STOPS if all(name in having for name in stop.checkpoints)]


def stop_board(stop: Stop, encoders: list[Encoder] | None = None) -> Board:
    """The board of a stop on its photo, scored against the photo's reference mask.

    Args:
        stop: of the tour.
        encoders: its checkpoints in their order, where they are loaded already.

    Raises:
        SimpoolError: a checkpoint that is not here, or cannot be read.
    """
    encoders = encoders or load_checkpoints(stop.checkpoints)
    photo = bundled_folder("assets") / stop.photo
    reference = read_reference(photo.parent / "masks" / f"{photo.stem}.png")
    return make_board([photo], encoders, stop.maps, Settings(), {0: reference})

"""The guided tour: what each method changes on one photo, with the bundled models, and its limitations."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from simpool_viz.board.board import Board, Settings, make_board
from simpool_viz.bundled import bundled_folder
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
        "classifier is applied to that token alone. Its attention in the last block is the usual answer to where a "
        "ViT attends.",
        observation="The mean over the heads covers the motorcycle as one region. The roll-out falls to a few tokens "
        "all over the picture, the lamp and the boxes among them.",
        limits="The blocks below were distilled from DINOv2, whose class token outlines objects by itself. On 327 "
        "photos of horses the IoU of this attention with the object at true area is {vit/horses | vit_cls: CLS "
        "attention | iou_at_true_area}, where a centre prior has {vit/horses | centre prior | iou_at_true_area}. The "
        "roll-out through all blocks has {vit/horses | vit_cls: Attention Roll-Out | iou_at_true_area}.",
        checkpoints=("vit_cls",),
        maps=("cls", "rollout"),
    ),
    Stop(
        name="simpool",
        title="SimPool pools by one attention",
        text="SimPool has no class token. One query, the mean of the tokens, attends to them once at the end, without "
        "heads or skip connections, and the weighted mean of the tokens is the picture's vector.",
        observation="Both maps cover the motorcycle. SimPool's is even over frame and wheels and falls off at the "
        "outline; the class token's is strongest at the engine.",
        limits="On the horses SimPool's map has an IoU of {vit/horses | vit_simpool: Pooling attention | "
        "iou_at_true_area} at true area where the class token's has {vit/horses | vit_cls: CLS attention | "
        "iou_at_true_area}, and its mask {vit/horses | vit_simpool: Pooling attention | iou} where the class token's "
        "has {vit/horses | vit_cls: CLS attention | iou}. On photos with several objects the masks have "
        "{vit/coco_open | vit_simpool: Pooling attention | iou} and {vit/coco_open | vit_cls: CLS attention | iou}. "
        "Much is owed to the blocks below: the base that no pooling has shaped has {thin/horses | vit_thin: CLS "
        "attention | iou_at_true_area} already. Top-1 is {vit/objects | vit_simpool | top1} % where the class token "
        "has {vit/objects | vit_cls | top1} %.",
        checkpoints=("vit_cls", "vit_simpool"),
        maps=("own",),
    ),
    Stop(
        name="ggem",
        title="GGeM averages with an exponent",
        text="GGeM has no attention. In each group of channels the tokens' values are raised to a learned power p and "
        "averaged, and the root is taken: p = 1 is the plain mean of GAP, a large p comes near the maximum. The map "
        "is what each token adds to the logit.",
        observation="Nearly every token adds to the logit of the motorcycle, also those of the wall: averaging "
        "spreads the class over all tokens. The exponents of the groups stand under Inspect.",
        limits="GGeM classifies {vit/objects | vit_ggem | top1} % of the photos right and GAP {vit/objects | vit_gap "
        "| top1} %. The contributions of neither outline the object: on the horses their IoU at true area is "
        "{vit/horses | vit_ggem: Contribution | iou_at_true_area} and {vit/horses | vit_gap: Contribution | "
        "iou_at_true_area}, the centre prior's {vit/horses | centre prior | iou_at_true_area}.",
        checkpoints=("vit_gap", "vit_ggem"),
        maps=("contribution",),
    ),
    Stop(
        name="life",
        title="LIFE gives queries and keys a neighbourhood",
        text="In a plain ViT a token's query and key depend on that token alone. LIFE makes them at three scales, "
        "from the token itself and from its 3 x 3 and 5 x 5 surroundings, so that each head attends at one scale. "
        "Here it stands in the last two blocks.",
        observation="Under Inspect the heads are grouped by scale. Attention at the coarser scales is smoother.",
        limits="With LIFE the classifiers have a top-1 of {vit/objects | vit_life_cls | top1} % against {vit/objects "
        "| vit_cls | top1} % with a class token, {vit/objects | vit_life_simpool | top1} % against {vit/objects | "
        "vit_simpool | top1} % with SimPool. The class token's map has an IoU of {vit/horses | vit_life_cls: CLS "
        "attention | iou_at_true_area} against {vit/horses | vit_cls: CLS attention | iou_at_true_area} on the "
        "horses, SimPool's {vit/horses | vit_life_simpool: Pooling attention | iou_at_true_area} against {vit/horses | "
        "vit_simpool: Pooling attention | iou_at_true_area}. In the dense models mean IoU differs by "
        "{scenes/camvid/test/iou | camvid_vit_life | above_first} points.",
        checkpoints=("vit_cls", "vit_life_cls", "vit_simpool", "vit_life_simpool"),
        maps=("own",),
    ),
    Stop(
        name="spatial_entropy",
        title="Spatial entropy favours few connected regions",
        text="The spatial entropy of a map is low where its mass lies in few connected regions. As a loss in training "
        "it concentrates each head of the class token on few regions; as a figure it stands in the caption of every "
        "map.",
        observation="The entropy in the two captions, and the number of components of the masks.",
        limits="On the horses the entropy is {vit/horses | vit_cls_sar: CLS attention | spatial_entropy} with the "
        "loss and {vit/horses | vit_cls: CLS attention | spatial_entropy} without it; the map's IoU at true area is "
        "{vit/horses | vit_cls_sar: CLS attention | iou_at_true_area} and {vit/horses | vit_cls: CLS attention | "
        "iou_at_true_area}. The difference is hardly visible, and on a single photo it may go the other way.",
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
        limits="With a classifier the classes of tokens are guesses: they were never trained. The dense models know "
        "street scenes alone; open one under Inspect with a photo of a street, and raise the weight of the skip "
        "connection to four fifths, since LayerScale makes attention add little here.",
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

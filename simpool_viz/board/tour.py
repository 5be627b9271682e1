"""The guided tour: what each method does differently on one photo, with the bundled models, and where it does not."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from simpool_viz.board.board import Board, Settings, make_board
from simpool_viz.checkpoints.bundle import bundled_folder
from simpool_viz.checkpoints.load import load_checkpoints
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.localization import read_reference

PHOTO = "motorcycle.jpg"


@dataclass(frozen=True)
class Stop:
    """A stop of the tour: `text` says what the method does, `look` what to look for, `honest` what does not show.

    checkpoints, maps: laid side by side; maps as `board.parse_map` reads them.
    """

    name: str
    title: str
    text: str
    look: str
    honest: str
    checkpoints: tuple[str, ...]
    maps: tuple[str, ...]
    photo: str = PHOTO

    @property
    def markdown(self) -> str:
        """The stop as a visitor reads it."""
        return f"### {self.title}\n\n{self.text}\n\n**Look for.** {self.look}\n\n**Honestly.** {self.honest}"


STOPS: tuple[Stop, ...] = (
    Stop(
        "cls",
        "A class token reads the picture",
        "A ViT's class token gathers what it needs through attention, in every block and head anew, and the classifier "
        "reads that token "
        "alone. Its attention in the last block is the usual answer to where a ViT looks.",
        "The heads look at different things, and their mean is patchy: most of it lies on the motorcycle, some in the "
        "background.",
        "The stem under these blocks was trained with SimPool, so even this attention lies mostly on objects. On 327 "
        "photos of horses "
        "its IoU with the object at true area is 0.436, no better than a centre prior (0.438), and the roll-out's is "
        "0.451.",
        ("vit_cls",),
        ("cls", "rollout"),
    ),
    Stop(
        "simpool",
        "SimPool reads it by one attention",
        "SimPool takes the class token away. One query, the mean of the tokens, attends to them once at the end, "
        "without heads or skips, "
        "and the weighted mean of the tokens is the picture's vector.",
        "One region on the engine; some of the class token's attention falls on the window behind.",
        "On the horses SimPool's map has an IoU of 0.501 at true area where the class token's has 0.436. But it is "
        "peaked on telling "
        "parts, so its mask covers little of a large object, and it classifies no better: 70.4 % where the class token "
        "has 71.6 %. "
        "And most of it is owed to the frozen stem, which was trained with SimPool: on one trained with GAP the map is "
        "far worse.",
        ("vit_cls", "vit_simpool"),
        ("cls", "pooling"),
    ),
    Stop(
        "ggem",
        "GGeM averages with an exponent",
        "GGeM has no attention. In each group of channels the tokens' values are raised to a learned power p and "
        "averaged, and the root "
        "is taken: p = 1 is the plain mean of GAP, a large p comes near the maximum. The map is what each token adds "
        "to the logit.",
        "The exponents of the groups, under Inspect; and that GGeM's contribution takes sides, red and blue, where "
        "GAP's is even.",
        "GGeM classifies no better than GAP here, 70.0 % against 70.3 %, and its exponents stayed where they began, "
        "near 3. The "
        "contributions of neither outline the object: on the horses they are far below the centre prior.",
        ("vit_gap", "vit_ggem"),
        ("contribution",),
    ),
    Stop(
        "life",
        "LIFE gives queries and keys a neighbourhood",
        "In a plain ViT a token's query and key know nothing of its neighbours. LIFE makes them at three scales, from "
        "the token itself and "
        "from its 3 x 3 and 5 x 5 surroundings, so that each head attends at one scale.",
        "Under Inspect the heads stand in groups by scale. Attention at the coarser scales is smoother.",
        "At this scale LIFE does not improve the classifiers: 70.8 % against 71.6 % with a class token, 70.1 % against "
        "70.4 % with "
        "SimPool; the class token's map is less on the object (IoU 0.369 against 0.436). In the dense models it helps: "
        "3.3 points of "
        "mean IoU.",
        ("vit_cls", "vit_life_cls", "vit_simpool", "vit_life_simpool"),
        ("cls", "pooling"),
    ),
    Stop(
        "spatial_entropy",
        "Spatial entropy asks for few blobs",
        "The spatial entropy of a map is low where its mass lies in few connected parts. As a loss in training it asks "
        "each head of the "
        "class token to look at few regions; as a figure it stands in the caption of every map.",
        "The entropy in the two captions, and the number of separate parts in the masks.",
        "It does what it asks for: on the horses the entropy falls from 0.135 to 0.103, and the map comes to lie "
        "better on the object, "
        "0.457 against 0.436. The difference is small to the eye, and on a single photo it may go the other way.",
        ("vit_cls", "vit_cls_sar"),
        ("cls",),
    ),
    Stop(
        "dense_rollout",
        "Dense Attention Roll-Out asks every token of a class",
        "Roll-out follows attention through all blocks down to the patches, usually from the class token. The dense "
        "form starts from all "
        "tokens that a head gives to one class, so that each class has its map. A dense model's head gives classes to "
        "tokens by itself; "
        "with a classifier, as here, its head is applied to every token.",
        "Where the tokens of the class take their information from, beside where the class token does.",
        "With a classifier the classes of tokens are guesses: they were never trained. The dense models know street "
        "scenes alone; open "
        "one under Inspect with a photo of a street, and raise the weight of the skip connection to 0.8, since "
        "LayerScale makes "
        "attention add little here.",
        ("vit_cls", "vit_life_cls"),
        ("dense_rollout", "class_logits", "rollout"),
    ),
)


def stops(having: Container[str]) -> list[Stop]:
    """The stops whose checkpoints are all in `having`."""
    return [stop for stop in STOPS if all(name in having for name in stop.checkpoints)]


def stop_board(stop: Stop, encoders: list[Encoder] | None = None) -> Board:
    """The board of a stop on its photo, scored against the photo's reference mask.

    Args:
        encoders: its checkpoints, already loaded.
    """
    encoders = encoders or load_checkpoints(stop.checkpoints)
    photo = bundled_folder("assets") / stop.photo
    reference = read_reference(photo.parent / "masks" / f"{photo.stem}.png")
    return make_board([photo], encoders, stop.maps, Settings(), {0: reference})

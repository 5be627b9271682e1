"""Writes docs/poolings.md from the registry of poolings: `python docs/make_poolings.py`.

Where there is one, the map stands on the same features, those of the bundled ResNet with GAP: of the head that was
trained on them frozen (`simpool-viz train resnet_heads`), or, for a pooling that needs no training, of the pooling
itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from simpool_viz import load_checkpoint
from simpool_viz.board.board import make_board
from simpool_viz.bundled import bundled_folder
from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.drawing.render import render_row, row_scales
from simpool_viz.modeling.pooling import GROUPS, Pooling, Tokens, create_pooling, poolings

FOLDER = Path(__file__).parent
DIM, GRID = 256, (16, 16)
FEATURES = "resnet_gap"
INTRO = f"""# Poolings

Every pooling is a few steps of one recipe (SimPool paper, section 3). Features X, N tokens of width D, meet a state U
of k vectors:

    Q = φ_Q(U)   K = φ_K(X)   S = s(K, Q)   A = h(S)   V = φ_V(X)   Z = f⁻¹(A f(V))   X ← φ_X(X)   U ← φ_U(Z)

σ₂ is the softmax over positions, σ₁ that over slots, η₂ divides by the sum over positions. Parameters and
multiply-adds are those of one pooling at D = {DIM} on a grid of {GRID[0]} x {GRID[1]}; matrix products and
convolutions are counted, sums and powers are not. Maps are of heads trained on the same frozen features, those of
`{FEATURES}`, under one recipe; where a pooling weighs all positions alike, the contribution to the predicted class is
shown. Top-1 is of one seed each. Left is the map over the photo: the brighter, the more weight; of a contribution,
red raises the class's logit and blue lowers it. Right is the object mask derived from the map alone by the
default cut, at its mean, with a box around each connected part.
This page is written by `python docs/make_poolings.py`. `simpool-viz list --poolings` prints the table of all slots.
"""


def map_of(pooling: type[Pooling]) -> tuple[str, str] | None:
    """(checkpoint, map) with which the pooling can be shown, or None."""
    having = {
        name: e
        for name, e in catalogue().items()
        if e.available and e.spec.pooling == pooling.name and not e.spec.dense
    }
    for name in sorted(having, key=lambda name: FEATURES not in (name, having[name].facts.base)):
        return name, "pooling" if pooling.attentive else "cls" if pooling.name == "cls" else "contribution"
    if pooling.attentive and not pooling.learned:
        return FEATURES, pooling.name
    return None


def costs(name: str) -> tuple[int, int]:
    """Parameters, and multiply-adds of one picture."""
    pooling = create_pooling(name, DIM).eval().requires_grad_(False)
    features = torch.randn(1, 1 + GRID[0] * GRID[1], DIM)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        pooling(Tokens.from_sequence(features, GRID, 1))
    return sum(p.numel() for p in pooling.parameters()), counter.get_total_flops() // 2


def section(pooling: type[Pooling]) -> str:
    """One pooling as Markdown."""
    parameters, products = costs(pooling.name)
    shown = map_of(pooling)
    if shown:
        picture = (
            f"![{pooling.title}: map and object mask on a photo of a "
            f"cat](poolings/{pooling.name}.jpg)\n\n{_caption(*shown)}"
        )
    else:
        picture = "*It needs the class token of a ViT, and no bundled checkpoint has one.*"
    return f"""### {pooling.title} (`{pooling.name}`)

{pooling.summary}

    {pooling.formula}

{pooling.paper}. Parameters: {parameters:,}; multiply-adds: {products:,}.

{picture}
"""


def _caption(checkpoint: str, shown: str) -> str:
    """What the picture shows, and how well the checkpoint that pools so classifies."""
    entry = catalogue()[checkpoint]
    accuracy = f", top-1 {entry.facts.accuracy}" if shown in ("pooling", "contribution") else ""
    return f"*`{shown}` of `{checkpoint}`{accuracy}*"


def page() -> str:
    """The whole page."""
    parts = [INTRO]
    for number, title in GROUPS.items():
        parts.append(f"## {number}. {title[0].upper()}{title[1:]}\n")
        parts += [section(p) for p in poolings().values() if p.group == number]
    return "\n".join(parts)


def draw(folder: Path) -> None:
    """Write `NAME.jpg` for every pooling that can be shown: its map over the photo, and the object mask beside it."""
    folder.mkdir(exist_ok=True)
    photo = bundled_folder("assets") / "chelsea.jpg"
    for pooling in poolings().values():
        shown = map_of(pooling)
        if shown:
            board = make_board([photo], [load_checkpoint(shown[0], device="cpu")], [shown[1]])
            scale = row_scales(board, DrawingStyle())[0]
            overlay, mask = (
                Image.fromarray(image) for image in render_row(board, board.rows[0], scale, DrawingStyle(), 300)
            )
            pair = Image.new("RGB", (2 * overlay.width + 12, overlay.height), "white")
            pair.paste(overlay, (0, 0))
            pair.paste(mask, (overlay.width + 12, 0))
            pair.save(folder / f"{pooling.name}.jpg", quality=88)


def main() -> int:
    draw(FOLDER / "poolings")
    (FOLDER / "poolings.md").write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The card of a trained checkpoint: the README.md of its folder."""

from __future__ import annotations

import math
from dataclasses import dataclass

from simpool_viz.encoder import EncoderSpec
from simpool_viz.pooling import poolings
from simpool_viz.training.recipe import HeadsRecipe, Recipe


@dataclass(frozen=True)
class Result:
    """minutes: of wall clock, on `threads` CPU threads; correct of count held-out photos."""

    minutes: float
    threads: int
    correct: int
    count: int

    def accuracy(self) -> str:
        """Top-1 in per cent with the half width of its 95 % interval (normal approximation)."""
        share = self.correct / self.count
        half = 1.96 * math.sqrt(share * (1 - share) / self.count)
        return f"{100 * share:.1f} % ± {100 * half:.1f} of {self.count} held-out photos"


def write_card(recipe: Recipe, result: Result, photos: int, done: int) -> str:
    """Markdown: what was trained, on what, how, and how well it classifies."""
    stages = "\n".join(f"| {i} | {s.size} px | {s.photos:,} | {s.lr:g} | {s.crop:g} |" for i, s in enumerate(recipe.stages[:done], 1))
    spec = recipe.encoder
    backbone = f"a {spec.backbone} backbone ({_kwargs(recipe)})"
    optimiser = f"AdamW, weight decay {recipe.weight_decay:g}, cosine, batch {recipe.batch_size}"
    return f"""# {recipe.title}

`{recipe.name}`: {backbone} with {_pooling(spec)}.

| | |
|---|---|
| data | {photos:,} photos: {recipe.sources} |
| recipe | `{_command(recipe)}` |
| optimiser | {optimiser}, label smoothing {recipe.label_smoothing:g}, seed {recipe.seed} |
| training time | {result.minutes:.0f} minutes on {result.threads} CPU thread(s), other work of the machine included |
| top-1 | {result.accuracy()} |
| licence | {recipe.license} |

| stage | pictures | photos seen | peak learning rate | smallest crop |
|---|---|---|---|---|
{stages}

Maps are best near {recipe.map_size} px on the shorter side, which is what the tool uses unless told otherwise.
"""


def write_head_card(recipe: HeadsRecipe, head: str, spec: EncoderSpec, result: Result, photos: int, parameters: int) -> str:
    """Markdown: a head, the frozen backbone it stands on, and how well it classifies."""
    optimiser = f"AdamW, peak learning rate {recipe.lr:g}, weight decay {recipe.weight_decay:g}, cosine, batch {recipe.batch_size}"
    crops = f"one crop of each, at least {100 * recipe.crop:g} % of its area"
    return f"""# {head_title(recipe, spec)}

`{recipe.frozen}+{head}`: {_pooling(spec)} and a linear classifier, {parameters:,} parameters, on the frozen backbone of `{recipe.frozen}`.
This folder holds the head alone; the backbone is that of `{recipe.frozen}`, which belongs beside it.

| | |
|---|---|
| data | {photos:,} photos: {recipe.sources} |
| recipe | `{_command(recipe)}` |
| features | {recipe.size} px, {crops}, computed once |
| optimiser | {optimiser}, label smoothing {recipe.label_smoothing:g}, {recipe.photos:,} photos seen, seed {recipe.seed} |
| training time | {result.minutes:.0f} minutes on {result.threads} CPU thread(s), features not counted, other work of the machine included |
| top-1 | {result.accuracy()} |
| licence | {recipe.license} |
"""


def head_title(recipe: HeadsRecipe, spec: EncoderSpec) -> str:
    return f"{poolings()[spec.pooling].title} on frozen {recipe.frozen}"


def _command(recipe: Recipe | HeadsRecipe) -> str:
    return " ".join(["simpool-viz train", recipe.source or recipe.name, *(f"--set {o!r}" for o in recipe.overrides)])


def _pooling(spec: EncoderSpec) -> str:
    options = ", ".join(f"{k} = {v}" for k, v in spec.pooling_options.items())
    return f"**{spec.pooling}** pooling{f' ({options})' if options else ''}{'' if spec.norm == 'none' else f', {spec.norm} norm'}"


def _kwargs(recipe: Recipe) -> str:
    settings = ", ".join(f"{k} = {v}" for k, v in recipe.encoder.backbone_kwargs.items())
    return settings + ("" if recipe.encoder.stem_pool else ", no max-pooling after the stem")

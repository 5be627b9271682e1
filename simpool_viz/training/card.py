"""The card of a trained checkpoint: the README.md of its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simpool_viz.modeling.pooling import poolings
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.outputs import markdown_table
from simpool_viz.training.curve import Points, describe_curve
from simpool_viz.training.dino import SelfDistillation
from simpool_viz.training.distil import Distillation
from simpool_viz.training.recipe import HeadsRecipe, Recipe, Stage


@dataclass(frozen=True)
class Result:
    """The cost and the outcome of a training.

    Attributes:
        minutes: wall-clock time.
        threads: CPU threads of each process.
        processes: number of processes.
        device: on which the weights were, such as "cpu" or "cuda:0".
        accuracy: the score on held-out photos, as `describe_accuracy` or `describe_iou` writes it.
    """

    minutes: float
    threads: int
    processes: int
    device: str
    accuracy: str

    @property
    def time(self) -> str:
        """Duration and hardware in a phrase."""
        kind = f"{self.threads} CPU thread(s)" if self.device.startswith("cpu") else self.device
        several = f"{self.processes} processes of " if self.processes > 1 else ""
        return f"{self.minutes:.0f} minutes on {several}{kind}, other work of the machine included"


def stage_line(name: str, stage: Stage, minutes: float) -> str:
    """Describe a completed stage in a line, as its checkpoint keeps it.

    Args:
        name: of the recipe.
        stage: its settings.
        minutes: wall-clock time of the stage.
    """
    one = "one crop of each photo, " if stage.kept else "crops of "
    crops = f"{one}at least {100 * stage.crop:g} % of {'it' if stage.kept else 'a photo'}"
    crops += ", squeezed" if stage.squeeze else ""
    crops += f", the {stage.freeze} at rest" if stage.freeze else ""
    return (
        f"{name}: {stage.size} px, {stage.photos:,} photos seen, peak learning rate {stage.lr:g}, {crops}, "
        f"{minutes:.0f} minutes"
    )


def write_card(
    recipe: Recipe,
    result: Result,
    photos: int,
    stages: Sequence[str],
    start: str = "",
    entropies: Sequence[Points] = (),
) -> str:
    """Write the card of a trained encoder: model, data, recipe and accuracy.

    Args:
        recipe: of the training.
        result: cost and accuracy.
        photos: number of training photos.
        stages: a line for each completed stage, those of earlier trainings included.
        start: the `Start.summary` of the weights it began with, or "" for random ones.
        entropies: of the readout scores in each stage, as `read_entropies` gives them.

    Returns:
        Markdown.
    """
    spec = recipe.encoder
    backbone = f"a {spec.backbone} backbone ({_kwargs(recipe)})"
    listed = "\n".join(f"{i}. {line}" for i, line in enumerate(stages, 1))
    extras = (f", {spec.inside} inside" if spec.inside else "") + (", a dense head" if spec.dense else "")
    began = start or f"random weights, seed {recipe.seed}"
    drawn = "; pooling and head are drawn as where nothing stands inside" if recipe.drawn_as_plain else ""
    still = f"; {_still(recipe)}" if recipe.freeze else ""
    part = f" ({100 * recipe.share:g} % of each class)" if recipe.share < 1 else ""
    facts = [
        ["data", f"{photos:,} photos{part}: {recipe.sources}{'; labels are not used' if _unlabelled(recipe) else ''}"],
        ["recipe", f"`{_command(recipe)}`"],
        ["start", began + drawn + still],
        ["optimiser", _optimiser(recipe)],
        ["loss", _loss(recipe)],
        ["training time", result.time],
        [_measure(recipe), result.accuracy.removeprefix("mean IoU ").removeprefix("k-NN ")],
        ["licence", recipe.license],
    ]
    return f"""# {recipe.title}

`{recipe.name}`: {backbone} with {_pooling(spec)}{extras}.

{markdown_table(["", ""], facts)}

Stages, each with its own complete schedule:

{listed}

Maps are best near {recipe.map_size} px on the shorter side, which is the default.
{describe_curve(entropies, photos)}"""


def _measure(recipe: Recipe) -> str:
    """What the accuracy of a training is, as the head of its row."""
    if recipe.dino:
        return "k-NN"
    if recipe.distil and _unlabelled(recipe):
        return recipe.distil.aim
    return "mean IoU" if recipe.encoder.dense else "top-1"


def _still(recipe: Recipe) -> str:
    if recipe.freeze == "trunk":
        return f"the embedding and the first {recipe.trunk_blocks} blocks stay as they are"
    return f"the {recipe.freeze} stays as it is"


def _optimiser(recipe: Recipe) -> str:
    parts = [
        f"{recipe.optimizer}, weight decay {recipe.weight_decay:g}, cosine, batch {recipe.batch_size}, precision "
        f"{recipe.precision}"
    ]
    parts += [f"{name} {alpha:g}" for name, alpha in (("mixup", recipe.mixup), ("cutmix", recipe.cutmix)) if alpha]
    parts += [f"learning rate of `{name}` times {factor:g}" for name, factor in recipe.rates.items()]
    for name, factors in recipe.scales.items():
        of_stages = " of the stages" if len(factors) > 1 else ""
        parts.append(f"`{name}` times {' and '.join(f'{f:g}' for f in factors)} at the start{of_stages}")
    return ", ".join(
        parts + ([f"average of weights with decay {recipe.ema:g}"] if recipe.ema else []) + [f"seed {recipe.seed}"]
    )


def _loss(recipe: Recipe) -> str:
    if recipe.dino:
        return _of_dino(recipe.dino)
    if recipe.distil and _unlabelled(recipe):
        return _aim(recipe.distil)
    terms = [f"cross entropy{' of pixels' if recipe.encoder.dense else ''}, label smoothing {recipe.label_smoothing:g}"]
    if recipe.encoder.inside == "spe":
        terms.append(f"{recipe.spe_penalty:g} of SPE's penalty")
    if recipe.spatial_entropy:
        terms.append(
            f"{recipe.spatial_entropy:g} of spatial entropy{_COURSES[recipe.entropy_schedule]}"
            + (f", above the {recipe.entropy_threshold}" if recipe.entropy_threshold != "mean" else "")
        )
    if recipe.distil:
        terms.append(f"{recipe.distil.weight:g} of {_aim(recipe.distil)}")
    return " + ".join(terms)


# What becomes of the weight of the spatial entropy over a stage, by schedule.
_COURSES = {
    "rise and fall": ", rising over the first tenth of a stage and falling by a cosine",
    "rise": ", rising over the first tenth of a stage",
    "constant": "",
}


def _unlabelled(recipe: Recipe) -> bool:
    return bool(recipe.dino or recipe.distil) and not recipe.encoder.num_classes


def _of_dino(dino: SelfDistillation) -> str:
    crops = f"2 large and {dino.local_crops} small crops"
    head = f"{dino.outputs:,} outputs, student at {dino.student_temperature:g}"
    teacher = f"teacher at {dino.first_temperature:g} to {dino.teacher_temperature:g}, momentum {dino.momentum:g} to 1"
    return f"DINO: {crops}, {head}, {teacher}, centre {dino.centre_momentum:g}"


def _aim(distil: Distillation) -> str:
    if distil.aim == "vector":
        return f"{distil.loss} of the pooled vector, linearly projected, and the teacher's standardised class token"
    beside = f", {distil.class_token:g} of the class token's" if distil.class_token else ""
    return f"{distil.loss} of standardised tokens and the teacher's{beside}"


def write_head_card(
    recipe: HeadsRecipe, head: str, spec: EncoderSpec, result: Result, photos: int, parameters: int
) -> str:
    """Write the card of a head on a frozen backbone.

    Args:
        recipe: of the training.
        head: name of the head in the recipe.
        spec: of the encoder with this head.
        result: cost and accuracy.
        photos: number of training photos.
        parameters: number of parameters of the pooling and the classifier.

    Returns:
        Markdown.
    """
    optimiser = f"{recipe.optimizer}, peak learning rate {recipe.lr:g}, weight decay {recipe.weight_decay:g}, cosine"
    schedule = (
        f"batch {recipe.batch_size}, label smoothing {recipe.label_smoothing:g}, {recipe.photos:,} photos seen, "
        f"seed {recipe.seed}"
    )
    crops = f"one crop of each, at least {100 * recipe.crop:g} % of its area"
    what = f"{_pooling(spec)} and a linear classifier, {parameters:,} parameters"
    facts = [
        ["data", f"{photos:,} photos: {recipe.sources}"],
        ["recipe", f"`{_command(recipe)}`"],
        ["features", f"{recipe.size} px, {crops}, computed once"],
        ["optimiser", f"{optimiser}, {schedule}"],
        ["training time", f"{result.time}, features not counted"],
        ["top-1", result.accuracy],
        ["licence", recipe.license],
    ]
    return f"""# {head_title(recipe, spec)}

`{recipe.frozen}+{head}`: {what}, on the frozen backbone of `{recipe.frozen}`.
This folder holds the head alone; the backbone is that of `{recipe.frozen}`, which belongs beside it.

{markdown_table(["", ""], facts)}
"""


def head_title(recipe: HeadsRecipe, spec: EncoderSpec) -> str:
    """The title of a head's card and checkpoint, such as "SimPool on frozen resnet_gap"."""
    return f"{poolings()[spec.pooling].title} on frozen {recipe.frozen}"


def _command(recipe: Recipe | HeadsRecipe) -> str:
    return " ".join(["simpool-viz train", recipe.source or recipe.name, *(f"--set {o!r}" for o in recipe.overrides)])


def _pooling(spec: EncoderSpec) -> str:
    options = ", ".join(f"{k} = {v}" for k, v in spec.pooling_options.items())
    return (
        f"**{spec.pooling}** "
        f"pooling{f' ({options})' if options else ''}{'' if spec.norm == 'none' else f', {spec.norm} norm'}"
    )


def _kwargs(recipe: Recipe) -> str:
    spec = recipe.encoder
    parts = [f"{k} = {v}" for k, v in spec.backbone_kwargs.items()]
    if spec.stem:
        parts.append(f"its tokens made by the first {spec.stem['blocks']} blocks of a {spec.stem['backbone']}")
    return ", ".join(parts if spec.stem_pool else [*parts, "no max-pooling after the stem"])

"""The training loop: stages, each a complete schedule, that end in a checkpoint folder with its card.

Device, precision and several processes are accelerate's; optimiser, schedule, mixup and the average of weights are
timm's.
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from tqdm import tqdm

from simpool_viz.checkpoints.bundle import load_bundle, save_bundle
from simpool_viz.errors import TrainingError
from simpool_viz.modeling.encoder import Encoder, Facts, Output
from simpool_viz.tensors import enough_memory
from simpool_viz.training.card import Result, stage_line, write_card
from simpool_viz.training.curve import write_curve
from simpool_viz.training.data import Batches, Photos, load_photos
from simpool_viz.training.dino import SelfTeaching, Views, file_settings
from simpool_viz.training.distil import Student
from simpool_viz.training.features import CropPlan, Features, keep_features
from simpool_viz.training.interruption import RESUME, Run, read_interrupted
from simpool_viz.training.logs import Log, read_entropies
from simpool_viz.training.measure import measure, measure_neighbours
from simpool_viz.training.recipe import Recipe, Stage, folders_of, scales_at
from simpool_viz.training.school import School
from simpool_viz.training.sources import read_common_classes
from simpool_viz.training.start import draw_as_plain, scale_tensors, start_from
from simpool_viz.training.step import (
    Step,
    attention_to_learn,
    make_accelerator,
    make_average,
    make_optimizer,
    rows_of,
    set_learning,
    tell_precision,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

SAVE_EVERY = 200  # steps
LOG_EVERY = 50


@enough_memory("set a smaller batch_size")
def train(recipe: Recipe, out: Path, cache: Path, *, restart: bool = False, device: str = "auto") -> Path:
    """Train a recipe and write `out`/`recipe.name`; a run that was interrupted there goes on where it was.

    Args:
        out: the checkpoint folder is made inside it.
        cache: where decoded photos are kept.
        restart: begin anew even so.
        device: "auto" for what accelerate finds, or "cpu".

    Returns:
        The checkpoint folder.

    Raises:
        DataError: missing data.
        TrainingError: a batch that does not split over the processes, or an interrupted run of another recipe.
        MissingPackageError: accelerate or tensorboard is not installed.
        DivergedError: the loss was not finite; says at which step.
    """
    accelerator = make_accelerator(recipe.precision, device)
    rows_of(recipe.batch_size, accelerator)  # refuses before anything is read
    data, folder = folders_of(recipe), out / recipe.name
    where = " and ".join(map(str, data))
    unlabelled = bool(recipe.dino or recipe.distil) and not recipe.encoder.num_classes
    classes = () if unlabelled else recipe.classes or read_common_classes(data)
    if len(classes) != recipe.encoder.num_classes:
        raise TrainingError(
            f"{where} has {len(classes)} classes, but the recipe's head has {recipe.encoder.num_classes}; set "
            "encoder.num_classes"
        )
    with accelerator.main_process_first():  # the others find the decoded photos
        photos, held_out = (load_photos(data, split, cache, recipe.stored) for split in ("train", "val"))
    photos = photos.part(recipe.share, recipe.seed)
    if (photos.labels.ndim == 3) != recipe.encoder.dense:
        raise TrainingError(f"encoder.dense: true is for photos with label maps, and for all of those; see {where}")
    facts = Facts(
        recipe.name,
        recipe.title,
        recipe.map_size,
        classes=classes,
        source="trained by simpool_viz",
        license=recipe.license,
    )
    torch.manual_seed(recipe.seed)
    encoder = recipe.encoder.build(facts)
    if recipe.drawn_as_plain:
        draw_as_plain(encoder, recipe)
    start = start_from(encoder, recipe.init_from, folder, recipe.trunk_blocks) if recipe.init_from else None
    scale_tensors(encoder, scales_at(recipe, 1))
    school = School(recipe.distil, encoder, cache, accelerator) if recipe.distil else None
    dino = SelfTeaching(recipe.dino, encoder, accelerator) if recipe.dino else None
    if start and recipe.freeze:
        facts = dataclasses.replace(facts, **start.lent)  # which need not be saved again
    interrupted = {} if restart else read_interrupted(folder, recipe)
    if school and not interrupted:
        school.begin(photos, recipe.stages[0], recipe.seed)
    tell_precision(accelerator, recipe.precision)
    beside = dino.beside if dino else school.student.project if school else None
    run = Run(folder, recipe, encoder, interrupted, beside)
    if run.within or run.stage > 1:
        accelerator.print(
            f"{recipe.name}: going on with stage {run.stage}, step {run.within.get('stream', {}).get('step', 0)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for number, stage in enumerate(recipe.stages, 1):
        if number < run.stage:
            continue
        before = run.minutes
        run_stage(run, stage, photos, number, accelerator, cache, school or dino)
        begun = None
        if stage.kept:
            squares = CropPlan(recipe.map_size, None)
            begun = _begun(encoder, held_out, squares, recipe, cache, accelerator, "held-out photos")
        with accelerator.autocast():
            if dino:
                accuracy = measure_neighbours(encoder, photos, held_out, recipe.map_size)
            elif school and unlabelled:
                accuracy = school.measure(held_out, recipe.map_size, begun)
            else:
                accuracy = measure(encoder, held_out, recipe, accelerator, begun)
        run.done.append(stage_line(recipe.name, stage, run.minutes - before))
        history = (*(start.stages if start else ()), *run.done)
        encoder.facts = dataclasses.replace(facts, accuracy=accuracy, stages=history, minutes=round(run.minutes, 1))
        if accelerator.is_main_process:
            result = Result(
                run.minutes, torch.get_num_threads(), accelerator.num_processes, str(accelerator.device), accuracy
            )
            trained = dataclasses.replace(recipe, precision=accelerator.mixed_precision)
            entropies = [read_entropies(folder, done, recipe.batch_size) for done in range(1, number + 1)]
            if any(entropies):
                write_curve(folder, entropies, len(photos), recipe.title)
            card = write_card(trained, result, len(photos), history, start.summary if start else "", entropies)
            save_bundle(folder, encoder, recipe.encoder, card)
            if dino:
                epochs = sum(done.photos for done in recipe.stages[:number]) // len(photos)
                dino.save(folder, file_settings(encoder, stage.size), epochs)
            run.save({"stage": number + 1})
        accelerator.print(f"{recipe.name}: after stage {number} {accuracy}")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        load_bundle(folder)  # what was written must load
        (folder / RESUME).unlink(missing_ok=True)
    return folder


def run_stage(
    run: Run,
    stage: Stage,
    photos: Photos,
    number: int,
    accelerator: Accelerator,
    cache: Path,
    teaching: School | SelfTeaching | None = None,
) -> None:
    """One complete schedule over `stage.photos` photos, logged every 50 steps, or the rest of it.

    Args:
        number: of the stage, from 1.
        cache: where the features of a frozen trunk are kept.
        teaching: what teaches a student; None where classes alone are learned.
    """
    recipe, encoder = run.recipe, run.encoder
    if number > 1 and not run.within:
        scale_tensors(encoder, scales_at(recipe, number))
    set_learning(encoder, stage.freeze or recipe.freeze, recipe.trunk_blocks)
    encoder.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(encoder)
    plan, label = CropPlan(stage.size, stage.crop, recipe.seed * 1000 + number), f"stage {number}"
    dino = teaching if isinstance(teaching, SelfTeaching) else None
    lesson = teaching.lesson(photos, plan, label) if isinstance(teaching, School) else None
    kept = _begun(encoder, photos, plan, recipe, cache, accelerator, label) if stage.kept else None
    learner: Learner | Student | Views = teaching.student if teaching else Learner(encoder)
    if not isinstance(learner, Views):
        learner.blocks, learner.grid = (recipe.trunk_blocks, kept.grid) if kept else (0, (0, 0))
    if dino:
        dino.begin()
    learned = teaching.student if teaching else encoder
    optimizer, scheduler = make_optimizer(learned, recipe, stage, recipe.rates)
    average = make_average(learned, recipe)
    model, optimizer = accelerator.prepare(learner, optimizer)
    stream = Batches(
        len(photos), recipe.batch_size, stage.photos, torch.Generator().manual_seed(recipe.seed * 1000 + number)
    )
    running = torch.zeros((), device=accelerator.device)
    step_of = Step(recipe, stage, model, encoder, optimizer, accelerator, number, lesson, kept, dino)
    if run.within:
        optimizer.load_state_dict(run.within["optimizer"])
        stream.load_state_dict(run.within["stream"])
        running += run.within["running"]
        step_of.entropy += run.within.get("entropy", 0.0)
        if average is not None:
            average.module.load_state_dict(run.within["average"])
        run.within = {}
    with attention_to_learn(accelerator.device), _log(run, number, stream, accelerator) as log:
        label = f"{recipe.name} stage {number}/{len(recipe.stages)}"
        quiet = not accelerator.is_main_process
        shown = tqdm(
            stream, desc=label, initial=stream.step, total=stream.steps, unit="batch", mininterval=5, disable=quiet
        )
        for index in shown:
            scheduler.step_update(stream.step * recipe.batch_size)
            running += step_of(photos.batch(index), index, stream)
            if average is not None:
                average.update(learned, step=stream.step)
            if stream.step % LOG_EVERY == 0:
                mean = float(running) / LOG_EVERY
                if log is not None:
                    measured = float(step_of.entropy) / LOG_EVERY if recipe.measures_entropy else None
                    log.write(stream.step, mean, max(group["lr"] for group in optimizer.param_groups), measured)
                shown.set_postfix(
                    loss=f"{mean:.3f}", photos_per_second=f"{(shown.format_dict['rate'] or 0) * recipe.batch_size:.0f}"
                )
                running.zero_()
                step_of.entropy.zero_()
            if stream.step % SAVE_EVERY == 0 and accelerator.is_main_process:
                within = {"optimizer": optimizer.state_dict(), "stream": stream.state_dict(), "running": running.cpu()}
                within["entropy"] = step_of.entropy.cpu()
                run.save(
                    {"stage": number, "within": within | ({"average": average.module.state_dict()} if average else {})}
                )
    accelerator.free_memory()
    if average is not None:
        own = learned.state_dict()
        # What is frozen keeps its bits: an average of -0.0 is 0.0, which is no longer the lender's.
        new = {
            key: own[key] if torch.equal(own[key], value) else value
            for key, value in average.module.state_dict().items()
        }
        learned.load_state_dict(new)
    if dino:
        dino.finish()
    encoder.eval()


def _begun(
    encoder: Encoder, photos: Photos, plan: CropPlan, recipe: Recipe, cache: Path, accelerator: Accelerator, label: str
) -> Features:
    """What a frozen trunk makes of every photo's crop; the first process computes what the others read."""
    with accelerator.main_process_first():
        return keep_features(encoder, photos, plan, cache, block=recipe.trunk_blocks - 1, label=label)


class Learner(nn.Module):
    """The encoder's forward as a module of its own: what accelerate wraps around it for a stage goes with it.

    Attributes:
        blocks: number of first blocks that have run on what it is given; 0 where it is given images.
        grid: (h, w) of what it is given then.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.blocks, self.grid = 0, (0, 0)

    def forward(self, x: torch.Tensor) -> Output:
        """Of normalised images (B, 3, H, W), or of what the first blocks made of them (B, P + N, D)."""
        if self.blocks:
            return self.encoder.read(self.encoder.finish(x, self.blocks, self.grid))
        output: Output = self.encoder(x)
        return output


def _log(run: Run, number: int, stream: Batches, accelerator: Accelerator) -> Any:
    if not accelerator.is_main_process:
        return nullcontext()
    return Log(run.folder, number, stream.step, run.recipe.batch_size)

"""The card of a trained checkpoint."""

from __future__ import annotations

from simpool_viz.training.card import Result, stage_line, write_card
from simpool_viz.training.measure import describe_accuracy
from simpool_viz.training.recipe import Stage, load_recipe


def test_card_lists_the_stages_done_the_machine_and_what_was_set() -> None:
    recipe = load_recipe("resnet_spe_simpool", ["mixup=0.2", "ema=0.999", "spatial_entropy=0.01"])
    lines = [
        stage_line("first", Stage(96, 5000, 0.001, crop=0.5), 3.2),
        stage_line("mine", Stage(64, 1000, 0.01, squeeze=True), 12.3),
    ]
    card = write_card(
        recipe, Result(12.3, 2, 1, "cpu", "50.0 % ± 1"), 1000, lines, "started from `first`: 3 tensors taken"
    )
    assert (
        "1. first: 96 px, 5,000 photos seen, peak learning rate 0.001, crops of at least 50 % of a photo, 3 minutes"
        in card
    )
    assert (
        "2. mine: 64 px, 1,000 photos seen, peak learning rate 0.01, crops of at least 25 % of a photo, squeezed, 12 "
        "minutes" in card
    )
    assert "12 minutes on 2 CPU thread(s)" in card and "| start | started from `first`: 3 tensors taken |" in card
    assert "mixup 0.2, learning rate of `backbone.*.se.*` times 10" in card and "spe inside" in card
    assert "average of weights with decay 0.999, seed 0" in card
    assert "0.1 of SPE's penalty + 0.01 of spatial entropy" in card
    assert "5 minutes on 2 processes of cuda:0" in write_card(recipe, Result(5, 1, 2, "cuda:0", "x"), 9, lines)
    assert describe_accuracy(50, 200) == "25.0 % ± 6.0 of 200 held-out photos"


def test_card_prints_the_command_with_what_was_changed() -> None:
    recipe = load_recipe("resnet_simpool", ["seed=3", "title=My own"])
    card = write_card(recipe, Result(12.3, 2, 1, "cpu", "25 %"), 1000, [])
    assert "`simpool-viz train resnet_simpool --set 'seed=3' --set 'title=My own'`" in card


def test_card_says_what_is_scaled_and_which_stage_rests_the_backbone() -> None:
    recipe = load_recipe("resnet_simpool")
    stages = [stage_line(recipe.name, stage, 7.4) for stage in recipe.stages]
    card = write_card(recipe, Result(12.3, 1, 1, "cpu", "25 %"), 1000, stages)
    assert "`pooling.wk.weight` times 1 and 1 and 0.6 at the start of the stages" in card
    assert card.count("squeezed, the backbone at rest, 7 minutes") == 1 and "squeezed, 7 minutes" in card
    once = load_recipe("resnet_simpool", ["scales={pooling.wk.weight: 0}"])
    assert "`pooling.wk.weight` times 0 at the start, seed" in write_card(once, Result(1, 1, 1, "cpu", "1 %"), 9, [])


def test_card_says_whether_pooling_and_head_are_drawn_as_where_nothing_stands_inside() -> None:
    told = "pooling and head are drawn as where nothing stands inside"
    for value, said in (("true", True), ("false", False)):
        recipe = load_recipe("vit_life_cls", [f"drawn_as_plain={value}"])
        assert (told in write_card(recipe, Result(1, 1, 1, "cpu", "1 %"), 9, [], "started from `vit_thin`")) == said


def test_card_says_what_stays_frozen_what_learns_slowly_and_what_is_learned_of_a_teacher() -> None:
    result = Result(12.3, 1, 1, "cpu", "cosine 0.5 with the class token of DINO on 9 held-out photos")
    recipe = load_recipe("vit_ssl_simpool")
    stages = [stage_line(recipe.name, stage, 7.4) for stage in recipe.stages]
    card = write_card(recipe, result, 1000, stages, "started from `vit_thin`: 3 tensors taken")
    for part in (
        "3 tensors taken; the embedding and the first 10 blocks stay as they are |",
        "learning rate of `backbone.*` times 0.3, learning rate of `pooling.w[qk].weight` times 0.1, seed 0",
        "| vector | cosine 0.5 with the class token of DINO",
        "smooth_l1_cosine of the pooled vector, linearly projected, and the teacher's standardised class token",
        "labels are not used |",
        "one crop of each photo, at least 40 % of it, 7 minutes",
    ):
        assert part in card, part
    assert "cross entropy" not in card and "top-1" not in card
    tokens = write_card(load_recipe("vit_thin"), result, 9, [])
    assert "| tokens | cosine" in tokens and "and the teacher's, 0.3 of the class token's" in tokens


def test_card_tells_schedule_threshold_and_share() -> None:
    changes = ["spatial_entropy=0.02", "entropy_schedule=constant", "entropy_threshold=median", "share=0.1"]
    card = write_card(load_recipe("patch_vit", changes), Result(12.3, 1, 1, "cpu", "25 %"), 3664, [])
    assert "0.02 of spatial entropy, above the median |" in card and "3,664 photos (10 % of each class): " in card
    assert "## Spatial entropy" not in card, "nothing was logged"
    points = [[(6400, 1.5), (12800, 1.25)], [(6400, 0.5)]]
    card = write_card(load_recipe("patch_vit"), Result(12.3, 1, 1, "cpu", "25 %"), 6400, [], entropies=points)
    assert "1.500 nats at its beginning, 0.500 at its end, after 3 epochs" in " ".join(card.split())

"""Which measured tables a page can show."""

from __future__ import annotations

from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.evaluation.evidence import checkpoints_of, measured_tables
from simpool_viz.scores.results import Column, Results, Table, bundled_results


def test_tables_of_maps_whose_checkpoints_are_here_are_shown() -> None:
    names = {one.name: one for one in measured_tables(bundled_results(), catalogue())}
    assert next(iter(names)).startswith("vit/") and names["discovery/student/horses"].title.startswith(
        "Objects discovered, student: horses"
    )
    assert {"vit/horses", "vit/coco_open", "resnet/horses", "resnet/coco_open", "vit_ssl/horses"} <= set(names)
    assert not {"vit/objects", "discovery/teacher/horses", "scenes/camvid/test/iou"} & set(names)
    one = names["vit/horses"]
    assert one.title == "ViT group: horses, 327 photos" and one.checkpoints[:2] == ("vit_cls", "vit_gap")
    assert "iou_at_true_area" in [column.name for column in one.columns]
    assert measured_tables(bundled_results(), ["vit_cls"]) != list(names.values())


def test_a_table_without_an_interval_or_a_command_is_not_shown() -> None:
    columns = (Column("map", "map"), Column("iou", "IoU", "share"))
    plain = Table("t", columns, ({"map": "a", "iou": 0.5},), "simpool-viz evaluate t -c a --checkpoint b -m own")
    assert checkpoints_of(plain.command) == ("a", "b")
    measured = Table("t", columns, ({"map": "a", "iou": [0.5, 0.4, 0.6]},))
    assert not measured_tables(Results({"plain": plain, "measured": measured}), ["a", "b"])

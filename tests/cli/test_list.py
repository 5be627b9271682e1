"""The command `list`: everything that is registered."""

from __future__ import annotations

import json

import pytest

from simpool_viz import map_methods, mask_rules, poolings
from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.checkpoints.published import published
from simpool_viz.cli.main import main
from tests.helpers import run_command


def test_list_names_everything_that_is_registered(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run_command(capsys, "list")
    assert status == 0 and not err
    for name in [*catalogue(), *map_methods(), *poolings(), *mask_rules(), "resnet_gap", "resnet_simpool"]:
        assert f"\n  {name}" in out


def test_list_as_json_is_json_with_everything(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run_command(capsys, "list", "--json")
    listing = json.loads(out)
    assert status == 0 and list(listing) == [
        "checkpoints",
        "published",
        "maps",
        "poolings",
        "comparisons",
        "masks",
        "recipes",
    ]
    assert {m["name"]: m["default"] for m in listing["masks"]} == {n: r.default for n, r in mask_rules().items()}
    assert [m["name"] for m in listing["maps"]] == list(map_methods()) and all(m["summary"] for m in listing["maps"])
    assert [p["name"] for p in listing["poolings"]] == list(poolings())
    assert {c["name"]: c["available"] for c in listing["checkpoints"]} == {
        n: e.available for n, e in catalogue().items()
    }


def test_list_names_what_is_published_with_its_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in published()) and len(published()) == 16
    assert "vits_dino_simpool_ep100" in out and "downloads 88 MB or more" in out

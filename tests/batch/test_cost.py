"""The cost model: a run is as fast as its slowest stage, and saturates where another one bounds it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpool_viz.batch.cost import Measured, Site, most_devices, readers_needed, run_rate, run_seconds, stage_rates
from simpool_viz.errors import DataError, OptionError

# By hand: a device does 1,000 x 0.9 pictures a second, a reader 100; 0.1 MB come in and 5 kB go out of each.
MEASURED = Measured(1000, 100, 100_000, 5_000, 0.9)


@pytest.mark.parametrize(
    ("site", "rate", "bound"),
    [
        (Site(1, 16), 900, "models"),
        (Site(8, 16), 1600, "readers"),
        (Site(8, 96), 7200, "models"),
        (Site(8, 96, incoming=2.5e8), 2500, "incoming"),
        (Site(8, 96, outgoing=5e6), 1000, "outgoing"),
    ],
)
def test_rate_is_that_of_the_slowest_stage(site: Site, rate: float, bound: str) -> None:
    found, stage = run_rate(MEASURED, site)
    assert found == pytest.approx(rate) and stage == bound
    assert run_seconds(MEASURED, site, 14_197_122) == pytest.approx(14_197_122 / rate)


def test_saturation_and_readers_by_hand() -> None:
    assert most_devices(MEASURED, Site(1, 96)) == 11, "9,600 of the readers, 900 of a device"
    assert most_devices(MEASURED, Site(1, 96, incoming=2.5e8)) == 3
    assert most_devices(MEASURED, Site(1, 10**9)) == 111_111_112 and readers_needed(MEASURED, 8) == 72


positive = st.floats(1e-3, 1e6)
sites = st.builds(Site, st.integers(1, 999), st.integers(1, 9999), positive, positive)


@given(st.builds(Measured, positive, positive, positive, positive, st.floats(0.1, 1)), sites)
def test_more_devices_than_saturate_change_nothing_and_fewer_do(measured: Measured, site: Site) -> None:
    enough = most_devices(measured, site)
    assert enough is not None

    def rate(devices: int) -> float:
        return run_rate(measured, Site(devices, site.readers, site.incoming, site.outgoing))[0]

    assert rate(2 * enough) == pytest.approx(rate(enough))
    assert enough < 3 or rate(enough - 2) < rate(enough), "one fewer than enough may be as fast up to rounding"
    assert run_rate(measured, site)[0] == min(stage_rates(measured, site).values())
    needed = readers_needed(measured, site.devices)
    assert needed * measured.per_reader >= site.devices * measured.per_device * measured.share * (1 - 1e-9)


def test_nothing_bounds_where_all_is_free() -> None:
    assert math.isinf(stage_rates(MEASURED, Site(1, 1))["incoming"])


def test_figures_come_from_the_file_of_the_benchmark(tmp_path: Path) -> None:
    figures = {"per_device": 10.0, "per_reader": 5.0, "bytes_in": 1.0, "bytes_out": 2.0, "share": 0.5}
    (tmp_path / "a.json").write_text(json.dumps({"cost": figures, "machine": "ada"}), encoding="utf-8")
    assert Measured.load(tmp_path / "a.json") == Measured(10, 5, 1, 2, 0.5)
    for text in ("{", "{}", '{"cost": {"per_device": 1}}', '{"cost": 3}'):
        (tmp_path / "b.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"holds no figures of benchmarks/batch\.py"):
            Measured.load(tmp_path / "b.json")
    with pytest.raises(DataError):
        Measured.load(tmp_path / "none.json")


@pytest.mark.parametrize("figures", [(0, 1, 1, 1, 1), (1, -1, 1, 1, 1), (1, 1, math.inf, 1, 1), (1, 1, 1, 1, 1.2)])
def test_figures_that_cannot_be_are_refused(figures: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match="measured figures are positive"):
        Measured(*figures)

"""What a run over many pictures will cost: its rate, what bounds it, and how many devices are worth having.

A run is a chain of stages that work at once, so that its rate is that of the slowest: the models, the processes that
read and decode, and the bytes that come in and go out. The figures are measured (`benchmarks/batch.py` writes them);
the formula is this file.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from simpool_viz.errors import DataError, OptionError


@dataclass(frozen=True)
class Measured:
    """What was measured on one machine.

    Attributes:
        per_device: pictures per second that the models alone do on one device, from batches that are decoded.
        per_reader: pictures per second that one process reads, decodes and resizes.
        bytes_in: of a picture's file, on average.
        bytes_out: of a picture's rows in the parquet files, on average.
        share: rate of the whole on one device as a share of `per_device`, where readers suffice.

    Raises:
        OptionError: a figure that is not positive, or a share above 1.
    """

    per_device: float
    per_reader: float
    bytes_in: float
    bytes_out: float
    share: float = 1.0

    def __post_init__(self) -> None:
        if not all(value > 0 and math.isfinite(value) for value in asdict(self).values()) or self.share > 1:
            raise OptionError("measured figures are positive, and the share of the plain forward is at most 1")

    @classmethod
    def load(cls, path: Path) -> Measured:
        """The figures of a file that `benchmarks/batch.py` wrote.

        Raises:
            DataError: no such file, or another.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["cost"]
            return cls(**found)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} holds no figures of benchmarks/batch.py: {error}") from error


@dataclass(frozen=True)
class Site:
    """A machine or a cluster.

    Attributes:
        devices: that run the models.
        readers: processes that read and decode, of all nodes together.
        incoming: bytes per second that the storage gives to all together.
        outgoing: bytes per second that it takes.
    """

    devices: int
    readers: int
    incoming: float = math.inf
    outgoing: float = math.inf


def stage_rates(measured: Measured, site: Site) -> dict[str, float]:
    """Pictures per second of each stage: "models", "readers", "incoming" and "outgoing"."""
    return {
        "models": site.devices * measured.per_device * measured.share,
        "readers": site.readers * measured.per_reader,
        "incoming": site.incoming / measured.bytes_in,
        "outgoing": site.outgoing / measured.bytes_out,
    }


def run_rate(measured: Measured, site: Site) -> tuple[float, str]:
    """Pictures per second of the whole, and the stage that bounds it."""
    rates = stage_rates(measured, site)
    slowest = min(rates, key=lambda stage: rates[stage])
    return rates[slowest], slowest


def run_seconds(measured: Measured, site: Site, pictures: int) -> float:
    """Seconds that a run takes, without its start."""
    return pictures / run_rate(measured, site)[0]


def most_devices(measured: Measured, site: Site) -> int | None:
    """The number of devices beyond which no further one makes a run faster; None where nothing else bounds it."""
    rates = stage_rates(measured, site)
    bound = min(rates[stage] for stage in ("readers", "incoming", "outgoing"))
    if math.isinf(bound):
        return None
    return max(1, math.ceil(bound / (measured.per_device * measured.share)))


def readers_needed(measured: Measured, devices: int) -> int:
    """The number of reading processes that keep some devices busy."""
    return math.ceil(devices * measured.per_device * measured.share / measured.per_reader)

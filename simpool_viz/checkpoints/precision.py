"""The precision in which a checkpoint's forward runs: what is asked for, or what its own measurement allows.

`benchmarks/precision.py` measures how far maps and masks in bfloat16 are from those in float32 and writes it to
models/results.json, where `--precision auto` finds it.
"""

from __future__ import annotations

import json
from functools import cache

from simpool_viz.bundled import bundled_folder
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.tensors import choose_device

TABLE = "precision/cpu"  # in models/results.json, with the columns checkpoint and taken
LARGEST_DIFFERENCE = 1e-2  # of a map in bfloat16 from that in float32, as a share of its peak
LEAST_IOU = 0.98  # of their masks


def place(encoder: Encoder, device: str = "auto", precision: str = "auto") -> Encoder:
    """Move a checkpoint to a device, in a precision.

    Args:
        encoder: is moved itself.
        device: as for `tensors.choose_device`.
        precision: likewise; "auto" takes bfloat16 on a CPU for a bundled checkpoint where that was measured to be
            exact enough alone.

    Raises:
        OptionError: as in `tensors.choose_device`.
    """
    where, dtype = choose_device(device, precision, exact_enough=encoder.facts.name in exact_in_bfloat16())
    return encoder.to(where, dtype)


@cache
def exact_in_bfloat16() -> frozenset[str]:
    """The bundled checkpoints whose maps and masks in bfloat16 differ by no more than LARGEST_DIFFERENCE and LEAST_IOU
    allow on the example photos, by the results beside them; none where there are no results."""
    try:
        content = json.loads((bundled_folder("models") / "results.json").read_text(encoding="utf-8"))
        rows = content["tables"][TABLE]["rows"]
        return frozenset(str(row["checkpoint"]) for row in rows if row["taken"] == "yes")
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()

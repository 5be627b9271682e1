"""The spatial entropy of the readout scores over a training, as the picture that its card shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simpool_viz.drawing.paper import figure_file
from simpool_viz.outputs import written_whole

CURVE = "spatial_entropy.svg"  # in the folder of a run

Points = Sequence[tuple[int, float]]  # photos seen, mean spatial entropy in nats since the point before


def write_curve(folder: Path, stages: Sequence[Points], photos: int, title: str) -> None:
    """Draw the spatial entropy over the photos seen, and over epochs, as `CURVE` in a folder.

    Args:
        folder: of the run.
        stages: the points of each stage, whose photos are counted from its own start.
        photos: number of training photos, an epoch.
        title: of the training.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    plot = figure.subplots()
    begun = 0
    for number, points in enumerate(stages, 1):
        label = f"stage {number}" if len(stages) > 1 else None
        plot.plot([begun + seen for seen, _ in points], [value for _, value in points], ".-", label=label)
        begun += points[-1][0] if points else 0
    plot.set(xlabel="photos seen", ylabel="spatial entropy (nats)", title=title, ylim=(0, None), xlim=(0, None))
    plot.xaxis.set_major_formatter("{x:,.0f}")
    epochs = plot.secondary_xaxis(
        "top", functions=(lambda n: np.asarray(n, float) / photos, lambda e: np.asarray(e, float) * photos)
    )
    epochs.set_xlabel("epochs")
    plot.grid(alpha=0.3)
    if len(stages) > 1:
        plot.legend(fontsize="small", frameon=False)
    with written_whole(folder / CURVE) as part:
        part.write_bytes(figure_file(figure, "svg"))


def describe_curve(stages: Sequence[Points], photos: int) -> str:
    """The section of a card on the spatial entropy over a training, in Markdown; "" where it was not measured.

    Args:
        stages: as in `write_curve`.
        photos: number of training photos, an epoch.
    """
    points = [point for stage in stages for point in stage]
    if not points:
        return ""
    epochs = sum(stage[-1][0] for stage in stages if stage) / photos
    return f"""
## Spatial entropy

![Spatial entropy of the readout scores over the training]({CURVE})

Of the readout scores (class token or pooling query to the patches) on the training's own crops, mean of 50 steps:
{points[0][1]:.3f} nats at its beginning, {points[-1][1]:.3f} at its end, after {epochs:.3g} epochs; 0 is one component,
ln n are n equal ones.
"""

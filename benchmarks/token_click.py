"""How long the server takes to answer a click on a token: `python benchmarks/run.py --parts click`.

The Inspect page's own event on a ViT of DeiT-Tiny's size with random weights, from the point to what is sent to the
browser: the token's heads in one block, its roll-out through all blocks, masks, levels and captions.
"""

from __future__ import annotations

import time

import gradio as gr

from benchmarks.measure import Samples
from simpool_viz import load_checkpoint
from simpool_viz.app.inspect import InspectPage, Visit
from simpool_viz.app.own_checkpoint import OwnCheckpoints
from simpool_viz.bundled import bundled_folder

CLICKS = 20


def report(rounds: int, samples: Samples) -> list[str]:
    """The median of some clicks, per number of tokens."""
    encoder = load_checkpoint("timm:vit_tiny_patch16_224", device="cpu", pretrained=False)
    page, visit, lines = InspectPage([], lambda name, own: encoder, [], None), Visit(), []
    with gr.Blocks():
        page.build(gr.State())
    for size in (224, 448):
        page.record(str(bundled_folder("assets") / "chelsea.jpg"), "vit", size, "token", OwnCheckpoints(), visit)
        times = []
        for i in range(3 + CLICKS):  # the first three warm up
            started = time.perf_counter()
            answer, _ = page.point(gr.EventData(None, {"x": 18.0 * i, "y": 9.0 * i}), visit)
            page.view.postprocess(answer)
            times.append(1000 * (time.perf_counter() - started))
        h, w = answer.recording.geometry.grid
        what = f"a token click at {h * w} tokens"
        lines.append(f"- {what}: {samples.add(what, 'ms', times[3:]):.0f} ms (median of {CLICKS})")
    return ["\n".join(lines)]

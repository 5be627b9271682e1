"""How long the server takes to answer a click on a token: `python benchmarks/token_click.py`.

The Inspect page's own event on a ViT of DeiT-Tiny's size with random weights, from the point to what is sent to the browser:
the token's heads in one block, its roll-out through all blocks, masks, levels and captions.
"""

from __future__ import annotations

import statistics
import time

import gradio as gr
import torch

from simpool_viz import load_checkpoint
from simpool_viz.app.inspecting import InspectPage, Visit
from simpool_viz.checkpoints import bundled_folder


def main() -> None:
    encoder = load_checkpoint("timm:vit_tiny_patch16_224", device="cpu", pretrained=False)
    page, visit = InspectPage([], lambda name, own: encoder, [], None), Visit()
    with gr.Blocks():
        page.build(gr.State())
    for size in (224, 448):
        page.look(str(bundled_folder("assets") / "chelsea.jpg"), "vit", size, "token", None, visit)
        times = []
        for i in range(23):
            started = time.perf_counter()
            answer, _ = page.point(gr.EventData(None, {"x": 20.0 * i, "y": 10.0 * i}), visit)
            page.view.postprocess(answer)
            times.append(1000 * (time.perf_counter() - started))
        h, w = answer.recording.geometry.grid
        print(f"{h * w} tokens: median {statistics.median(times[3:]):.0f} ms of {len(times) - 3} clicks, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()

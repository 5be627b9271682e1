"""No N x N buffer anywhere: the peak memory of a process while each map is made, measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SIDE = 72  # tokens; N = 5,184, and one matrix of a single head is 107 MB in float32
MATRIX = 4 * (SIDE * SIDE) ** 2
ALLOWED = MATRIX * 0.7
BOARDS = [
    ("cls", ["cls"]),
    ("cls", ["rollout", "dense_rollout:soft=true", "token", "token:rollout=true"]),
    ("cls", ["rollout:fusion=max"]),
    ("cls", ["relevance"]),
    ("gap", ["rollout", "contribution"]),
    ("simpool", ["pooling", "rollout", "contribution"]),
    ("latent", ["pooling", "rollout"]),
    ("slot", ["pooling"]),
    ("otk", ["pooling"]),
    ("cbam", ["pooling"]),
]

CODE = f"""
import json, sys
import numpy as np, torch
from simpool_viz.maps import rollout_chain as rollout
from simpool_viz.board.board import Settings, make_board
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.modeling.encoder import Facts

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def growth(pooling, maps):
    torch.manual_seed(0)
    kwargs = dict(img_size=32, patch_size=4, embed_dim=16, depth=2, num_heads=2)
    spec = EncoderSpec("vit_tiny_patch16_224", pooling, 5, kwargs)
    encoder = spec.build(Facts("small")).eval().requires_grad_(False)
    make_board([photo], [encoder], maps, Settings(size=32))  # what is imported and allocated once
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    before = status("VmRSS")
    board = make_board([photo], [encoder], maps, Settings(size={SIDE * 4}))
    assert len(board.rows) == len(maps), board.skipped
    for row in board.rows:
        assert row.mask.weights.shape == ({SIDE}, {SIDE})
        assert row.mask.pixels(smooth=True).shape == ({SIDE * 4}, {SIDE * 4})
    return status("VmHWM") - before

torch.set_num_threads(1)
photo = np.random.default_rng(0).integers(256, size=({SIDE * 4}, {SIDE * 4}, 3), dtype=np.uint8)
found = [growth(*board) for board in json.loads(sys.argv[1])]
rollout.TILE = 10**12  # as an N x N implementation has it: the measure must see it
print(json.dumps([*found, growth("cls", ["rollout:fusion=max"])]))
"""


@pytest.fixture(scope="module")
def growths() -> list[int]:
    """Bytes by which the peak grows for each board, and for one whose tiles are whole matrices."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("reads the peak where Linux tells it")
    command = [sys.executable, "-c", CODE, json.dumps(BOARDS)]
    # glibc would keep what was freed, now more and now less, and the peak would vary with it.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    folder = Path(__file__).parent.parent
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=folder, env=environment)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("index", range(len(BOARDS)), ids=[f"{pooling}: {', '.join(maps)}" for pooling, maps in BOARDS])
def test_no_map_needs_a_matrix_of_all_tokens(growths: list[int], index: int) -> None:
    assert growths[index] < ALLOWED


def test_a_matrix_of_all_tokens_would_be_seen(growths: list[int]) -> None:
    assert growths[-1] > MATRIX

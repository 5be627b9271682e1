"""The lower bounds of what is installed exclude versions with known holes, and say which."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

LINES = (Path(__file__).parents[2] / "requirements.txt").read_text(encoding="utf-8").splitlines()
BOUNDS = {(one := Requirement(line)).name: one.specifier for line in LINES if line and not line.startswith("#")}


@pytest.mark.parametrize(
    ("package", "last", "first", "hole"),
    [
        ("torch", "2.5.1", "2.8.0", "CVE-2025-32434"),
        ("gradio", "4.44.1", "6.20.0", "CVE-2024-47167"),
        ("opencv-python-headless", "4.11.0.86", "4.12.0.88", "CVE-2025-53644"),
        ("pillow", "11.2.1", "11.3.0", "CVE-2025-48379"),
        ("filelock", "3.20.2", "3.20.3", "CVE-2026-22701"),
        ("pyyaml", "5.3.1", "6.0", "CVE-2020-14343"),
        ("tqdm", "4.66.2", "4.66.3", "CVE-2024-34062"),
    ],
)
def test_last_version_with_a_hole_is_excluded(package: str, last: str, first: str, hole: str) -> None:
    assert last not in BOUNDS[package] and first in BOUNDS[package]
    assert any(hole in line for line in LINES), "the reason stands beside the bound"

"""What became slower or faster between two runs on one machine: `python benchmarks/changes.py before.json now.json`.

The files come from `python benchmarks/run.py --json FILE`. A figure has moved where its two runs differ by more than
either's own noise: the ranges between their quartiles have nothing in common, and a Mann-Whitney test of the values
(two-sided) finds less than LEVEL. Prints a Markdown table of what moved and how many figures did not; the exit status
is 1 where something became slower, so that a workflow can stop there.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import mannwhitneyu

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.measure import quartiles
from simpool_viz.outputs import markdown_table

LEVEL = 0.01
ROUNDS = 5  # values of a figure in each run, below which no test can find LEVEL


@dataclass(frozen=True)
class Change:
    """A figure in two runs.

    Attributes:
        figure: its name.
        unit: of its values.
        before: the median and both quartiles of the earlier run.
        now: those of the later run.
        moved: "slower", "faster", "" where the difference is within the noise, or "few" where one of the runs has fewer
            than ROUNDS values.
    """

    figure: str
    unit: str
    before: tuple[float, float, float]
    now: tuple[float, float, float]
    moved: str

    @property
    def ratio(self) -> float:
        """The later median in units of the earlier one."""
        return self.now[0] / self.before[0]


def change(figure: str, unit: str, before: list[float], now: list[float]) -> Change:
    """Compare the values of a figure, less of which is better, in two runs."""
    earlier, later = quartiles(before), quartiles(now)
    if min(len(before), len(now)) < ROUNDS:
        return Change(figure, unit, earlier, later, "few")
    apart = later[1] > earlier[2] or later[2] < earlier[1]
    moved = apart and mannwhitneyu(before, now).pvalue < LEVEL
    return Change(figure, unit, earlier, later, ("slower" if later[0] > earlier[0] else "faster") if moved else "")


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    """Compare all figures that both runs have.

    Args:
        before: what `Samples.save` wrote, read from its JSON.
        now: that of the later run.

    Raises:
        ValueError: runs of different processors, or without a figure in common.
    """
    if (earlier := before["machine"].split(";")[:2]) != (later := now["machine"].split(";")[:2]):
        raise ValueError(
            f"one run is of {' with'.join(earlier)}, the other of {' with'.join(later)}; measure both on one machine"
        )
    figures = [name for name in before["figures"] if name in now["figures"]]
    if not figures:
        raise ValueError("the two runs have no figure in common; run the same --parts and --tokens in both")
    both = [(name, before["figures"][name], now["figures"][name]) for name in figures]
    return [change(name, one["unit"], one["values"], other["values"]) for name, one, other in both]


def report(found: list[Change]) -> str:
    """A table of what moved, and a sentence on the rest."""
    moved = [one for one in found if one.moved in ("slower", "faster")]
    rows = [
        [one.figure, one.moved, _range(one.before, one.unit), _range(one.now, one.unit), f"{one.ratio:.2f}"]
        for one in moved
    ]
    table = markdown_table(["figure", "became", "before (quartiles)", "now (quartiles)", "now / before"], rows)
    few = sum(one.moved == "few" for one in found)
    rest = f"{len(found) - len(moved) - few} of {len(found)} figures moved no further than the noise of both runs"
    if few:
        rest += f"; {few} have fewer than {ROUNDS} values in one of them, which tells nothing"
    return "\n".join([*([table, ""] if moved else []), rest + "."])


def _range(values: tuple[float, float, float], unit: str) -> str:
    return f"{values[0]:.3g} {unit} ({values[1]:.3g} to {values[2]:.3g})"


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("now", type=Path)
    arguments = parser.parse_args(given)
    try:
        before, now = (json.loads(path.read_text(encoding="utf-8")) for path in (arguments.before, arguments.now))
        found = changes(before, now)
    except (OSError, ValueError) as error:
        print(f"changes.py: {error}", file=sys.stderr)
        return 2
    print(report(found))
    return int(any(one.moved == "slower" for one in found))


if __name__ == "__main__":
    sys.exit(main())

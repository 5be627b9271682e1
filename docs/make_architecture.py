"""Draws docs/architecture.svg from the imports of the package: `python docs/make_architecture.py`.

A room is a module or a folder directly below `simpool_viz/`. It stands one row below the lowest room that it imports
from. Lines that follow from others are left out (A uses B uses C: no line from A to C), and long lines pass between the
boxes of the rows that they cross.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent
PACKAGE = FOLDER.parent / "simpool_viz"
DOORS = ("__init__", "__main__")  # the public names and the way in from the shell: they hold nothing themselves
WIDTH, HEIGHT, GAP, PASSAGE, ROW = 300, 74, 26, 18, 112  # px: a box, between boxes, a passing line, from row to row
MARGIN, SWEEPS = 14, 24


def modules(room: str) -> list[Path]:
    """The files of a room; of a folder its `__init__.py` first."""
    file = PACKAGE / f"{room}.py"
    return [file] if file.is_file() else sorted((PACKAGE / room).rglob("*.py"), key=lambda p: (p.stem != "__init__", p))


def sentence(path: Path) -> str:
    """The first sentence of a module's docstring."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    return text.partition(". ")[0].rstrip(".:")


def rooms() -> list[str]:
    """Every room, in alphabetical order."""
    names = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return sorted(names - set(DOORS))


def _imported(path: Path) -> Iterator[str]:
    """The rooms that a file imports from, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name}" for name in names]
        yield from (name.split(".")[1] for name in names if name.startswith("simpool_viz."))


def uses() -> dict[str, set[str]]:
    """For every room the others that it imports from."""
    known = rooms()
    return {
        room: {name for path in modules(room) for name in _imported(path) if name in known} - {room} for room in known
    }


def rows(used: dict[str, set[str]]) -> dict[str, int]:
    """The row of every room, 0 at the top; rooms must not import in a circle."""
    found: dict[str, int] = {}
    while len(found) < len(used):
        ready = [room for room in used if room not in found and used[room] <= found.keys()]
        if not ready:
            raise SystemExit(f"in a circle: {', '.join(sorted(used.keys() - found.keys()))}")
        found |= {room: 1 + max((found[other] for other in used[room]), default=-1) for room in ready}
    return found


def reduced(used: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without what follows from other uses."""
    below: dict[str, set[str]] = {}
    for room in sorted(used, key=rows(used).__getitem__):
        below[room] = used[room].union(*(below[other] for other in used[room]))
    return {room: {o for o in others if not any(o in below[p] for p in others)} for room, others in used.items()}


Place = tuple[str, str, int]  # a room is (room, "", row); a line that passes a row on its way is (from, to, row)


def chains(lines: dict[str, set[str]], row: dict[str, int]) -> list[list[Place]]:
    """Every line from the room that is used, through the rows between, to the room that uses it."""
    return [
        [
            (upper, "", row[upper]),
            *((upper, lower, r) for r in range(row[upper] + 1, row[lower])),
            (lower, "", row[lower]),
        ]
        for lower in sorted(lines)
        for upper in sorted(lines[lower])
    ]


def positions(paths: list[list[Place]], row: dict[str, int]) -> dict[Place, float]:
    """The horizontal centre of every place in px, rows around 0, ordered so that lines cross little."""
    places = {(room, "", r) for room, r in row.items()} | {place for path in paths for place in path}
    levels = [sorted(p for p in places if p[2] == r) for r in range(max(row.values()) + 1)]
    near: dict[Place, set[Place]] = {place: set() for place in places}
    for path in paths:
        for one, other in pairwise(path):
            near[one].add(other)
            near[other].add(one)
    centre: dict[Place, float] = {}
    for level in levels:
        centre |= _spread(level)
    for sweep in range(SWEEPS):  # each row in the order of the mean of its neighbours, downwards and upwards in turn
        for level in levels if sweep % 2 == 0 else reversed(levels):
            side = -1 if sweep % 2 == 0 else 1
            wanted = {p: [centre[q] for q in sorted(near[p]) if q[2] == p[2] + side] for p in level}
            level.sort(key=lambda p: (sum(w) / len(w) if (w := wanted[p]) else centre[p], p))
            centre |= _spread(level)
    return centre


def _spread(level: list[Place]) -> dict[Place, float]:
    """The centres of a row's places side by side, the row around 0."""
    widths = [PASSAGE if place[1] else WIDTH for place in level]
    left, centre = -(sum(widths) + GAP * (len(level) - 1)) / 2, {}
    for place, width in zip(level, widths, strict=True):
        centre[place] = left + width / 2
        left += width + GAP
    return centre


def _line(path: list[Place], centre: dict[Place, float], middle: float) -> str:
    """A line from a box's lower edge to the upper edge of another, straight through the rows that it passes."""
    x, y = middle + centre[path[0]], MARGIN + path[0][2] * ROW + HEIGHT
    drawn = [f"M{x:.0f} {y}"]
    for place in path[1:]:
        to, top = middle + centre[place], MARGIN + place[2] * ROW
        half = (top + y) / 2
        drawn.append(f"C{x:.0f} {half:.0f} {to:.0f} {half:.0f} {to:.0f} {top}")
        x, y = to, top + HEIGHT
        if place[1]:
            drawn.append(f"V{y}")
    return f'<path d="{" ".join(drawn)}"/>'


def _box(room: str, x: float, y: float) -> str:
    """A room's box with its name and what it is."""
    path = modules(room)[0]
    name = f"{room}.py" if path.stem == room else f"{room}/"
    lines_of_text = textwrap.wrap(sentence(path), 43, max_lines=2, placeholder=" …")
    lines = [f'<text x="{x + 12:.0f}" y="{y + 24:.0f}" class="name">{escape(name)}</text>']
    lines += [
        f'<text x="{x + 12:.0f}" y="{y + 43 + 16 * i:.0f}">{escape(text)}</text>'
        for i, text in enumerate(lines_of_text)
    ]
    return f'<rect x="{x:.0f}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>' + "".join(lines)


def picture() -> str:
    """The whole drawing as SVG."""
    used = uses()
    row = rows(used)
    paths = chains(reduced(used), row)
    centre = positions(paths, row)
    middle = MARGIN + max(abs(x) + (PASSAGE if place[1] else WIDTH) / 2 for place, x in centre.items())
    width, height = round(2 * middle), 2 * MARGIN + max(row.values()) * ROW + HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        "<style>text{font:12px system-ui,'DejaVu Sans',sans-serif;fill:#3f3f46}.name{font-weight:600;font-size:15px;"
        "fill:#7c2d12}rect{fill:#fff;stroke:#c2410c}path{fill:none;stroke:#a1a1aa;stroke-width:1.5}</style>",
        f'<rect width="{width}" height="{height}" style="fill:#fafafa;stroke:none"/>',
        *(_line(path, centre, middle) for path in paths),
    ]
    for room in rooms():
        x, y = middle + centre[(room, "", row[room])] - WIDTH / 2, MARGIN + row[room] * ROW
        parts.append(_box(room, x, y))
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> int:
    (FOLDER / "architecture.svg").write_text(picture(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The house stands as `docs/architecture.md` draws it: rooms import only from rooms above them, in no circle, and no
name stands twice."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "simpool_viz"
# From top to bottom: a room imports only from rooms that stand above it.
ROOMS = (
    "bundled",  # where the models and photos are that travel with the package; it knows nothing of them
    "errors",
    "outputs",  # how files and tables are written; checkpoints, exports, evaluations and trainings all do it
    "settings",
    "images",
    "masks",
    "mask_files",  # masks in the formats of other tools
    "refinement",  # masks moved to the edges of the photo
    "tensors",
    "timing",
    "modeling",
    "checkpoints",
    "capture",
    "scores",
    "maps",
    "recording",
    "board",
    "drawing",
    "export",
    "repeat",  # a board from its manifest
    "batch",
    "evaluation",
    "training",
    "app",
    "cli",
)
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))
}


def imports_of(source: str, package: str) -> Iterator[str]:
    """The modules of this package that a source imports, anywhere in it: at its top, in functions, for types alone."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == package)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module and node.module.partition(".")[0] == package:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (name if name in MODULES or f"{name}.__init__" in MODULES else node.module for name in names)


def module_of(name: str) -> str:
    return f"{name}.__init__" if f"{name}.__init__" in MODULES else name


def arrows() -> dict[str, set[str]]:
    """What each module imports. The front door, which names the public calls, and the way in from the shell are no
    rooms."""
    doors = ("simpool_viz.__init__", "simpool_viz.__main__")
    return {
        name: {module_of(found) for found in imports_of(path.read_text(encoding="utf-8"), "simpool_viz")}
        - {name, doors[0]}
        for name, path in MODULES.items()
        if name not in doors
    }


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_every_module_lies_in_a_room() -> None:
    assert {room_of(name) for name in arrows()} == set(ROOMS)


@pytest.mark.parametrize("module", arrows())
def test_a_room_imports_only_from_rooms_above_it(module: str) -> None:
    place = ROOMS.index(room_of(module))
    below = {other for other in arrows()[module] if ROOMS.index(room_of(other)) > place}
    assert not below, f"{module} imports from below it: {', '.join(sorted(below))}"


def test_no_circle_among_modules() -> None:
    left = arrows()
    while True:
        free = {name for name, found in left.items() if not found & set(left)}
        if not free:
            break
        left = {name: found for name, found in left.items() if name not in free}
    assert not left, f"in circles, or waiting for one: {', '.join(sorted(left))}"


def test_a_circle_or_an_arrow_downwards_would_be_seen() -> None:
    source = "def f():\n    from simpool_viz.cli.main import main\n    import simpool_viz.board.board\n"
    assert set(imports_of(source, "simpool_viz")) == {"simpool_viz.cli.main", "simpool_viz.board.board"}


def definitions() -> Iterator[tuple[str, str]]:
    """(name, module) of every public class and function at the top of a module."""
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
                yield node.name, module


def test_no_public_class_or_function_stands_twice() -> None:
    places: dict[str, list[str]] = {}
    for name, module in definitions():
        places.setdefault(name, []).append(module)
    twice = {name: modules for name, modules in places.items() if len(modules) > 1}
    assert not twice


def test_no_file_name_stands_twice() -> None:
    """Pages and commands are called after what they show: `board/tour.py` makes it, `app/tour.py` and `cli/tour.py`
    show it."""
    places: dict[str, list[str]] = {}
    for module in MODULES:
        *_, name = module.split(".")
        if name != "__init__" and room_of(module) not in ("app", "cli"):
            places.setdefault(name, []).append(module)
    twice = {name: modules for name, modules in places.items() if len(modules) > 1}
    assert not twice


# What concerns the project as a whole and no module of it.
WHOLE = (
    "architecture",
    "benchmarks",
    "container",
    "docs",
    "docstring_examples",
    "examples",
    "ground",
    "memory",
    "notebooks",
    "run",
    "site",
    "wheel",
)


def test_tests_mirror_the_modules() -> None:
    """`tests/maps/test_scale.py` tests `simpool_viz/maps/scale.py`; an aspect may follow the module's name, as in
    `test_recording_shared.py`. Tests in a browser go by page."""
    tests = PACKAGE.parent / "tests"
    strays = []
    for path in sorted(tests.rglob("test_*.py")):
        folder, name = path.relative_to(tests).parent, path.stem.removeprefix("test_")
        words = name.split("_")
        modules = [PACKAGE / folder / f"{'_'.join(words[:count])}.py" for count in range(1, len(words) + 1)]
        whole = folder == Path() and name in WHOLE
        if not (whole or folder in (Path("browser"), Path("trust")) or any(module.is_file() for module in modules)):
            strays.append(path.relative_to(tests).as_posix())
    assert not strays, f"of no module: {', '.join(strays)}"

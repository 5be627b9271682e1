"""The kinds of error: each is raised somewhere, none is told from another by its text, and options are held against
signatures."""

from __future__ import annotations

import ast
import sys
from importlib import metadata
from pathlib import Path

import pytest

from simpool_viz import errors
from simpool_viz.errors import (
    DivergedError,
    MissingPackageError,
    OptionError,
    SimpoolError,
    bind_options,
    needs_packages,
    where_to_report,
)
from tests.helpers import KINDS

PACKAGE = Path(errors.__file__).parent
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def raised() -> list[str]:
    """The names of all that the package raises as Name(...)."""
    nodes = [node.exc for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    return [call.id for call in calls if isinstance(call, ast.Name)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_is_raised_somewhere_and_is_a_value_error(kind: type[SimpoolError]) -> None:
    assert kind.__name__ in raised() and issubclass(kind, ValueError)


def test_kinds_are_what_callers_of_other_libraries_expect() -> None:
    assert issubclass(DivergedError, FloatingPointError) and issubclass(MissingPackageError, ImportError)


def text_comparisons(tree: ast.AST) -> list[int]:
    """The lines where the text of a caught exception is compared or searched."""
    lines = []
    for handler in (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name):
        for node in ast.walk(handler):
            looked_at = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            texts = {ast.unparse(part) for part in looked_at}
            if texts & {f"str({handler.name})", f"repr({handler.name})", f"{handler.name}.args[0]"}:
                lines.append(node.lineno)
    return lines


def test_nothing_is_read_from_an_exceptions_text_but_a_lack_of_memory() -> None:
    found = {path.relative_to(PACKAGE).as_posix() for path, tree in TREES.items() if text_comparisons(tree)}
    assert found == {"tensors.py"}, "and there is said why"


def test_a_comparison_of_texts_would_be_seen() -> None:
    source = 'try: f()\nexcept OSError as error:\n    if "port" in str(error): raise\n'
    assert text_comparisons(ast.parse(source)) == [3]


def test_every_logger_is_called_after_its_module_and_nothing_is_configured_on_import() -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in TREES}
    logging = [path for path, source in sources.items() if "logger." in source]
    assert logging and all("logger = logging.getLogger(__name__)" in sources[path] for path in logging)
    configuring = [path for path, source in sources.items() if "basicConfig(" in source]
    assert configuring == [PACKAGE / "app" / "logs.py"]


def draw(recording: object, block: int, *, head: str = "mean") -> None:
    """A function of two options."""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"blok": 1}, r"^map 'x': .*'blo[ck]+'.*; it takes block, head$"),
        ({}, r"'block'; it takes block, head$"),
        ({"block": 1, "recording": 2}, r"'recording'; it takes block, head$"),
    ],
)
def test_options_are_held_against_the_signature(options: dict[str, object], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        bind_options("map 'x'", draw, object(), **options)
    bind_options("map 'x'", draw, object(), block=1, head="max")


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with (
        pytest.raises(MissingPackageError, match=r"reading needs the package pyarrow, .* pip install pyarrow"),
        needs_packages("reading", "pyarrow"),
    ):
        import pyarrow
    with pytest.raises(ModuleNotFoundError) as other, needs_packages("reading", "numpy"):
        import pyarrow  # noqa: F401
    assert not isinstance(other.value, SimpoolError), "a package that is not optional is a broken installation"


def test_faults_are_reported_where_the_package_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from email.message import Message

    told = Message()
    assert where_to_report()
    monkeypatch.setattr(metadata, "metadata", lambda name: told)
    assert where_to_report() == "the project's issues"
    told["Project-URL"] = "Homepage, https://example.org"
    told["Project-URL"] = "Issues, https://example.org/issues"
    assert where_to_report() == "https://example.org/issues"

"""Gradio without its type stubs.

Whenever Gradio is imported, it writes a type stub beside the source of every class of components, which takes two
fifths of its import and leaves files in whatever folder defines one. Nobody who runs an app reads them.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

META = "gradio.component_meta"  # the module whose metaclass of components writes them, by `WRITES`
WRITES = "create_or_modify_pyi"


def without_stubs() -> None:
    """Let Gradio write no stubs from now on, be it imported already or not; another release may do it elsewhere."""
    if META in sys.modules:
        _silence(sys.modules[META])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _silence(module: ModuleType) -> None:
    if hasattr(module, WRITES):
        setattr(module, WRITES, _write_nothing)


def _write_nothing(*_: Any) -> None:
    pass


class _Finder(MetaPathFinder):
    """Finds that module as usual, and silences it once it has run."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == META else None
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _silence(module)

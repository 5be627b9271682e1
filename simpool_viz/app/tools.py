"""The endpoints as tools of the Model Context Protocol, which Gradio serves under /gradio_api/mcp/.

Gradio 6 takes no photo inside a list, and of a call that waited in the queue it answers with one text in Python's
notation, without the picture. Both are mended here.
"""

from __future__ import annotations

import importlib.util
import json
from typing import Any

from simpool_viz.errors import MissingPackageError


def check_installed() -> None:
    """Make sure that the protocol's package is here.

    Raises:
        MissingPackageError: it is not.
    """
    if importlib.util.find_spec("mcp") is None:
        raise MissingPackageError("serve --mcp needs the package mcp; install it with: pip install 'simpool-viz[mcp]'")


def mend(server: Any) -> None:
    """Let a server of Gradio take photos in lists, and answer with JSON and pictures.

    Args:
        server: a `gradio.mcp.GradioMCPServer`.
    """
    convert, answer = server.convert_strings_to_filedata, server.postprocess_output_data

    def with_lists(value: Any, positions: list[list[Any]]) -> Any:
        return convert(value, [*positions, *_places_in_lists(value, positions)])

    def with_pictures(data: list[Any], root_url: str) -> list[Any]:
        outputs = [output for one in data for output in (one if isinstance(one, (list, tuple)) else [one])]
        return list(answer([_text_or_file(output) for output in outputs], root_url))

    server.convert_strings_to_filedata, server.postprocess_output_data = with_lists, with_pictures


def _places_in_lists(value: dict[str, Any], positions: list[list[Any]]) -> list[list[Any]]:
    """Where files stand in the lists of what a caller sent: ("photos", 0) for ("photos", "items")."""
    lists = [(one[0], value.get(one[0])) for one in positions if one[1:] == ["items"]]
    return [[name, i] for name, given in lists if isinstance(given, list) for i in range(len(given))]


def _text_or_file(output: Any) -> Any:
    is_file = isinstance(output, dict) and "meta" in output
    return output if is_file or isinstance(output, str) else json.dumps(output, ensure_ascii=False)

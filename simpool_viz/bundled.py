"""Where the files that travel with the package are."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def bundled_folder(kind: str) -> Path:
    """The path of a folder that travels with the package: inside an installed wheel, else in the checkout.

    Args:
        kind: "models" or "assets".

    Raises:
        FileNotFoundError: neither is there.
    """
    for root in (_PACKAGE / "_bundled", _PACKAGE.parent):
        if (root / kind).is_dir():
            return root / kind
    raise FileNotFoundError(
        f"the folder {kind!r} is neither in the installed package nor beside it; install simpool_viz again"
    )

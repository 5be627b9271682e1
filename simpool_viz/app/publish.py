"""Uploads the app with its bundled models as a Hugging Face Space."""

from __future__ import annotations

from pathlib import Path

from simpool_viz.errors import OptionError, SimpoolError

ROOT = Path(__file__).parent.parent.parent
TEXTS = ("README.md", "LICENSE", "NOTICE")
UPLOADED = ("app.py", "requirements.txt", *TEXTS, "simpool_viz/**", "models/**", "assets/**", "docs/*.jpg")
LEFT_OUT = ("**/__pycache__/**", "*.pyc", "*.pyi", "simpool_viz/_bundled/**")


def publish(space: str, *, private: bool = False) -> str:
    """Make the Space or update it, as the user that is logged in to the hub.

    Args:
        space: "user/name".
        private: whether a new Space is visible to its owner alone.

    Returns:
        Its address.

    Raises:
        OptionError: a name of another form, or not run from a checkout.
        SimpoolError: not logged in, or the hub refuses or cannot be reached.
    """
    if len([part for part in space.split("/") if part]) != 2 or space.count("/") != 1:
        raise OptionError(f"a Space is called USER/NAME, not {space!r}")
    missing = [name for name in ("app.py", "requirements.txt", "README.md", "models") if not (ROOT / name).exists()]
    if missing:
        raise OptionError(f"publishing runs from a checkout of simpool_viz; {ROOT} has no {', '.join(missing)}")
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        hub.create_repo(space, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=space,
            repo_type="space",
            folder_path=ROOT,
            allow_patterns=list(UPLOADED),
            ignore_patterns=list(LEFT_OUT),
            commit_message="simpool_viz",
        )
    except Exception as error:  # of the hub's client, which are of several libraries
        reason = str(error).strip().partition("\n")[0]
        raise SimpoolError(
            f"{space} could not be published ({type(error).__name__}: {reason}); log in with: hf auth login, and check "
            "the network"
        ) from error
    return f"https://huggingface.co/spaces/{space}"

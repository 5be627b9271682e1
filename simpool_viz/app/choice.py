"""What is chosen against what the board shows: the JavaScript by which the page says that a run is due."""

from __future__ import annotations

import json

PHONE = 700  # pixels; a page that is not wider is a phone's
# The inputs of a run, by what tells one choice from another: photo, checkpoints, maps, further photos.
_CHOICE = "JSON.stringify([p?.path, [...c].sort(), [...m].sort(), (f ?? []).map((one) => one.path)])"
_STALE = "The board shows an earlier choice. Press Run."


def _say(condition: str) -> str:
    return f"document.querySelector('#stale .stale').textContent = {condition} ? {json.dumps(_STALE)} : '';"


def _choose(given: str) -> str:
    """JavaScript that keeps what is chosen, for the address, and tells that it may have changed."""
    return f"window.simpoolChoice = {given}; document.dispatchEvent(new CustomEvent('simpool-choice'));"


def _keep(given: str) -> str:
    """JavaScript that keeps what tells the inputs of a run from others."""
    return f"{_choose(given)} const [p, c, m, , f] = window.simpoolChoice; window.simpoolRun = {_CHOICE};"


def _tell_notes(notes: str) -> str:
    """JavaScript that writes what a link could not say below Run, until the next run."""
    return f"document.querySelector('#stale .linked').textContent = {notes}.join(' ');"


# For a run that failed: the board shows what was chosen before.
FORGET_CHOICE = f"window.simpoolRun = ''; {_say('true')}"


def first_choice(after: str = "") -> str:
    """JavaScript for a page that opens: its first board shows what is chosen.

    Args:
        after: further statements.
    """
    return f"(...given) => {{ {_keep('given')} {after} }}"


def remember_choice(skipped: int = 0) -> str:
    """JavaScript for a run that begins, which gets its inputs as they are: what is run, and on a phone its place.

    Args:
        skipped: number of arguments before the inputs.
    """
    return (
        f"(...given) => {{ {_keep(f'given.slice({skipped})')} "
        f"{_say('false')} {_tell_notes('[]')} document.querySelector('#point')?.setAttribute('hidden', ''); "
        f"if (innerWidth <= {PHONE}) {{ document.querySelector('#settings .label-wrap.open')?.click(); "
        "document.querySelector('#board').scrollIntoView({ block: 'start' }); } return given; }"
    )


def compare_choice() -> str:
    """JavaScript for a changed choice, as soon as the page knows what its board shows."""
    differs = _say(f"window.simpoolRun !== {_CHOICE}")
    return f"(p, c, m, o, f) => {{ {_choose('[p, c, m, o, f]')} if (window.simpoolRun !== undefined) {{ {differs} }} }}"


def open_link(then: str) -> str:
    """JavaScript for a link that was read (address.py), which gets what it says and the inputs of a run.

    Args:
        then: the text of a function that is called once the board is drawn as the link says.
    """
    arranged = "new CustomEvent('simpool-arrange', { bubbles: true, detail: link })"
    return (
        f"(link, ...given) => {{ document.querySelector('#board .simpool-board').dispatchEvent({arranged}); "
        f"if (link.run) ({remember_choice()})(...given); else ({compare_choice()})(...given); "
        f"{_tell_notes('link.notes')} ({then})(); return [link, ...given]; }}"
    )

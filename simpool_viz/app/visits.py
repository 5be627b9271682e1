"""The end of a visit: what it held is freed soon after its page closes. Gradio itself keeps it for an hour."""

from __future__ import annotations

import threading
from datetime import datetime

import gradio as gr

from simpool_viz.app.events import event_handler

GRACE = 30.0  # seconds in which a page that lost its connection may come back and use what it holds


def free_when_closed(blocks: gr.Blocks) -> None:
    """Free the state of each visit once its page has been closed for `GRACE` seconds.

    Args:
        blocks: the app, of which each `gr.State` has its `delete_callback`; not yet launched.
    """

    def free(visit: str, closed: datetime) -> None:
        holder = blocks.state_holder
        if holder.time_last_used.get(visit, closed) <= closed:  # else it came back
            holder.delete_state(visit)

    @event_handler
    def closed(request: gr.Request) -> None:
        if request.session_hash:
            waiting = threading.Timer(GRACE, free, (request.session_hash, datetime.now()))
            waiting.daemon = True
            waiting.start()

    blocks.unload(closed)

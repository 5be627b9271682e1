"""The app in the browser: a thin layer of events over the board."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from simpool_viz.app.allocator import use_few_arenas
from simpool_viz.app.starting import StartingPage, listening_host
from simpool_viz.errors import CheckpointError, OptionError

logger = logging.getLogger(__name__)
OWN_FOLDER = "simpool_viz-"  # how the folder of a process begins
INTRO = """# simpool_viz
Where does a vision model attend, and would another pooling change that? Drop a photo: each row shows one checkpoint's
map over it, and the object mask derived from the map alone."""
GUIDE = """**Attention.** A map whose weights sum to 1 is drawn in *times uniform*: 1 is what plain averaging would
give each token, 10 is ten times that. Gates, norms and Grad-CAM have a scale of their own and are drawn in *times
their mean*. A contribution map is signed: red raises the class's logit, blue lowers it.

**Object mask.** The tokens at or above one level, with a box around each connected part. *Share of mass* 0.6 keeps
the fewest tokens that hold 60 % of the attention.

**Spatial entropy.** 0 when the map is one connected region, ln n when it is n equal ones; of the logits before the
softmax where there are any.

**Views.** *Rows* can be grouped, and sorted by any figure. *Matrix* has photos down and checkpoints across, as papers
print it. *Agreement* is the IoU of all pairs of masks. *Two maps* shows one over the other with a slider, and their
difference. The pointer, or the arrow keys on a picture, show the weight at the same point in every cell.

**Inspect.** One checkpoint on one photo: with a ViT, click a token and see what it attends to, in any block, per
head, and through the roll-out. Classes, channel gates and exponents are listed beside it, and where a checkpoint
cannot answer a question, the page says why. Up to three more checkpoints can be asked the same, every head of every
block is a thumbnail, the blocks play as a film, and any map can be pinned to the Compare board.

**Video.** A short clip in, its maps or masks as a video out, on one colour scale from the first frame to the last.

**Tour.** On one photo, what CLS, SimPool, GGeM, LIFE, spatial entropy and Dense Attention Roll-Out change, and their
limitations.

**Predictions.** The bundled models are small. Most know 214 kinds of object, two segment street scenes, and
three know no classes. A best class of less than 50 % is called improbable. Their maps are more informative than their
predictions."""


def build(device: str = "auto", *, precision: str = "auto", warm: bool = False) -> Any:
    """The app as a `gr.Blocks`, its example board already made.

    Args:
        device: as in `load_checkpoint`.
        precision: as in `load_checkpoint`.
        warm: load the checkpoints that are kept in memory now, rather than when they are first chosen.

    Raises:
        CheckpointError: no bundled checkpoint can be used.
    """
    use_few_arenas()  # before there are threads
    # Before the import: the app must be silent without a network.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")  # of which it makes a table after every event
    _use_private_folder()
    import gradio as gr

    from simpool_viz.app.zero import ZeroGpu, find_package

    package = find_package()  # before anything touches CUDA

    from simpool_viz.app.choice import PHONE
    from simpool_viz.app.compare import ComparePage
    from simpool_viz.app.endpoints import Endpoints
    from simpool_viz.app.pages import build_pages
    from simpool_viz.app.store import EncoderStore
    from simpool_viz.app.visits import VisitedBlocks

    zero = None if package is None else ZeroGpu(package, precision=precision)
    page = ComparePage(EncoderStore("cpu" if zero else device, precision), zero)
    for name, fault in page.left_out.items():
        logger.warning("the bundled checkpoint %s is left out: %s", name, fault)
    if not page.checkpoints:
        why = "; ".join(f"{name}: {fault}" for name, fault in page.left_out.items()) or "the folder is empty"
        raise CheckpointError(f"no bundled checkpoint can be used ({why}); install simpool_viz again")
    with VisitedBlocks(title="simpool_viz", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML('<a class="skip" href="#board">Skip to the result</a>', elem_id="skip", apply_default_css=False)
        gr.Markdown(INTRO, elem_classes="simpool-intro")
        panels = build_pages(page)
        page.begin(blocks)
        Endpoints(page.find, page.boards).build(blocks)
        blocks.load(
            None, None, panels, js=_close_where_narrow(len(panels), PHONE), queue=False, api_visibility="private"
        )
        with gr.Accordion("How to read the board", open=False):
            gr.Markdown(GUIDE)
        if page.left_out:
            gr.Markdown(_left_out(page.left_out), elem_classes="simpool-intro", elem_id="left-out")
        gr.Markdown(
            f"Computed on `{page.store.where()}`{', boards on ZeroGPU' if zero else ''}. Photos are deleted within two "
            "hours. Your own checkpoints and what you inspect are kept for an hour of rest, and freed within a minute "
            "of closing the page.",
            elem_classes="simpool-intro",
        )
        blocks.listen()
    blocks.warm_up = page.warm_up
    if zero:  # what is placed when the app starts is on the GPU of each call
        for name in page.whole[: zero.store.limit]:
            zero.store.get(name)
    if warm:
        for name in page.whole[: page.store.limit]:
            page.find(name)
    return blocks


def _left_out(faults: dict[str, str]) -> str:
    """Which checkpoints are not here and why, as Markdown that shows every sign as it is."""
    from simpool_viz.app.events import plain_markdown

    return "Left out: " + "; ".join(f"{plain_markdown(name)}, since {plain_markdown(f)}" for name, f in faults.items())


def _close_where_narrow(panels: int, width: int) -> str:
    """JavaScript that closes the panels of settings on a phone, so that the board is near the top."""
    return f"() => Array.from({{ length: {panels} }}, () => ({{ __type__: 'update', open: innerWidth > {width} }}))"


def _use_private_folder() -> None:
    """Keep photos in a folder of this process, deleted when it ends; Gradio's own is shared by all users."""
    given = os.environ.get("GRADIO_TEMP_DIR")
    if not (given and Path(given).name.startswith(OWN_FOLDER) and Path(given).is_dir()):
        if given:
            Path(given).mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=OWN_FOLDER, dir=given)
        os.environ["GRADIO_TEMP_DIR"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def launch(
    host: str | None = None,
    port: int | None = None,
    device: str = "auto",
    *,
    precision: str = "auto",
    warm: bool = False,
    proxies: Sequence[Any] = (),
    **options: Any,
) -> Any:
    """Build the app and serve it.

    Args:
        host: address to listen on; Gradio's default (127.0.0.1, or what GRADIO_SERVER_NAME says) where None.
        port: the first free one from 7860 where None.
        device: as in `load_checkpoint`.
        precision: as in `load_checkpoint`.
        warm: as in `build`.
        proxies: networks of the proxies whose `X-Forwarded-For` is believed, as in `visitor_of`.
        options: further arguments of `gr.Blocks.launch`, such as prevent_thread_lock.

    Raises:
        OptionError: a port where one cannot listen.
    """
    if port is not None:
        _check_port(host, port)
    return _launched(build(device, precision=precision, warm=warm), host, port, proxies, options)


def serve(
    host: str | None = None,
    port: int | None = None,
    device: str = "auto",
    *,
    precision: str = "auto",
    warm: bool = False,
    proxies: Sequence[Any] = (),
    patience: float = 6.0,
    **options: Any,
) -> None:
    """Serve the app until SIGTERM or SIGINT, and end soon after it, whatever runs.

    While the app is made, a page with the example board as a picture answers in its place (`StartingPage`). The address
    is printed when the app itself answers. The process must be left when this returns: a model that still runs in
    another thread cannot be stopped.

    Args:
        host: as in `launch`.
        port: as in `launch`.
        device: as in `launch`.
        precision: as in `launch`.
        warm: as in `build`.
        proxies: as in `launch`.
        patience: seconds in which running requests may finish then.
        options: further arguments of `gr.Blocks.launch`, such as auth.

    Raises:
        OptionError: a port where one cannot listen.
        CheckpointError: no bundled checkpoint can be used.
    """
    if port is not None:
        _check_port(host, port)
    with StartingPage(host, port) as starting:
        if starting.address:
            print(f"starting; {starting.address} shows the example board until the app answers", flush=True)
        blocks = build(device, precision=precision, warm=warm)
        from simpool_viz.app.ending import Ending, finish

        ending = Ending()
        ending.listen()
        _, address, _ = _launched(
            blocks,
            host,
            port,
            proxies,
            options | {"prevent_thread_lock": True, "quiet": True},
            stopping=ending.asked,
            starting=starting,
        )
    print(f"simpool_viz answers at {address}", flush=True)
    threading.Thread(target=blocks.warm_up, name="warm-up", daemon=True).start()
    ending.wait()
    print("ending", flush=True)
    finish(blocks, patience)


def _launched(
    blocks: Any,
    host: str | None,
    port: int | None,
    proxies: Sequence[Any],
    options: dict[str, Any],
    stopping: Callable[[], bool] = bool,
    starting: StartingPage | None = None,
) -> Any:
    import gradio as gr
    from starlette.middleware import Middleware

    from simpool_viz.app.ending import unfinished
    from simpool_viz.app.guard import Guard, Limits, Visitors
    from simpool_viz.app.tools import mend

    visitors = Visitors(proxies)

    def waiting() -> list[str]:
        return [visitors.of(event.request.scope) for event in unfinished(blocks)]

    told = {"limits": Limits(), "waiting": waiting, "stopping": stopping, "visitors": visitors}
    guard = Middleware(Guard, **told)  # type: ignore[arg-type]
    options = options | {"app_kwargs": {"middleware": [guard]} | options.get("app_kwargs", {})}
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue="orange",
        neutral_hue="zinc",
        font=fonts,
        font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
    )
    theme.set(  # text dark enough to read on its ground, which Gradio's own defaults are not everywhere
        block_label_text_color="*neutral_800",
        block_title_text_color="*neutral_800",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_text_color="white",
    )
    blocks.queue(default_concurrency_limit=2, max_size=64)
    blocks.begin()
    launched = _serve(blocks, host, port, theme, options, starting)
    if blocks.mcp_server_obj is not None:
        mend(blocks.mcp_server_obj)
    return launched


def _check_port(host: str | None, port: int) -> None:
    """Raise an OptionError where one cannot listen; Gradio finds out only after the app is built."""
    address = listening_host(host)
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        if os.name != "nt":  # there it would share a port that is taken
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                problem = f"port {port} is taken"
            else:
                problem = f"port {port} at {address} is not available ({error.strerror})"
            hint = "choose another with --port, or leave it out for the first free one"
            raise OptionError(f"{problem}; {hint}") from error


def _serve(
    blocks: Any, host: str | None, port: int | None, theme: Any, options: dict[str, Any], starting: StartingPage | None
) -> Any:
    from simpool_viz.app.own_checkpoint import LARGEST

    def launched_at(port: int | None) -> Any:
        return blocks.launch(
            server_name=host,
            server_port=port,
            theme=theme,
            css_paths=[Path(__file__).parent / "app.css"],
            max_file_size=LARGEST,
            ssr_mode=False,  # the board draws itself in the browser; a Node server would add nothing but a start-up
            footer_links=["api"],
            **options,
        )

    if starting is None:
        return launched_at(port)
    starting.close()
    try:
        return launched_at(starting.port)
    except OSError:
        if port is not None:
            raise
        return launched_at(None)  # another program was faster

"""What all events of the page have in common: a failure reaches the visitor as a sentence, and the page stays usable.

What a visitor gave or chose (`SimpoolError`, `OSError`) is answered with the error's own sentence. Anything else is a
bug: its trace goes to the log, and the visitor reads that it is our fault. What the browser sends is checked here too,
since nobody guarantees that it comes from our own page.
"""

from __future__ import annotations

import html
import inspect
import logging
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import gradio as gr

from simpool_viz.errors import OptionError, SimpoolError, where_to_report

logger = logging.getLogger(__name__)
OUR_FAULT = (
    "This is a fault of ours, not of what you chose. Nothing is lost: what is on the page stays, and you can go on. "
    "The details are in the app's log; please report what you did at {}."
)
UNREADABLE = "What was sent is not what this page sends; load the page again."
GONE = "A file that this needs is no longer here, since photos are deleted within two hours; choose the photo again."
_FOLDERS = re.compile(r"(?<![^\s'\"(\[])/(?:[^\s/'\"]+/)+")
Function = TypeVar("Function", bound=Callable[..., Any])


class GuardedBlocks(gr.Blocks):
    """An app whose events answer in a sentence also to what Gradio itself cannot read.

    Gradio checks what a browser sent before it calls an event's function, and prints the trace of what it finds.
    """

    async def process_api(self, *given: Any, **named: Any) -> dict[str, Any]:
        """As in `gr.Blocks`.

        Raises:
            gr.Error: in place of whatever is raised.
        """
        try:
            return await super().process_api(*given, **named)
        except Exception as error:
            if isinstance(error, gr.Error) and not error.print_exception:  # of an event
                raise
            what = f"{type(error).__name__}: {str(error)[:200]}".replace("\n", " ")
            logger.warning("a request that no event can read: %s", what)
            raise refusal(UNREADABLE) from error


def event_handler(function: Function) -> Function:
    """Decorator of everything that Gradio calls: functions, generators and coroutines.

    Raises:
        gr.Error: in place of whatever the function raises.
    """
    name = function.__qualname__
    if inspect.isgeneratorfunction(function):

        @wraps(function)
        def steps(*given: Any, **named: Any) -> Any:
            with _failures_as_sentences(name):
                yield from function(*given, **named)

        return cast(Function, steps)
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def awaited(*given: Any, **named: Any) -> Any:
            with _failures_as_sentences(name):
                return await function(*given, **named)

        return cast(Function, awaited)

    @wraps(function)
    def called(*given: Any, **named: Any) -> Any:
        with _failures_as_sentences(name):
            return function(*given, **named)

    return cast(Function, called)


@contextmanager
def _failures_as_sentences(name: str) -> Iterator[None]:
    try:
        yield
    except gr.Error:
        raise
    except SimpoolError as error:
        raise refusal(str(error)) from error
    except OSError as error:  # its text may name folders of this machine, which are no business of a visitor
        logger.warning("%s: %s", name, error)
        own_words = error.strerror or str(error)
        raise refusal(GONE if isinstance(error, FileNotFoundError) else own_words) from error
    except Exception as error:
        logger.exception("a fault in %s", name)
        raise gr.Error(OUR_FAULT.format(where_to_report()), print_exception=False) from error


def refusal(sentence: str) -> gr.Error:
    """The error that shows a sentence, with its full stop; not capitalised, since it may begin with a file's name.

    Gradio shows it as HTML, so signs of HTML, which may come from a visitor's file, are escaped. Of a path of this
    machine the last part is left.
    """
    sentence = sentence.encode("utf-8", "replace").decode()  # half characters, from a name, reach no browser
    sentence = _FOLDERS.sub("", sentence)
    ended = sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
    return gr.Error(html.escape(ended, quote=False), print_exception=False)


def plain_markdown(text: str) -> str:
    """Text of a file, as Markdown that shows it as it is."""
    text = text.encode("utf-8", "replace").decode()  # half characters reach no browser
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>()#+-!|$~" else c for c in text)


def sent_value(event: gr.EventData, key: str) -> Any:
    """What the browser sent with an event under `key`; None where it sent nothing under it."""
    try:
        return getattr(event, key, None)
    except TypeError:  # Gradio indexes whatever was sent, also where it is no table
        return None


def checked_number(value: Any, what: str) -> float:
    """A finite number that a browser sent.

    Args:
        value: what was sent.
        what: its name in the error's sentence.

    Raises:
        OptionError: it is no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise OptionError(f"{what} is a number, which is not what this page sent; load it again")
    return float(value)


def checked_index(value: Any, what: str, count: int | None = None) -> int:
    """A whole number that a browser sent.

    Args:
        value: what was sent.
        what: its name in the error's sentence.
        count: where given, the number lies from 0 to `count` - 1.

    Raises:
        OptionError: it is no such number.
    """
    number = checked_number(value, what)
    if not number.is_integer() or (count is not None and not 0 <= number < count):
        raise OptionError(f"{what} is a whole number{_below(count)}, which is not what this page sent; load it again")
    return int(number)


def _below(count: int | None) -> str:
    return "" if count is None else f" from 0 to {count - 1}" if count else ", of which there is none here"

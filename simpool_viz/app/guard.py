"""What stands between the network and the app: limits for each visitor, security headers, and no trace in an answer.

It is ASGI middleware, so that answers which come bit by bit pass through unchanged.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)
Scope = dict[str, Any]
API = "/gradio_api/"
TOOLS = f"{API}mcp"
# Of Gradio's own, which this app does not use: it would fetch from elsewhere, or tell who does what.
CLOSED = ("/monitoring", f"{API}proxy=", f"{API}dev/", f"{API}vibe-", f"{API}undo-vibe-", f"{API}profiling/")
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
    (b"cross-origin-opener-policy", b"same-origin-allow-popups"),
    # Not frame-ancestors: a Space, and a notebook, show the app in a frame.
    (b"content-security-policy", b"object-src 'none'; base-uri 'self'"),
]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
OF_FILES = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; sandbox")


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for: an address, so that a class behind one address must find room too.

    Attributes:
        burst: requests that change something, at once.
        rate: such requests a second, in the long run.
        running: events that wait or run at one time.
        upload: bytes of one request with files.
        hourly: bytes of all uploads within an hour.
        body: bytes of any other request.
    """

    burst: int = 600
    rate: float = 10.0
    running: int = 24
    upload: int = 520 * 2**20
    hourly: int = 2 * 2**30
    body: int = 16 * 2**20


class _Refused(Exception):
    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Guard:
    """The middleware.

    Args:
        app: what it stands before.
        limits: of one visitor.
        waiting: the visitors (as `visitor_of` names them) of the events that wait or run, one for each.
        stopping: whether the server is about to end.
        visitors: tells visitors apart; of every private address a proxy's word is taken where left out.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        limits: Limits,
        waiting: Callable[[], Iterable[str]],
        stopping: Callable[[], bool],
        visitors: Visitors | None = None,
    ) -> None:
        self.app, self.limits, self.waiting, self.stopping = app, limits, waiting, stopping
        self.visitors = visitors or Visitors()
        self._requests = Buckets(limits.burst, limits.rate)
        self._bytes = Buckets(limits.hourly, limits.hourly / 3600)

    async def __call__(self, scope: Scope, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        """Answer a request, or refuse it in a sentence with a status of 400 to 499, or 503 at the end."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, begun = scope["path"].removeprefix(scope.get("root_path") or ""), False

        async def answer(message: dict[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = message | {"headers": [*message.get("headers", []), *headers_of(path)]}
            await send(message)

        try:
            if path == "/healthz":
                raise _Refused(503, "The server is about to end.") if self.stopping() else _Refused(200, "ok")
            receive = self._checked(scope, path, receive)
            passed = self.visitors.marked(scope) if path.startswith(TOOLS) else scope
            uploads = scope["method"] == "POST" and path.rstrip("/") == f"{API}upload"
            await self.app(passed, receive, _files_needed(answer) if uploads else answer)
        except _Refused as refusal:
            if begun:
                raise
            await _tell(answer, refusal)
        except Exception as error:
            logger.warning("%s %s: %s", scope["method"], ascii(path[:80]), in_a_line(error))
            if not begun:
                await _tell(answer, _Refused(400, "This request is none that the page sends; load the page again."))

    def _checked(self, scope: Scope, path: str, receive: Callable[..., Any]) -> Callable[..., Any]:
        """Refuse what is not allowed; returns a `receive` that counts bytes."""
        if path.startswith(CLOSED):
            raise _Refused(404, "There is nothing here.")
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return receive
        if self.stopping():
            raise _Refused(503, "The server is about to end; try again in a minute.")
        visitor, files = self.visitors.of(scope), path.startswith(f"{API}upload")
        if not self._requests.take(visitor, 1):
            raise _Refused(429, "Too many requests came from your address; wait a minute and go on.")
        if path.rstrip("/").endswith("/queue/join") or path.startswith(f"{API}call/"):
            waiting = sum(other == visitor for other in self.waiting())
            if waiting >= self.limits.running:
                raise _Refused(429, f"{waiting} requests from your address are not finished; wait for one of them.")
        most = self.limits.upload if files else self.limits.body
        told, came = _length(scope), 0
        if told > most:
            raise _Refused(413, f"The request has {told:,} bytes; at most {most:,} are taken.")

        async def counted() -> Any:
            nonlocal came
            message = await receive()
            came += (size := len(message.get("body", b"")))
            if came > most:
                raise _Refused(413, f"The request has more than {most:,} bytes, which is the most that is taken.")
            if files and not self._bytes.take(visitor, size):
                raise _Refused(429, "Your address has uploaded as much as is taken in an hour; go on later.")
            return message

        return counted


class Visitors:
    """Tells visitors apart by their addresses, also those of tools: their calls come a second time, from the server.

    Gradio answers a call of a tool by calling itself, and passes the headers of the first request on. So the first one
    is given a header that names its visitor, with a word that nobody outside of this process knows.

    Args:
        proxies: as in `visitor_of`.
    """

    HEADER = b"x-simpool-visitor"

    def __init__(self, proxies: Sequence[Network] = ()) -> None:
        self.proxies = proxies
        self._word = secrets.token_hex().encode()

    def of(self, scope: Scope) -> str:
        """The visitor of a request."""
        for name, value in scope["headers"]:
            word, _, visitor = value.partition(b" ")
            if name == self.HEADER and secrets.compare_digest(word, self._word):
                return str(visitor.decode("latin-1"))
        return visitor_of(scope, self.proxies)

    def marked(self, scope: Scope) -> Scope:
        """The same request with the header that names its visitor."""
        named = (self.HEADER, self._word + b" " + self.of(scope).encode("latin-1", "replace"))
        return {**scope, "headers": [*(one for one in scope["headers"] if one[0] != self.HEADER), named]}


class Buckets:
    """A bucket of tokens for each visitor, which fills at a constant rate. Those that are full are forgotten.

    Args:
        capacity: tokens of a full bucket.
        rate: tokens a second.
        clock: seconds.
    """

    MOST = 10_000  # visitors that are remembered; beyond it the one that asked longest ago is forgotten

    def __init__(self, capacity: float, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity, self.rate, self.clock = capacity, rate, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._left)

    def take(self, visitor: str, count: float) -> bool:
        """Take tokens out of a visitor's bucket, if it holds as many."""
        with self._lock:
            now = self.clock()
            left, then = self._left.pop(visitor, (self.capacity, now))
            left = min(self.capacity, left + self.rate * (now - then))
            enough = left >= count
            self._left[visitor] = (left - count if enough else left, now)
            while len(self._left) > self.MOST:
                self._left.popitem(last=False)
            return enough


def visitor_of(scope: Scope, proxies: Sequence[Network] = ()) -> str:
    """The address of a visitor: of the connection, or what a proxy in front says in `X-Forwarded-For`.

    Args:
        scope: of a request.
        proxies: whose word is taken; every private address where none are named, as a Space and a container need it.
            Visitors behind a proxy that says nothing are one visitor, with the limits of one.
    """
    peer = str((scope.get("client") or ("unknown", 0))[0])
    if not _trusted(peer, proxies):
        return peer
    told = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for").decode("latin-1")
    hops = [hop.strip() for hop in told.split(",") if hop.strip()]
    return next((hop for hop in reversed(hops) if not _trusted(hop, proxies)), hops[0] if hops else peer)[:64]


def networks(texts: Iterable[str]) -> list[Network]:
    """Addresses and networks, such as "10.0.0.0/8".

    Raises:
        ValueError: one is neither.
    """
    return [ipaddress.ip_network(text.strip(), strict=False) for text in texts]


def headers_of(path: str) -> list[tuple[bytes, bytes]]:
    """The security headers of an answer; a visitor's file that is opened as a page can do nothing."""
    if path.startswith((f"{API}file=", f"{API}file/")):
        return [OF_FILES if header[0] == OF_FILES[0] else header for header in HEADERS]
    return HEADERS


def _trusted(address: str, proxies: Sequence[Network]) -> bool:
    try:
        one = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(one in network for network in proxies) if proxies else not one.is_global


def _length(scope: Scope) -> int:
    value = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(value) if value.isdigit() else 0


def in_a_line(error: Exception) -> str:
    """An error as one line for the log."""
    return f"{type(error).__name__}: {str(error)[:200]}".replace("\n", " ")


def _files_needed(send: Callable[..., Any]) -> Callable[..., Any]:
    """A `send` that refuses an upload of no files, to which Gradio answers with success and an empty list."""
    held: dict[str, Any] | None = None

    async def answer(message: dict[str, Any]) -> None:
        nonlocal held
        if message["type"] == "http.response.start":
            held = message
            return
        if held is not None:
            start, held = held, None
            nothing = start["status"] == 200 and message.get("body", b"").strip() == b"[]"
            if nothing and not message.get("more_body"):
                await _tell(send, _Refused(400, "The upload holds no file; choose one and send it again."))
                return
            await send(start)
        await send(message)

    return answer


async def _tell(send: Callable[..., Any], refusal: _Refused) -> None:
    key = "status" if refusal.status == 200 else "detail"
    body = json.dumps({key: refusal.sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""Limits for each visitor, headers of every answer, and no trace in any."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from simpool_viz.app.guard import API, Buckets, Guard, Limits, Visitors, networks, visitor_of

STRANGER = "8.8.8.8"


def ask(
    guard: Guard, path: str, method: str = "POST", body: bytes = b"", client: str = STRANGER, **headers: str
) -> Any:
    """Status, headers and body of an answer."""
    sent: list[dict[str, Any]] = []
    names = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": names, "client": (client, 1)}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    content = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], dict(sent[0]["headers"]), content


async def reading(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"read"})


async def failing(scope: Any, receive: Any, send: Any) -> None:
    raise KeyError("/home/us/secret")


def made(app: Any = reading, waiting: Any = list, stopping: Any = bool, **limits: Any) -> Guard:
    return Guard(app, Limits(**limits), waiting, stopping)


def test_what_fails_is_a_sentence_and_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    status, _, content = ask(made(failing), "/gradio_api/queue/join\n")
    assert status == 400 and b"secret" not in content and json.loads(content)["detail"].endswith("load the page again.")
    (record,) = caplog.records
    assert record.exc_info is None and "\n" not in record.getMessage() and "KeyError" in record.getMessage()


@pytest.mark.parametrize("path", ["/", "/gradio_api/file=/tmp/x.html", "/monitoring"])
def test_every_answer_has_the_headers(path: str) -> None:
    _, headers, _ = ask(made(), path, "GET")
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert (b"sandbox" in headers[b"content-security-policy"]) == ("file=" in path)


def test_health_is_told_until_the_end() -> None:
    assert ask(made(failing), "/healthz", "GET")[0] == 200
    assert ask(made(stopping=lambda: True), "/healthz", "GET")[0] == 503
    assert ask(made(stopping=lambda: True), "/gradio_api/queue/join")[0] == 503


def test_bytes_of_a_request_and_of_an_hour_are_bounded() -> None:
    guard = made(body=10, upload=100, hourly=250)
    assert ask(guard, "/gradio_api/queue/join", body=b"x" * 10)[0] == 200
    assert ask(guard, "/gradio_api/queue/join", body=b"x" * 11)[0] == 413, "counted, where no length is told"
    assert ask(guard, "/gradio_api/queue/join", content_length="11")[0] == 413
    statuses = [ask(guard, "/gradio_api/upload", body=b"x" * 100)[0] for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert ask(guard, "/gradio_api/upload", body=b"x" * 100, client="9.9.9.9")[0] == 200


@pytest.mark.parametrize(
    ("body", "status"), [(b"[]", 400), (b" []\n", 400), (b'["/tmp/a.png"]', 200), (b"", 200), (b"[" + b"]" * 9, 200)]
)
def test_an_upload_of_no_files_is_refused_whatever_is_answered(body: bytes, status: int) -> None:
    async def answering(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    for path in ("/gradio_api/upload", "/gradio_api/upload/"):
        told, headers, content = ask(made(answering), path)
        assert told == status and b"x-content-type-options" in headers
        assert content == body if status == 200 else b"holds no file; choose one" in content
    assert ask(made(answering), "/gradio_api/queue/join")[0] == 200


def test_an_upload_that_is_answered_in_parts_comes_whole() -> None:
    async def answering(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"[]", "more_body": True})
        await send({"type": "http.response.body", "body": b" ", "more_body": False})

    assert ask(made(answering), "/gradio_api/upload")[::2] == (200, b"[] ")


def test_one_visitor_cannot_take_all_places() -> None:
    guard = made(waiting=lambda: [STRANGER] * 3 + ["9.9.9.9"], running=3)
    assert ask(guard, "/gradio_api/queue/join")[0] == 429
    assert ask(guard, "/gradio_api/queue/join", client="9.9.9.9")[0] == 200
    guard = made(burst=2, rate=0.0)
    assert [ask(guard, "/gradio_api/cancel")[0] for _ in range(3)] == [200, 200, 429]
    assert ask(guard, "/", "GET")[0] == 200 and ask(guard, "/gradio_api/cancel", client="127.0.0.1")[0] == 200


@pytest.mark.parametrize("proxy", ["127.0.0.1", "::1", "10.0.0.1"])
def test_visitors_behind_a_proxy_that_tells_nothing_are_limited_as_one(proxy: str) -> None:
    guard = made(burst=2, rate=0.0, hourly=10)
    assert [ask(guard, "/gradio_api/cancel", client=proxy)[0] for _ in range(3)] == [200, 200, 429]
    told = [ask(guard, "/gradio_api/cancel", client=proxy, x_forwarded_for=f"8.8.8.{n}")[0] for n in range(3)]
    assert told == [200, 200, 200], "one that tells has visitors of its own"
    guard = made(waiting=lambda: [proxy] * 3, running=3, hourly=10)
    assert ask(guard, "/gradio_api/queue/join", client=proxy)[0] == 429
    assert ask(guard, "/gradio_api/upload", client=proxy, body=b"x" * 11)[0] == 429


def test_a_proxy_tells_the_address_and_a_stranger_cannot() -> None:
    def of(client: str, told: str) -> str:
        return visitor_of({"client": (client, 1), "headers": [(b"x-forwarded-for", told.encode())] if told else []})

    assert of("10.0.0.1", "1.2.3.4, 8.8.8.8, 10.0.0.2") == "8.8.8.8"
    assert of("8.8.4.4", "1.2.3.4") == "8.8.4.4" and of("10.0.0.1", "") == "10.0.0.1"


def test_where_proxies_are_named_no_other_address_is_believed() -> None:
    named = networks(["8.8.4.4", "10.1.0.0/16"])

    def of(client: str, told: str) -> str:
        return visitor_of({"client": (client, 1), "headers": [(b"x-forwarded-for", told.encode())]}, named)

    assert of("8.8.4.4", "1.2.3.4, 10.1.2.3") == "1.2.3.4"
    assert of("10.2.0.1", "1.2.3.4") == "10.2.0.1" and of("127.0.0.1", "1.2.3.4") == "127.0.0.1"
    assert of("10.1.0.1", "10.9.0.1, 192.168.0.5") == "192.168.0.5"
    with pytest.raises(ValueError, match="proxy"):
        networks(["proxy"])


def test_buckets_fill_at_their_rate_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    buckets = Buckets(2, 0.5, lambda: now[0])
    assert [buckets.take("a", 1) for _ in range(3)] == [True, True, False]
    now[0] = 2.0
    assert [buckets.take("a", 1) for _ in range(2)] == [True, False]
    monkeypatch.setattr(Buckets, "MOST", 3)
    assert all(buckets.take(str(i), 1) for i in range(9)) and len(buckets) == 3


@pytest.mark.parametrize("path", ["queue/join", "call/compare", "call/v2/compare"])
def test_a_call_over_plain_http_counts_like_one_of_the_page(path: str) -> None:
    guard = made(waiting=lambda: [STRANGER] * 3, running=3)
    assert ask(guard, f"{API}{path}")[0] == 429 and ask(guard, f"{API}{path}", client="9.9.9.9")[0] == 200


def test_what_the_server_calls_for_a_tool_counts_for_the_tools_visitor() -> None:
    """A call of a tool comes to the server, which calls itself with the same headers, from its own address."""
    visitors, calls = Visitors(), []

    async def with_tools(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].startswith(f"{API}mcp"):
            again = {**scope, "path": f"{API}queue/join", "client": ("127.0.0.1", 2)}
            await guard(again, receive, send)
        else:
            calls.append(visitors.of(scope))
            await reading(scope, receive, send)

    guard = Guard(with_tools, Limits(running=1), lambda: calls, bool, visitors)
    statuses = [ask(guard, f"{API}mcp/", client=client)[0] for client in (STRANGER, STRANGER, "9.9.9.9")]
    assert statuses == [200, 429, 200] and calls == [STRANGER, "9.9.9.9"]


def test_nobody_outside_can_say_whose_call_it_is() -> None:
    guard = made(waiting=lambda: [STRANGER], running=1)
    for claimed in ("9.9.9.9", "word 9.9.9.9", " 9.9.9.9"):
        assert ask(guard, f"{API}queue/join", x_simpool_visitor=claimed)[0] == 429
    scope = {"client": (STRANGER, 1), "headers": [(Visitors.HEADER, b"x 9.9.9.9")]}
    marked = Visitors().marked(scope)
    assert len(marked["headers"]) == 1 and marked["headers"][0][1].endswith(STRANGER.encode())
    assert Visitors().of(marked) == STRANGER, "the word of another process is none"

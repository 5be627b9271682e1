"""Other programs get what the Python calls give: with gradio_client, over MCP, from two at once; and nothing else."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from simpool_viz import Lens, Settings, inspect, load_checkpoint, load_checkpoints, make_board, record
from simpool_viz.app.endpoints import EXAMPLES
from simpool_viz.app.guard import Visitors
from simpool_viz.app.launch import launch
from simpool_viz.board.board import Board, Row
from simpool_viz.bundled import bundled_folder
from simpool_viz.maps.request import MapRequest
from simpool_viz.scores.localization import score_baselines
from simpool_viz.scores.references import read_reference

EXAMPLE = bundled_folder("assets") / "chelsea.jpg"
MASK = bundled_folder("assets") / "masks" / "chelsea.png"
NAMES = ["resnet_gap?size=96", "resnet_simpool?size=96"]
TOOLS = {"compare", "inspect", "score", "discover", "list_checkpoints"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    pytest.importorskip("mcp")
    app, address, _ = launch("127.0.0.1", device="cpu", prevent_thread_lock=True, quiet=True, mcp_server=True)
    yield address
    app.blocks.close()


@pytest.fixture
def client(address: str) -> Client:
    return Client(address, verbose=False)


def agrees(told: dict[str, Any], rows: list[Row]) -> None:
    assert [(one["checkpoint"], one["map"]) for one in told["rows"]] == [(r.checkpoint, r.request.label) for r in rows]
    for one, row in zip(told["rows"], rows, strict=True):
        assert np.array_equal(np.array(one["weights"], row.mask.weights.dtype), row.mask.weights)
        assert one["mask"] == row.mask.grid.tolist() and one["scores"] == row.scores
        assert one["boxes"] == [list(box) for box in row.mask.boxes] and one["entropy"] == pytest.approx(row.entropy)
        assert one["prediction"] is None or one["prediction"]["class"] == row.prediction[0]  # type: ignore[index]


def board_of(names: list[str], maps: list[Any], **named: Any) -> Board:
    return make_board([EXAMPLE], load_checkpoints(names, device="cpu"), maps, **named)


def test_two_clients_at_once_get_the_boards_of_python(address: str) -> None:
    def call(maps: list[str]) -> Any:
        given = {"photos": [handle_file(EXAMPLE)], "checkpoints": NAMES, "maps": maps, "mask": "mass:0.4"}
        return Client(address, verbose=False).predict(**given, grids=True, api_name="/compare")

    asked = (["own"], ["gradcam"])
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(call, asked))
    for maps, (told, picture) in zip(asked, answers, strict=True):
        board = board_of(NAMES, maps, settings=Settings(mask="mass:0.4"))
        agrees(told, board.rows)
        with Image.open(picture) as drawn:
            assert drawn.format == "PNG" and drawn.width > 300
    assert (
        "weights"
        not in Client(address, verbose=False).predict([handle_file(EXAMPLE)], NAMES, api_name="/compare")[0]["rows"][0]
    )


def test_inspect_is_the_call_of_python(client: Client) -> None:
    given = {"photo": handle_file(EXAMPLE), "checkpoint": NAMES[1], "question": "class", "target": "church"}
    told, _ = client.predict(**given, grids=True, api_name="/inspect")
    recording = record(load_checkpoint(NAMES[1], device="cpu"), EXAMPLE)
    agrees(told, inspect(recording, "class", Lens(target="church")).rows)
    assert told["facts"]["grid"] == list(recording.geometry.grid)
    assert told["facts"]["classes"][0]["name"] == recording.top_classes(1)[0][1]
    told, _ = client.predict(
        handle_file(EXAMPLE), "vit_simpool?size=96", "token", [20, 30], 2, "1", grids=True, api_name="/inspect"
    )
    recording = record(load_checkpoint("vit_simpool?size=96", device="cpu"), EXAMPLE)
    agrees(told, inspect(recording, "token", Lens((20, 30), 2, 1)).rows)


def test_score_is_the_call_of_python(client: Client) -> None:
    told, _ = client.predict(handle_file(EXAMPLE), handle_file(MASK), NAMES, grids=True, api_name="/score")
    board = board_of(NAMES, ["own"], references={0: read_reference(MASK)})
    agrees(told, board.rows)
    assert told["rows"][0]["scores"]["iou"] > 0 and told["baselines"] == score_baselines(board.references[0])


def test_discover_is_the_call_of_python(client: Client) -> None:
    told, _ = client.predict(handle_file(EXAMPLE), NAMES[1], "lost", "pooling", grids=True, api_name="/discover")
    request = MapRequest("lost", {"seed": "pooling"})
    agrees(told, board_of(NAMES[1:], [request], settings=Settings(mask="mass:1")).rows)


def test_list_checkpoints_names_what_the_others_take(client: Client) -> None:
    told = client.predict(api_name="/list_checkpoints")
    about = {one["name"]: one for one in told["checkpoints"]}
    assert about["resnet_simpool"]["pooling"] == "simpool" and "pooling" in about["resnet_simpool"]["maps"]
    assert "token" in about["vit_simpool"]["questions"] and "token" not in about["resnet_simpool"]["questions"]
    assert {"gradcam", "lost"} <= {one["name"] for one in told["maps"]}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"photos": [{"path": "/etc/passwd"}]}, "a file that was uploaded here first"),
        ({"photos": []}, "photos are a list of 1 to 12 files"),
        ({"photos": [handle_file(EXAMPLE)] * 13}, "photos are a list of 1 to 12 files"),
        ({"photos": [7]}, "load the page again"),
        ({"checkpoints": []}, "1 to 12 checkpoints are taken"),
        ({"checkpoints": [NAMES[0]] * 2}, "each checkpoint is named once"),
        ({"checkpoints": ["/etc/passwd"]}, "no bundled checkpoint is called"),
        ({"checkpoints": "resnet_gap"}, "checkpoints should be a valid list"),
        ({"maps": ["most"]}, "most"),
        ({"mask": "mass:7"}, "mass"),
    ],
    ids=str,
)
def test_bad_input_is_answered_with_a_sentence(client: Client, given: dict[str, Any], sentence: str) -> None:
    usual = {"photos": [handle_file(EXAMPLE)], "checkpoints": NAMES[:1]}
    with pytest.raises(Exception, match=sentence) as raised:
        client.predict(**(usual | given), api_name="/compare")
    assert "fault of ours" not in str(raised.value)


def test_no_file_of_this_machine_is_read(address: str) -> None:
    """gradio_client would upload it from the caller's side, so it is asked for over plain HTTP."""
    call = f"{address}gradio_api/call/compare"
    for file in ({"path": str(EXAMPLE)}, {"path": str(EXAMPLE), "meta": {"_type": "gradio.FileData"}}, str(EXAMPLE)):
        event = httpx.post(call, json={"data": [[file], NAMES[:1], ["own"], "default", False]}).json()["event_id"]
        answer = httpx.get(f"{call}/{event}", timeout=60).text
        assert "event: error" in answer and "event: complete" not in answer and "rows" not in answer


def test_only_these_endpoints_are_told_and_no_place_of_this_machine(address: str) -> None:
    text = httpx.get(f"{address}gradio_api/info").text
    info = json.loads(text)
    assert {name.strip("/") for name in info["named_endpoints"]} == TOOLS and not info["unnamed_endpoints"]
    assert all(about["description"] for about in info["named_endpoints"].values())
    assert set(re.findall(r"https?://[^/\"\\ ]+", text)) == {address.rstrip("/")}
    for place in (str(bundled_folder("assets").parent), "/tmp", "/home", "/usr"):
        assert place not in text
    for name, about in info["named_endpoints"].items():
        examples = {one["parameter_name"]: one["example_input"] for one in about["parameters"]}
        assert EXAMPLES[name.strip("/")].items() <= examples.items()
        assert all("http" not in json.dumps(example) for example in examples.values())


def test_a_client_of_mcp_lists_the_tools_and_gets_json_and_pictures(address: str) -> None:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    photo = "data:image/jpeg;base64," + base64.b64encode(EXAMPLE.read_bytes()).decode()

    async def visit() -> tuple[Any, list[Any]]:
        async with (
            streamablehttp_client(f"{address}gradio_api/mcp/") as (reading, writing, _),
            ClientSession(reading, writing) as session,
        ):
            await session.initialize()
            calls = [
                ("compare", {"photos": [photo], "checkpoints": NAMES, "grids": True}),
                ("inspect", {"photo": photo, "checkpoint": NAMES[1], "grids": True}),
                ("discover", {"photo": photo, "checkpoint": NAMES[1], "grids": True}),
                ("list_checkpoints", {}),
                ("compare", {"photos": [photo], "checkpoints": ["nobody"]}),
            ]
            answers = [await session.call_tool(name, given) for name, given in calls]
            return (await session.list_tools()).tools, answers

    tools, (board, inspected, discovered, listed, refused) = asyncio.run(visit())
    assert {tool.name for tool in tools} == TOOLS
    for tool in tools:
        assert len(tool.description) > 80
        assert all(about.get("description") for about in tool.inputSchema["properties"].values()), tool.name
    tokencut = board_of(NAMES[1:], ["tokencut"], settings=Settings(mask="mass:1")).rows
    pooled = inspect(record(load_checkpoint(NAMES[1], device="cpu"), EXAMPLE), "pooling").rows
    for answer, rows in ((board, board_of(NAMES, ["own"]).rows), (inspected, pooled), (discovered, tokencut)):
        assert not answer.isError
        agrees(json.loads(answer.content[0].text), rows)
        picture = next(one for one in answer.content if one.type == "image")
        assert Image.open(io.BytesIO(base64.b64decode(picture.data))).width > 300
    assert "checkpoints" in json.loads(listed.content[0].text)
    assert refused.isError and "no bundled checkpoint is called" in refused.content[0].text


async def compare_by_tool(address: str, maps: list[str], source: str) -> Any:
    """A board over MCP, by a client that connects from an address of its own."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    def client(headers: Any = None, timeout: Any = None, auth: Any = None) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(local_address=source)
        return httpx.AsyncClient(
            headers=headers, timeout=timeout, auth=auth, transport=transport, follow_redirects=True
        )

    photo = "data:image/jpeg;base64," + base64.b64encode(EXAMPLE.read_bytes()).decode()
    async with (
        streamablehttp_client(f"{address}gradio_api/mcp/", httpx_client_factory=client) as (reading, writing, _),
        ClientSession(reading, writing) as session,
    ):
        await session.initialize()
        given = {"photos": [photo], "checkpoints": NAMES, "maps": maps, "grids": True}
        return await session.call_tool("compare", given)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is no address of this machine")
def test_two_tools_at_once_get_the_boards_of_python_and_each_has_limits_of_its_own(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[str] = []
    of = Visitors.of

    def noted(self: Visitors, scope: Any) -> str:
        visitor = of(self, scope)
        if scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/queue/join"):
            joined.append(visitor)
        return visitor

    monkeypatch.setattr(Visitors, "of", noted)
    maps = {"127.0.0.2": ["own"], "127.0.0.3": ["gradcam"]}

    async def both() -> list[Any]:
        return await asyncio.gather(*(compare_by_tool(address, wanted, source) for source, wanted in maps.items()))

    for answer, wanted in zip(asyncio.run(both()), maps.values(), strict=True):
        assert not answer.isError
        agrees(json.loads(answer.content[0].text), board_of(NAMES, wanted).rows)
    assert set(joined) == set(maps), "what the server calls for a tool counts for the tool"

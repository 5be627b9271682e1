"""The documentation site: it builds without a warning and without a network, the pages that scripts write are current,
and the page of messages quotes what the package says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from simpool_viz import errors
from simpool_viz.board.comparison import ROW_FIGURES
from simpool_viz.evaluation.table import TABLE_FIGURES
from simpool_viz.maps.registry import map_methods
from simpool_viz.masks import mask_rules
from simpool_viz.scores.localization import score
from simpool_viz.scores.references import Reference

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").is_file(), reason="the docs travel with the repository")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a proxy that does not answer stands for a missing network."""
    folder = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loaded(HTMLParser):
    """What a browser fetches by itself to show a page: scripts, styles, pictures; not the links in the text."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        wanted = found.get("href") if tag == "link" and found.get("rel") != "canonical" else found.get("src")
        self.addresses += [wanted] if wanted else []


def test_site_reads_without_a_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert loaded.addresses
        outside = [a for a in loaded.addresses if re.match(r"(https?:)?//", a)]
        assert not outside, f"{page.name} fetches {outside}"


def test_every_public_name_has_its_place_in_the_api(site: Path) -> None:
    import simpool_viz

    for name, home in simpool_viz._HOMES.items():
        text = (site / "api" / f"simpool_viz.{home}.html").read_text(encoding="utf-8")
        module = getattr(simpool_viz, name).__module__
        assert f'id="{module}.{name}"' in text or f'id="simpool_viz.{home}.{name}"' in text, f"{home} lacks {name}"


def test_pages_from_elsewhere_are_on_the_site_with_links_that_hold(site: Path) -> None:
    contributing = (site / "contributing.html").read_text(encoding="utf-8")
    assert 'href="architecture.html"' in contributing and 'href="changelog.html"' in contributing
    table = (site / "checkpoints.html").read_text(encoding="utf-8")
    assert 'href="cards/resnet_gap%2Bslot.html"' in table and 'href="poolings.html"' in table
    assert "tests/test_architecture.py" in (site / "architecture.html").read_text(encoding="utf-8")


def script(name: str) -> dict[str, Any]:
    return run_path(str(DOCS / name))


def test_the_page_of_maps_is_up_to_date() -> None:
    written = (DOCS / "maps.md").read_text(encoding="utf-8")
    assert script("make_maps.py")["page"]() == written, "run: python docs/make_maps.py"
    for method in map_methods().values():
        assert f"(`{method.name}`)" in written and method.formula in written
    assert all(f"| `{rule}` |" in written for rule in mask_rules())
    assert not re.findall(r"^\| `\w+` \| [^|]* \| *\|$", written, re.MULTILINE), "an option that nothing describes"


def test_the_picture_of_the_rooms_is_up_to_date() -> None:
    drawing = script("make_architecture.py")
    assert drawing["picture"]() == (DOCS / "architecture.svg").read_text(encoding="utf-8"), (
        "run: python docs/make_architecture.py"
    )
    used, row = drawing["uses"](), drawing["rows"](drawing["uses"]())
    assert all(row[other] < row[room] for room, others in used.items() for other in others)


def test_lines_that_follow_from_others_are_left_out_of_the_picture() -> None:
    drawing = script("make_architecture.py")
    used = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a"}}
    assert drawing["reduced"](used) == {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"a"}}
    with pytest.raises(SystemExit, match="in a circle: a, b"):
        drawing["rows"]({"a": {"b"}, "b": {"a"}})


def test_every_figure_of_the_tables_is_defined() -> None:
    import numpy as np

    truth = np.eye(4, dtype=bool)
    names = {*TABLE_FIGURES, *score(truth.astype(float), truth, Reference(truth, ~truth & truth))}
    defined = set(re.findall(r"`(\w+)`", (DOCS / "scores.md").read_text(encoding="utf-8")))
    assert names <= defined, f"docs/scores.md lacks {sorted(names - defined)}"
    assert set(ROW_FIGURES) <= set(re.findall(r"`(\w+)`", (DOCS / "maps.md").read_text(encoding="utf-8")))


# --- messages --------------------------------------------------------------------------------------------------------


@cache
def templates() -> list[str]:
    """Every text in the sources, what is put into it at run time as a NUL."""
    found = []
    for path in [*(ROOT / "simpool_viz").rglob("*.py"), ROOT / "run.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return [re.sub(r"\{\w*\}", "\0", text) for text in found]


def said(message: str) -> bool:
    """Whether a text of the sources has the message's parts in their order, something put in at each `...` between."""
    start = message.strip(". ").split("...")
    pattern = re.compile(r".*?\0.*?".join(re.escape(part.strip()) for part in start), re.DOTALL)
    return any(pattern.search(text) for text in templates())


@pytest.mark.parametrize("page", ["docs/troubleshooting.md", "README.md"])
def test_messages_on_the_pages_are_those_of_the_package(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    tables = re.findall(r"^\| message \| what to do \|\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    cells = [row.split(" | ")[0] for table in tables for row in table.splitlines()]
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    assert len(messages) >= 5
    wrong = [message for message in messages if not said(message)]
    assert not wrong, "nothing says this any more"


def test_a_message_that_nothing_says_would_be_seen() -> None:
    assert said("no mask rule is called ...; there are ...")
    assert not said("no mask rule was called ...") and not said("there are ... no mask rule is called")


def test_every_kind_of_error_has_a_section() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    names = {kind.__name__ for kind in kinds if issubclass(kind, errors.SimpoolError)} - {"SimpoolError"}
    assert len(names) > 5
    for name in names:
        assert re.search(rf"^##+ .*\(`{name}`\)$", text, re.MULTILINE), f"docs/troubleshooting.md lacks {name}"

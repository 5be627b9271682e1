"""The files around the package: licence, notice, citation, changelog, workflows, security, the public names."""

from __future__ import annotations

import ast
import asyncio
import http.server
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

import simpool_viz
from simpool_viz import errors

ROOT = Path(__file__).parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"
pytestmark = pytest.mark.skipif(not WORKFLOWS.is_dir(), reason="these files travel with the repository")
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def table(name: str) -> Any:
    return yaml.safe_load(read(name))


# --- licence, notice, citation, changelog -----------------------------------------------------------------------------


def test_licence_is_the_whole_text_of_apache_2() -> None:
    text = read("LICENSE")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    sections = re.findall(r"^   (\d)\. ([A-Z][\w ]+)", text, re.MULTILINE)
    assert [int(number) for number, _ in sections] == list(range(1, 10))
    assert "END OF TERMS AND CONDITIONS" in text and "APPENDIX: How to apply the Apache License" in text
    assert len(text.split()) == 1581
    assert re.search(r'^license = "Apache-2.0"$', read("pyproject.toml"), re.MULTILINE)


def test_notice_names_every_source_that_a_card_names() -> None:
    notice = " ".join(read("NOTICE").split())
    for source in (
        "Imagenette",
        "Caltech-101",
        "Faces_easy",
        "flower_photos",
        "CamVid",
        "Weizmann horses",
        "COCO",
        "Tiny-ImageNet-200",
    ):
        assert source in notice
    known = re.compile(r"Imagenette|Caltech-101|flower_photos|CamVid|Tiny-ImageNet-200")
    for card in (ROOT / "models").glob("*/README.md"):
        (data,) = re.findall(r"^\| data \| (.*)", card.read_text(encoding="utf-8"), re.MULTILINE)
        sources = re.sub(r"\([^)]*\)", "", data.partition("photos: ")[2] or data)
        for source in re.split(r", | and ", sources.partition(":")[0]):
            assert known.search(source) or source.strip() in ("Faces_easy",), f"{card}: {source!r} is not in NOTICE"


def test_citation_names_the_version_and_five_papers() -> None:
    citation = table("CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    assert citation["version"] == simpool_viz.__version__
    assert {"message", "title", "authors", "type"} <= citation.keys()
    papers = {reference["title"]: reference for reference in citation["references"]}
    wanted = ("SimPool", "Local Inductive Bias", "Spatial Entropy", "Group Generalized Mean", "Self-adaptive Pooling")
    assert len(papers) == 5 and all(any(word in title for title in papers) for word in wanted)
    for paper in papers.values():
        assert paper["url"].startswith("https://") and paper["year"] >= 2022
        assert all(person["family-names"] and person["given-names"] for person in paper["authors"])


def test_changelog_knows_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    dates = dict(headings)
    assert dates[simpool_viz.__version__] == str(table("CITATION.cff")["date-released"])


def test_source_distribution_carries_licence_and_changelog(tmp_path: Path) -> None:
    build = "import sys; from hatchling.build import build_sdist; build_sdist(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (source,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "NOTICE", "CHANGELOG.md", "README.md", "run.py"} <= names


# --- workflows, hooks, templates --------------------------------------------------------------------------------------


def steps(job: dict[str, Any]) -> str:
    return "\n".join(step.get("run", "") or step.get("uses", "") for step in job["steps"])


def test_ci_runs_the_test_command_on_every_python_and_lints_the_javascript() -> None:
    jobs = table(".github/workflows/ci.yml")["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == PYTHONS
    assert ".ci/run" in steps(jobs["test"])
    assert ".ci/lint_js.py" in steps(jobs["javascript"])
    supported = read("run.py")
    assert "OLDEST, NEWEST = (3, 10), (3, 13)" in supported


def test_release_builds_checks_and_publishes_without_a_password() -> None:
    workflow = table(".github/workflows/release.yml")
    assert workflow[True]["push"]["tags"] == ["v*"]  # YAML 1.1 takes the key `on` for true
    assert "-m build" in steps(workflow["jobs"]["build"]) and "twine check --strict" in steps(workflow["jobs"]["build"])
    publish = workflow["jobs"]["publish"]
    assert publish["needs"] == "build" and publish["permissions"] == {"id-token": "write"}
    assert "gh-action-pypi-publish" in steps(publish) and "password" not in read(
        ".github/workflows/release.yml"
    ).replace("No password is kept", "")


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.name)
def test_workflows_ask_for_no_more_than_they_need(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


def test_dependabot_watches_packages_and_actions() -> None:
    updates = table(".github/dependabot.yml")["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"pip", "github-actions"}


def test_hooks_are_those_of_the_test_command_and_fetch_nothing() -> None:
    repositories = table(".pre-commit-config.yaml")["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    entries = [hook["entry"] for hook in repositories[0]["hooks"]]
    assert [entry.split()[2:4] for entry in entries] == [["ruff", "check"], ["ruff", "format"], ["mypy"]]


def test_issue_templates_are_forms() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.stem != "config":
            assert {"name", "description", "body"} <= form.keys()
            assert len({item["id"] for item in form["body"]}) == len(form["body"])


def test_javascript_linter_knows_every_script_of_the_board() -> None:
    """The linter reads SCRIPTS without importing the app; here both are compared."""
    from simpool_viz.app.board.component import SCRIPTS

    source = read(".ci/lint_js.py")
    namespace: dict[str, Any] = {"__file__": str(ROOT / ".ci" / "lint_js.py"), "__name__": "lint_js"}
    exec(compile(source, "lint_js.py", "exec"), namespace)
    assert namespace["scripts"]() == list(SCRIPTS)


# --- security ---------------------------------------------------------------------------------------------------------


def test_every_test_that_security_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", read("SECURITY.md")))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    there = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    assert len(named) > 8 and named <= there, f"no longer there: {sorted(named - there)}"


@pytest.fixture
def private_server() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine's own address, and what it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/photo.jpg", asked
    server.shutdown()
    server.server_close()


def test_private_addresses_are_refused(private_server: tuple[str, list[str]]) -> None:
    import gradio as gr

    from simpool_viz.app.compare import ComparePage
    from simpool_viz.app.store import EncoderStore

    address, asked = private_server
    page = ComparePage(EncoderStore("cpu"))
    with ThreadPoolExecutor(1) as apart:  # a browser test that ran before leaves its event loop in this thread
        for wanted in (address, "file:///etc/hostname"):
            with pytest.raises(gr.Error, match=r"could not be fetched|starts with https"):
                apart.submit(lambda wanted=wanted: asyncio.run(page.fetch(wanted))).result()
    assert asked == []


# --- what is public ---------------------------------------------------------------------------------------------------


def test_public_names_are_said_once_and_lead_somewhere() -> None:
    assert sorted(simpool_viz._HOMES) == [name for name in simpool_viz.__all__ if name != "__version__"]
    for name in simpool_viz.__all__:
        assert getattr(simpool_viz, name) is not None
    shown = set(re.findall(r"`(\w+)`", (simpool_viz.__doc__ or "").partition("| name |")[2]))
    assert set(simpool_viz.__all__) - {"__version__"} <= shown, "the table of the docstring lacks a public name"


def test_every_kind_of_error_is_public() -> None:
    kinds = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.SimpoolError) and value.__module__ == errors.__name__
    }
    assert kinds <= set(simpool_viz.__all__)


def test_names_for_type_checkers_are_those_at_run_time() -> None:
    tree = ast.parse((ROOT / "simpool_viz" / "__init__.py").read_text(encoding="utf-8"))
    checked = {
        alias.name: (node.module or "").removeprefix("simpool_viz.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("simpool_viz.")
        for alias in node.names
    }
    assert checked == simpool_viz._HOMES


def test_public_modules_are_checked_strictly() -> None:
    section = read("pyproject.toml").partition("[[tool.mypy.overrides]]")[2].partition("]\n")[0]
    strict = set(re.findall(r'"(simpool_viz[\w.]*)"', section))
    assert {f"simpool_viz.{home}" for home in simpool_viz._HOMES.values()} <= strict

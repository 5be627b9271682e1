"""What mkdocs is given beside the files of docs/: pages that lie elsewhere in the repository, an API page for every
public module, and the list of rooms on the page of the architecture.

Links in pages are written as they hold in the repository; here those that lead out of docs/ are turned into links
within the site, and those to files that the site does not have into their text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from runpy import run_path
from typing import Any

from mkdocs.structure.files import File, Files

import simpool_viz

ROOT = Path(__file__).parent.parent
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "assets/README.md": "photos.md",
    "benchmarks/README.md": "benchmarks.md",
    "models/README.md": "checkpoints.md",
} | {f"models/{card.parent.name}/README.md": f"cards/{card.parent.name}.md" for card in ROOT.glob("models/*/README.md")}
SITE = {page: source for source, page in ELSEWHERE.items() if source != "README.md"}  # the site has a home of its own
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
ROOMS = "<!-- the rooms -->"


ALSO = ("capture.recorded", "maps.scale", "modeling.encoder", "scores.localization")  # what public calls return


def public_modules() -> list[str]:
    """The modules that hold the public names, and those of what they take and return."""
    return [f"simpool_viz.{home}" for home in sorted({*simpool_viz._HOMES.values(), *ALSO})]


def on_config(config: Any) -> Any:
    """The API's pages stand last but one in the contents."""
    pages = [{module.removeprefix("simpool_viz."): f"api/{module}.md"} for module in public_modules()]
    config.nav.insert(-1, {"API": ["api/index.md", *pages]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what does not lie in docs/."""
    for page, source in SITE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    table = "# API\n\n::: simpool_viz\n    options:\n      members: false\n"
    files.append(File.generated(config, "api/index.md", content=table))
    for module in public_modules():
        title = module.removeprefix("simpool_viz.")
        files.append(File.generated(config, f"api/{module}.md", content=f"# {title}\n\n::: {module}\n"))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that hold on the site, and the list of rooms."""
    here = page.file.src_uri
    source = SITE.get(here, f"docs/{here}")

    def turned(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        path, mark, anchor = target.partition("#")
        if not path or ":" in path:
            return match[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        inside = ELSEWHERE.get(wanted, wanted.removeprefix("docs/") if wanted.startswith("docs/") else "")
        if inside:
            return f"{picture}[{text}]({posixpath.relpath(inside, posixpath.dirname(here) or '.')}{mark}{anchor})"
        return text if (ROOT / wanted).exists() else match[0]  # what does not exist is mkdocs' to complain of

    return LINK.sub(turned, markdown).replace(ROOMS, rooms() if ROOMS in markdown else "")


def rooms() -> str:
    """Every room with what it is, what it imports from, and its modules, in the order of the picture."""
    drawing = run_path(str(ROOT / "docs" / "make_architecture.py"))
    used, sentence = drawing["uses"](), drawing["sentence"]
    row = drawing["rows"](used)
    parts = []
    for room in sorted(used, key=lambda name: (row[name], name)):
        first, *others = drawing["modules"](room)
        parts += [f"### {room}", "", f"{sentence(first)}.", ""]
        if used[room]:
            parts += [f"Imports from: {', '.join(sorted(used[room], key=lambda name: (row[name], name)))}.", ""]
        named = [path for path in others if path.stem != "__init__" or sentence(path)]
        folder = ROOT / "simpool_viz" / room
        parts += [f"- `{path.relative_to(folder).as_posix()}`: {sentence(path)}" for path in named] + [""]
    return "\n".join(parts)

#!/usr/bin/env python3
"""Lint the JavaScript of the board: `python3 .ci/lint_js.py`. It needs Node and fetches ESLint through npx.

The files are no modules: component.py puts them behind one another into one scope, in the order of its SCRIPTS. So they
are linted as that one text, where a name that no file defines is seen, and complaints are told by file and line.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOARD = ROOT / "simpool_viz" / "app" / "board"
ESLINT = "eslint@9.39.1"


def scripts() -> list[str]:
    """The names of SCRIPTS, read without importing what the app needs."""
    for node in ast.parse((BOARD / "component.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "SCRIPTS":
            return list(ast.literal_eval(node.value))
    raise SystemExit(f"{BOARD / 'component.py'} names no SCRIPTS")


def main() -> int:
    names = scripts()
    forgotten = {path.stem for path in BOARD.glob("*.js")} - set(names)
    if forgotten:
        raise SystemExit(f"SCRIPTS of component.py lacks {', '.join(sorted(forgotten))}")
    sources = {name: (BOARD / f"{name}.js").read_text(encoding="utf-8").splitlines() for name in names}
    places = [(name, number) for name in names for number in range(1, len(sources[name]) + 1)]
    text = "\n".join(line for name in names for line in sources[name]) + "\n"
    command = ["npx", "--yes", ESLINT, "--stdin", "--stdin-filename", "board.js", "--format", "json"]
    done = subprocess.run(
        [*command, "--config", str(ROOT / "eslint.config.mjs")], input=text, capture_output=True, text=True, cwd=ROOT
    )
    try:
        messages = json.loads(done.stdout)[0]["messages"]
    except (ValueError, LookupError):
        raise SystemExit(f"ESLint did not run:\n{done.stdout}{done.stderr}") from None
    for message in messages:
        name, line = places[min(message.get("line") or 1, len(places)) - 1]
        place = (BOARD / f"{name}.js").relative_to(ROOT)
        print(f"{place}:{line}:{message.get('column', 1)}: {message['message']} ({message.get('ruleId')})")
    print(f"{len(names)} files, {len(places)} lines: {len(messages) or 'no'} complaints")
    return 1 if messages or done.returncode else 0


if __name__ == "__main__":
    sys.exit(main())

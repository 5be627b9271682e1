#!/usr/bin/env python3
"""Do what the Dockerfile says in a clean folder, start the app as the image would, and end it as a runtime would.

`python .ci/container.py` needs no container runtime. It copies what COPY copies and .dockerignore admits, runs the RUN
steps there (of an installation it asks instead whether this environment is what it would install, and what needs root
is left out), runs the health check until it succeeds, asks for the page, sends the stop signal, and looks at the exit
status. It says of each step what was done. CI builds the real image besides.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GRACE = 15.0  # seconds between the stop signal and a kill, as in compose.yaml
ROOT_ONLY = ("useradd", "groupadd", "apt-get")  # programs that change the system


@dataclass
class Image:
    """What the steps of a Dockerfile lead to.

    Attributes:
        folder: that stands for the root of the image's file system.
        workdir: the folder of its app, from that root.
        user: who runs it.
        environment: set by ENV and ARG.
        health: the health check's command.
        entrypoint: the command, and its arguments by default.
        stop: the signal that ends it.
        done: a line for each step.
    """

    folder: Path
    workdir: str = "/"
    user: str = "root"
    environment: dict[str, str] = field(default_factory=dict)
    health: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    stop: str = "SIGTERM"
    done: list[str] = field(default_factory=list)

    @property
    def here(self) -> Path:
        """The folder of its app on this machine."""
        return self.folder / self.workdir.strip("/")

    def variables(self) -> dict[str, str]:
        """The environment of its commands, with this Python in front."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        kept = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "LD_LIBRARY_PATH") if name in os.environ}
        home = self.folder / "home" / self.user
        home.mkdir(parents=True, exist_ok=True)
        return {**kept, **self.environment, "PATH": path, "HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}


def steps(text: str) -> list[tuple[str, str]]:
    """(instruction, rest) of a Dockerfile, continued lines joined and comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\s*\n\s*", " ", "\n".join(lines))
    return [(line.split()[0].upper(), line.partition(" ")[2].strip()) for line in joined.splitlines() if line.strip()]


def admitted(names: list[str], ignore: str) -> list[str]:
    """The files that a .dockerignore lets into the build, by the last pattern that fits a file or a folder above it."""
    patterns = [line.strip() for line in ignore.splitlines() if line.strip() and not line.startswith("#")]
    kept = []
    for name in names:
        parts, out = name.split("/"), False
        places = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        for pattern in patterns:
            plain = pattern.lstrip("!")
            if any(
                fnmatch(place, plain) or fnmatch(f"/{place}", f"/{plain}".replace("/**/", "*/")) for place in places
            ):
                out = not pattern.startswith("!")
        kept += [] if out else [name]
    return kept


def build(root: Path, folder: Path) -> Image:
    """Do the steps of a Dockerfile in a folder.

    Raises:
        SystemExit: one cannot be done.
    """
    image = Image(folder)
    # What git tracks, or would: a build on a fresh machine has no more.
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    names = [name for name in listed.stdout.split("\0") if name and (root / name).is_file()]
    names = names or [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    sent = admitted(names, (root / ".dockerignore").read_text(encoding="utf-8"))
    for instruction, rest in steps((root / "Dockerfile").read_text(encoding="utf-8")):
        image.done.append(f"{instruction} {rest}: {_step(image, instruction, rest, root, sent)}")
    return image


def _step(image: Image, instruction: str, rest: str, root: Path, sent: list[str]) -> str:
    """Do one step; returns what was done."""
    if instruction in ("ENV", "ARG"):
        image.environment |= dict(part.split("=", 1) for part in shlex.split(rest))
    elif instruction == "WORKDIR":
        image.workdir = rest
        image.here.mkdir(parents=True, exist_ok=True)
    elif instruction == "COPY":
        return f"{_copy(image, rest.split(), root, sent)} files"
    elif instruction == "RUN":
        return _run(image, rest)
    elif instruction == "USER":
        image.user = rest
        return "noted; the app runs as the user of this script"
    elif instruction == "HEALTHCHECK":
        image.health = json.loads(rest[rest.index("CMD") + 3 :])
    elif instruction == "ENTRYPOINT":
        image.entrypoint = json.loads(rest)
    elif instruction == "CMD":
        image.arguments = json.loads(rest)
    elif instruction == "STOPSIGNAL":
        image.stop = rest
    elif instruction == "FROM":
        return f"not done: this is Python {sys.version.split()[0]}"
    elif instruction != "EXPOSE":
        raise SystemExit(f"no step is known by the name {instruction}")
    return "done"


def _copy(image: Image, places: list[str], root: Path, sent: list[str]) -> int:
    *sources, target = places
    count = 0
    for source in sources:
        found = [name for name in sent if name == source or name.startswith(f"{source}/")]
        if not found:
            raise SystemExit(f"COPY {source}: there is no such file in what .dockerignore admits")
        for name in found:
            inside = name[len(source) + 1 :] if name != source else ""
            to = image.here / target / (inside or (Path(name).name if target.endswith("/") else ""))
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, to)
            count += 1
    return count


def _run(image: Image, command: str) -> str:
    program = command.split()[0]
    if program in ROOT_ONLY:
        return "not done: it needs root"
    if command.startswith("pip install"):
        return f"not done: this environment has {_satisfied(image, command)} of what it installs, in versions it admits"
    done = subprocess.run(["sh", "-ec", command], cwd=image.here, env=image.variables(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"RUN {command} failed: {done.stderr[-500:]}")
    return "done"


def _satisfied(image: Image, command: str) -> int:
    """How many requirements an installation has, all of which this environment must satisfy."""
    from packaging.requirements import Requirement

    script = f"set -f; printf '%s\\n' {command.removeprefix('pip install')}"
    words = subprocess.run(
        ["sh", "-ec", script], cwd=image.here, env=image.variables(), capture_output=True, text=True, check=True
    ).stdout.split("\n")
    words = [word for word in words if word]
    given = []
    while words:
        word = words.pop(0)
        if word == "-r":
            lines = (image.here / words.pop(0)).read_text(encoding="utf-8").splitlines()
            given += [line for line in lines if line and not line.startswith("#")]
        elif word.startswith("--"):
            words.pop(0)
        else:
            given.append(word)
    for requirement in map(Requirement, given):
        if not requirement.specifier.contains(version(requirement.name), prereleases=True):
            raise SystemExit(f"{requirement} is not what is installed here ({version(requirement.name)})")
    if not given:
        raise SystemExit(f"RUN {command} would install nothing")
    return len(given)


def start_and_stop(image: Image, wait: float = 600.0) -> list[str]:
    """Start the app, wait until it is healthy, ask for its page, and stop it; returns a line for each.

    Raises:
        SystemExit: it does not become healthy, does not end in time, or ends with another status than 0.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    if "7860" not in image.entrypoint + image.arguments or not image.health:
        raise SystemExit("the app is to listen on 7860, and to have a health check")
    command = [word.replace("7860", port) for word in image.entrypoint + image.arguments]
    health = [word.replace("7860", port) for word in image.health]
    log = image.folder / "log"
    with log.open("w") as out:
        app = subprocess.Popen(command, cwd=image.here, env=image.variables(), stdout=out, stderr=out)
    try:
        end = time.monotonic() + wait
        while subprocess.run(health, cwd=image.here, env=image.variables(), capture_output=True).returncode:
            if app.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the app is not healthy: {log.read_text()[-2000:]}")
            time.sleep(1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
            status, text = page.status, page.read().decode()
        if status != 200 or "simpool_viz" not in text:
            raise SystemExit("the page is not that of the app")
        begun = time.monotonic()
        app.send_signal(getattr(signal, image.stop))
        ended = app.wait(GRACE)
    finally:
        app.kill()
        app.wait()
    if ended:
        raise SystemExit(f"the app ended with status {ended}: {log.read_text()[-2000:]}")
    return [
        "healthy",
        f"page: {len(text):,} characters",
        f"ended with 0, {time.monotonic() - begun:.1f} s after {image.stop}",
    ]


def main() -> int:
    with tempfile.TemporaryDirectory() as work:
        image = build(ROOT, Path(work))
        print("\n".join(image.done), flush=True)
        print("\n".join(start_and_stop(image)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

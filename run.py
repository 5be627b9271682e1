#!/usr/bin/env python3
"""The two commands of a fresh machine: `python3 run.py app` starts the app, `python3 run.py test` runs the tests.

Standard library only. Each command checks this Python, makes `.venv`, installs into it what is needed (once for each
state of the requirement files, see `stamp`) and hands over to the Python in it. Whatever stops it raises SystemExit
with a sentence that says what to do.

Any Python must be able to read this file, since it is what tells an old one that it is too old; hence no syntax newer
than that of Python 3.6, and annotations in quotes.
"""

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
OLDEST, NEWEST = (3, 10), (3, 13)
PORT = 7860  # Gradio's own, tried first
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROCESSES = 2  # of the tests: what the smallest machines have cores for
FILES = {"app": ["requirements.txt"], "test": ["requirements.txt", "pyproject.toml"]}


def main(arguments: "list[str]") -> int:
    """Run one of the two commands and return its exit code."""
    other = other_python()
    if other:
        return hand_over([other, __file__, *arguments])
    options, rest = parse(arguments)
    tell_unwritable_home()
    python = prepare(options.command, options.cpu)
    if options.command == "app":
        return start_app(python, options.host, options.port, rest)
    return run_tests(python, options.require_browser, rest)


def parse(arguments: "list[str]") -> "tuple[argparse.Namespace, list[str]]":
    """Split the command line into this file's options and those for the app or for pytest."""
    parser = argparse.ArgumentParser(
        prog="run.py", description="Start simpool_viz, or test it, on a machine that has only Python."
    )
    commands = parser.add_subparsers(dest="command", metavar="app | test")
    commands.required = True
    app = commands.add_parser("app", allow_abbrev=False, help="start the app", epilog="Further arguments go to app.py.")
    app.add_argument(
        "--host", help="address to listen at, 0.0.0.0 for every network of this machine (default 127.0.0.1)"
    )
    app.add_argument("--port", type=int, help=f"port to listen at (default {PORT} where it is free, else any free one)")
    test = commands.add_parser(
        "test", allow_abbrev=False, help="run linter, types and tests", epilog="Further arguments go to pytest."
    )
    test.add_argument(
        "--require-browser", action="store_true", help="fail where no browser is found, instead of skipping its tests"
    )
    for command in (app, test):
        command.add_argument(
            "--cpu", action="store_true", help="install PyTorch's smaller CPU build; it stays until .venv is deleted"
        )
    return parser.parse_known_args(arguments)


def say(sentence: str) -> None:
    print(f"run.py: {sentence}", flush=True)  # flushed, so that it stands before what the next program prints


def stop(sentence: str) -> SystemExit:
    return SystemExit(f"run.py: {sentence}")


def hand_over(command: "list[str]") -> int:
    """Become `command`, so that signals reach it; Windows has no such thing and waits for it."""
    sys.stdout.flush()
    if os.name != "nt":
        os.execv(command[0], command)
    return subprocess.call(command)


def supported(version: "tuple[int, ...]") -> bool:
    return OLDEST <= tuple(version[:2]) <= NEWEST


def version_of(python: str) -> "tuple[int, ...]":
    """Version of another Python, () where it does not run: pyenv has a name on the PATH for every version, active or
    not."""
    try:
        text = subprocess.check_output(
            [python, "-c", "import sys; print(*sys.version_info[:2])"], stderr=subprocess.DEVNULL
        )
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(int(number) for number in text.split())


def other_python(version: "tuple[int, ...]" = tuple(sys.version_info[:3])) -> "str | None":
    """The Python on the PATH to go on with where this one is unsupported; None where this one will do."""
    if supported(version):
        return None
    oldest, newest, this = (".".join(map(str, v)) for v in (OLDEST, NEWEST, version))
    sentence = f"simpool_viz needs Python {oldest} to {newest}, and this is Python {this}"
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        for folder in os.get_exec_path():
            python = shutil.which(f"python3.{minor}", path=folder)
            if python and supported(version_of(python)):
                say(f"{sentence}: going on with {python}")
                return python
    raise stop(
        f"{sentence}. Install one of those (with your system's packages, pyenv or uv) and start with it: "
        f"python{newest} run.py app"
    )


def tell_unwritable_home() -> None:
    home = os.path.expanduser("~")
    if not os.access(home, os.W_OK):
        say(
            f"the home folder {home} is not writable, so pip and the model hub keep no downloads; PIP_CACHE_DIR and "
            "HF_HOME name others"
        )


def apt_install(package: str, run=subprocess.call) -> bool:
    """Install a Debian package, where that is possible without asking: as root, with apt-get."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    say(f"installing the Debian package {package}")
    quiet = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    run(["apt-get", "update"], env=quiet)  # may complain of one source and still know the package from another
    return run(["apt-get", "install", "-y", package], env=quiet) == 0


def make_venv(run=subprocess.call) -> None:
    """Make `.venv` from this Python, in place of a former one of this file's or one that lost its Python."""
    made = marker("made")
    if (
        os.path.exists(str(venv_python())) and not made.exists()
    ):  # Path.exists would raise where the Python is another user's
        raise stop(
            f"{VENV} was not made by run.py, and Python {sys.version_info[0]}.{sys.version_info[1]} cannot use it (it "
            "is of another "
            "version or broken); rename or delete it, or start run.py with its Python, and run the same command again"
        )
    package = "python{}.{}-venv".format(*sys.version_info)
    if not importlib.util.find_spec("ensurepip") and not apt_install(package, run):
        raise stop(
            f"{sys.executable} cannot make .venv, because it has no ensurepip. On Debian and Ubuntu the package "
            f"{package} is missing: "
            f"install it (sudo apt-get install {package}) and run the same command again"
        )
    say(f"making {VENV}")
    failed = run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)])
    if not failed:
        made.touch()
        marker("unfinished").touch()
        failed = run([str(venv_python()), "-m", "ensurepip", "--default-pip"])
    if failed:
        raise stop(f"{sys.executable} could not make {VENV}; its own words are above")


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def identity(python: Path) -> str:
    """Version and folder of the environment's Python, "" where it does not run or is of another version than this
    one."""
    probe = "import sys; print('%d.%d.%d' % sys.version_info[:3], sys.prefix)"
    try:
        text = (
            subprocess.check_output([str(python), "-c", probe], stderr=subprocess.DEVNULL)
            .decode(errors="replace")
            .strip()
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return text if text.startswith("{}.{}.".format(*sys.version_info)) else ""


def stamp(kind: str, cpu: bool, who: str) -> str:
    """Digest of all that an installation depends on. The folder is part of it: an editable install points into its
    checkout."""
    digest = hashlib.sha256(f"{kind} cpu={cpu} {who}".encode())
    for name in FILES[kind]:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def marker(name: str) -> Path:
    """A file in `.venv`: the stamps "app" and "test", "made" by this file, "unfinished" while it is at work."""
    return VENV / f".simpool-{name}"


def prepare(kind: str, cpu: bool, run=subprocess.call) -> Path:
    """Make `.venv` hold what `kind` needs and return its Python. Where the stamp is unchanged this does nothing and
    needs no network."""
    python, ours = venv_python(), marker("made").exists()
    who = "" if ours and marker("unfinished").exists() else identity(python)
    builds = (True,) if cpu else (False, True)  # without --cpu any build of PyTorch will do
    if who and marker(kind).exists() and marker(kind).read_text() in [stamp(kind, build, who) for build in builds]:
        return python
    folder = VENV if VENV.exists() else ROOT
    if not os.access(str(folder), os.W_OK):
        raise stop(f"{folder} is not writable for you; copy the checkout to a folder of yours and run it there")
    if not who:
        make_venv(run)
        who = identity(python)
    install(kind, cpu, python, run)
    for done in ("test", "app") if kind == "test" else ("app",):  # the tests need all that the app needs
        marker(done).write_text(stamp(done, cpu, who))
    return python


def install(kind: str, cpu: bool, python: Path, run=subprocess.call) -> None:
    """Install what `kind` needs. If it is killed, "unfinished" stays and the next start makes `.venv` anew: it may hold
    half a package."""
    for name in FILES:
        if marker(name).exists():
            marker(name).unlink()
    marker("unfinished").touch()
    say(
        "installing what is needed, which takes some minutes the first time"
        + ("" if cpu else " (--cpu makes it smaller)")
    )
    for command in pip_commands(kind, cpu):
        code = run([str(python), "-m", "pip", "install", *command], cwd=str(ROOT))
        if code > 0:  # it ended by itself, so what is there is whole
            marker("unfinished").unlink()
        if code != 0:
            network = f"the network (--cpu needs {CPU_INDEX})" if cpu else "the network"
            raise stop(
                f"pip failed, its own words are above. Check {network} and the free disk space, then run the same "
                "command again"
            )
    marker("unfinished").unlink()


def pip_commands(kind: str, cpu: bool) -> "list[list[str]]":
    """Arguments of one `pip install` after the other."""
    commands = [["pip>=23.2"]]  # older ones download each candidate of PyTorch whole, only to read what it requires
    if cpu:
        lines = (ROOT / "requirements.txt").read_text().splitlines()
        torch = [line for line in lines if re.match(r"torch(vision)?\b", line)]
        # Upgrade: 2.8.0+cpu counts as newer than 2.8.0.
        commands.append(["--upgrade", "--index-url", CPU_INDEX, *torch])
    commands.append(["-r", "requirements.txt"] if kind == "app" else ["-e", ".[dev]"])
    return commands


def choose_port(host: str, port: "int | None" = None) -> int:
    """`port` if it is given, else the usual one if it is free, else any free one."""
    for candidate in [PORT, 0] if port is None else [port]:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            if os.name != "nt":  # there it would share a port that is taken
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, candidate))
                return listener.getsockname()[1]
            except (OSError, OverflowError) as error:
                reason = error
    raise stop(
        f"the app cannot listen at {host}, port {port or 'any'} ({reason}); without --host and --port a free place is "
        "chosen"
    )


def start_app(python: Path, host: "str | None", port: "int | None", rest: "list[str]") -> int:
    """Print the app's address and become the app."""
    port = choose_port(host or "127.0.0.1", port)
    shown = {None: "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    print(f"simpool_viz: http://{shown}:{port}", flush=True)
    place = ["--port", str(port)] + (["--host", host] if host else [])
    return hand_over([str(python), str(ROOT / "app.py"), *place, *rest])


def playwright_browser(python: Path) -> "str | None":
    """The browser that `playwright install` has downloaded, if it has."""
    ask = "from playwright.sync_api import sync_playwright as s\nwith s() as p: print(p.chromium.executable_path)"
    try:
        path = subprocess.check_output([str(python), "-c", ask], stderr=subprocess.DEVNULL).decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return path if os.path.isfile(path) else None


def find_browser(python: Path, run=subprocess.call) -> "str | None":
    """Path of a Chromium: $CHROMIUM, the PATH's, Playwright's own, Debian's as root; None where there is none."""
    named = os.environ.get("CHROMIUM")
    if named and not shutil.which(named):
        say(f"CHROMIUM is set to {named}, which is no program; looking for another")
    for name in filter(None, (named, "chromium", "google-chrome")):
        if shutil.which(name):
            return shutil.which(name)
    return playwright_browser(python) or (shutil.which("chromium") if apt_install("chromium", run) else None)


def driver_starts(python: Path, run=subprocess.call) -> bool:
    """Whether Playwright's driver runs; a bare Debian lacks a library of it, which root installs."""
    command, quiet = (
        [str(python), "-m", "playwright", "--version"],
        {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL},
    )
    return run(command, **quiet) == 0 or (apt_install("libatomic1", run) and run(command, **quiet) == 0)


def browser_or_reason(python: Path, run=subprocess.call) -> "tuple[str | None, str]":
    """The browser for the tests; where there is none, also why and what to do about it."""
    browser = find_browser(python, run)
    if not browser:
        other = f"elsewhere run {python} -m playwright install chromium"
        return (
            None,
            f"no browser was found: install Chromium (Debian's package is chromium; {other}) or set CHROMIUM to one",
        )
    if not driver_starts(python, run):
        return (
            None,
            f"{python} -m playwright --version fails: install what it lacks (Debian's package is usually libatomic1)",
        )
    return browser, ""


def selections(browser: bool, rest: "list[str]") -> "list[list[str]]":
    """Arguments of one pytest after the other.

    The whole suite runs on two processes, file by file, and the browser's tests apart from the others: Playwright
    leaves an event loop behind, in which no test of coroutines can run. A selection runs as it is, in one process.
    """
    if rest:
        return [rest if browser else ["-m", "not browser", *rest]]
    parts = ["not browser", "browser"] if browser else ["not browser"]
    return [["-m", part, "-n", str(PROCESSES), "--dist", "loadfile"] for part in parts]


def run_tests(python: Path, require_browser: bool, rest: "list[str]", run=subprocess.call) -> int:
    """Run linter and types (not where `rest` selects tests), then pytest, and return its exit code."""
    browser, reason = browser_or_reason(python, run)
    if require_browser and not browser:
        raise stop(f"the browser tests cannot run, since {reason}")
    for tool in [] if rest else [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]]:
        if run([str(python), "-m", *tool], cwd=str(ROOT)) != 0:
            raise stop(f"`{' '.join(tool)}` found the faults above, so the tests were not run")
    environment = dict(os.environ, CHROMIUM=browser) if browser else None
    code = 0
    for selection in selections(bool(browser), rest):
        code = run([str(python), "-m", "pytest", *selection], cwd=str(ROOT), env=environment) or code
    if not browser:
        say(f"the browser tests were skipped, since {reason}")
    return code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)

"""run.py without network and without an installation: every program that it would start is recorded instead."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parent.parent / "run.py"
THIS = "{}.{}".format(*sys.version_info)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """run.py as a module, of a checkout of its own in a temporary folder."""
    spec = importlib.util.spec_from_file_location("run_py", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    (tmp_path / "requirements.txt").write_text("# a comment\ntorch>=2.8\ntorchvision>=0.23\ntorchmetrics\nnumpy\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    return module


class Programs:
    """Stands for `subprocess.call`: notes each command, and fails those that contain a word of `failing`."""

    def __init__(self, *failing: str, code: int = 1) -> None:
        self.commands: list[list[str]] = []
        self.environments: list[dict[str, str] | None] = []
        self.failing, self.code = failing, code

    def __call__(self, command: list[str], env: dict[str, str] | None = None, **rest: object) -> int:
        self.commands.append(command)
        self.environments.append(env)
        if "venv" in command:
            python = Path(command[-1]) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
            shutil.rmtree(command[-1], ignore_errors=True)  # what --clear does
            python.parent.mkdir(parents=True)
            executable(python, "true")
        return self.code if any(word in command for word in self.failing) else 0

    def started(self, word: str) -> bool:
        return any(word in command for command in self.commands)


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def installed(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A checkout in which the tests' installation is done."""
    monkeypatch.setattr(run, "identity", lambda python: f"{THIS}.0 {python}" if python.exists() else "")
    run.prepare("test", cpu=False, run=Programs())
    return run


def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)


def root(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Root of a Debian machine whose PATH is `folder`."""
    folder.mkdir(exist_ok=True)
    executable(folder / "apt-get", "true")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)


@pytest.mark.parametrize(
    ("version", "wanted"),
    [((3, 9, 18), False), ((3, 10, 0), True), ((3, 13, 9), True), ((3, 14, 0), False), ((), False)],
)
def test_supported_versions(run: ModuleType, version: tuple[int, ...], wanted: bool) -> None:
    assert run.supported(version) is wanted


@pytest.mark.parametrize("version", [(3, 8, 18), (3, 14, 1)])
def test_unsupported_python_names_the_range_and_itself(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: tuple[int, ...]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        SystemExit, match=r"needs Python 3\.10 to 3\.13, and this is Python " + r"\.".join(map(str, version))
    ):
        run.other_python(version)


@pytest.mark.skipif(os.name == "nt", reason="writes shell scripts")
def test_goes_on_with_a_supported_python_that_runs(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shims, programs = tmp_path / "shims", tmp_path / "bin"
    shims.mkdir(), programs.mkdir()
    executable(shims / "python3.13", "exit 127")  # pyenv's name of a version that is not active
    executable(shims / "python3.12", "echo 3 8")
    good = executable(programs / "python3.12", "echo 3 12")
    monkeypatch.setenv("PATH", os.pathsep.join([str(shims), str(programs)]))
    assert run.other_python((3, 14, 0)) == str(good)
    assert run.other_python((3, 11, 0)) is None


def test_the_oldest_python_at_hand_reads_the_file() -> None:
    folders = [Path(folder) for folder in os.get_exec_path()] + sorted((Path.home() / ".pyenv/versions").glob("*/bin"))
    candidates = [folder / f"python3.{minor}" for minor in range(6, 10) for folder in folders]
    for python in (path for path in candidates if os.access(path, os.X_OK)):
        answer = subprocess.run([python, FILE, "app"], capture_output=True, text=True, env={"PATH": "/nowhere"})
        if "this is Python 3." in answer.stderr:
            assert answer.returncode == 1 and "Traceback" not in answer.stderr
            return
    pytest.skip("no Python older than 3.10 on this machine")


def test_missing_ensurepip_names_the_debian_package(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody(monkeypatch)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        SystemExit, match=rf"python{THIS}-venv is missing: install it \(sudo apt-get install python{THIS}-venv\)"
    ):
        run.prepare("app", cpu=False, run=Programs())


def test_root_installs_the_missing_debian_package(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root(monkeypatch, tmp_path / "bin")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    programs = Programs()
    run.make_venv(programs)
    assert programs.commands[:2] == [["apt-get", "update"], ["apt-get", "install", "-y", f"python{THIS}-venv"]]
    assert programs.started("venv")


def test_installs_once_for_app_and_tests(installed: ModuleType) -> None:
    programs = Programs()
    python = installed.prepare("test", cpu=False, run=programs)
    assert installed.prepare("app", cpu=False, run=programs) == python
    assert programs.commands == []


def test_the_app_alone_is_not_enough_for_the_tests(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "identity", lambda python: f"{THIS}.0 {python}" if python.exists() else "")
    app, test = Programs(), Programs()
    python = str(run.prepare("app", cpu=False, run=app))
    run.prepare("test", cpu=False, run=test)
    assert app.commands[-1] == [python, "-m", "pip", "install", "-r", "requirements.txt"]
    assert test.commands[-1] == [python, "-m", "pip", "install", "-e", ".[dev]"]
    assert not test.started("venv")


@pytest.mark.parametrize(
    ("kind", "file", "again"),
    [
        ("app", "requirements.txt", True),
        ("app", "pyproject.toml", False),
        ("test", "requirements.txt", True),
        ("test", "pyproject.toml", True),
    ],
)
def test_changed_requirements_are_installed(installed: ModuleType, kind: str, file: str, again: bool) -> None:
    with (installed.ROOT / file).open("a") as text:
        text.write("tqdm\n")
    programs = Programs()
    installed.prepare(kind, cpu=False, run=programs)
    assert programs.started("pip") is again and not programs.started("venv")


@pytest.mark.parametrize("who", [f"{THIS}.1 elsewhere", f"{THIS}.0 moved"])
def test_changed_interpreter_or_folder_is_installed(
    installed: ModuleType, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    monkeypatch.setattr(installed, "identity", lambda python: who)
    programs = Programs()
    installed.prepare("app", cpu=False, run=programs)
    assert programs.started("pip") and not programs.started("venv")


def test_environment_of_another_version_is_made_anew(installed: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["", f"{THIS}.0 here"])
    monkeypatch.setattr(installed, "identity", lambda python: next(answers))
    programs = Programs()
    installed.prepare("app", cpu=False, run=programs)
    assert programs.started("venv") and programs.started("pip")


def test_environment_of_somebody_else_is_not_deleted(installed: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    installed.marker("made").unlink()
    monkeypatch.setattr(installed, "identity", lambda python: "")
    programs = Programs()
    with pytest.raises(SystemExit, match=r"was not made by run\.py"):
        installed.prepare("app", cpu=False, run=programs)
    assert programs.commands == [] and installed.venv_python().exists()


def test_identity_is_empty_unless_the_environment_runs(run: ModuleType, tmp_path: Path) -> None:
    assert run.identity(Path(sys.executable)).startswith(f"{THIS}.")
    assert run.identity(tmp_path / "no-python") == ""


@pytest.mark.parametrize(("code", "anew"), [(1, False), (-9, True)])
def test_half_finished_installation_is_redone(installed: ModuleType, code: int, anew: bool) -> None:
    (installed.ROOT / "requirements.txt").write_text("tqdm\n")
    with pytest.raises(SystemExit, match="pip failed"):
        installed.prepare("app", cpu=False, run=Programs("pip", code=code))
    programs = Programs()
    installed.prepare("app", cpu=False, run=programs)
    assert programs.started("pip") and programs.started("venv") is anew  # killed, pip may have left half a package
    installed.prepare("app", cpu=False, run=(later := Programs()))
    assert later.commands == []


def test_cpu_build_comes_from_its_own_index_and_stays(installed: ModuleType) -> None:
    programs = Programs()
    python = str(installed.prepare("app", cpu=True, run=programs))
    wanted = ["--upgrade", "--index-url", "https://download.pytorch.org/whl/cpu", "torch>=2.8", "torchvision>=0.23"]
    assert programs.commands[1] == [python, "-m", "pip", "install", *wanted]
    later = Programs()
    for cpu in (True, False):
        installed.prepare("app", cpu=cpu, run=later)
    assert later.commands == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_checkout_says_so(run: ModuleType) -> None:
    run.ROOT.chmod(0o555)
    try:
        with pytest.raises(SystemExit, match="not writable"):
            run.prepare("app", cpu=False, run=Programs())
    finally:
        run.ROOT.chmod(0o755)


def test_unwritable_home_is_told(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("USERPROFILE", "/nonexistent")
    run.tell_unwritable_home()
    assert "/nonexistent is not writable" in capsys.readouterr().out


def test_a_taken_port_is_left_alone(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(run, "PORT", taken)
        assert run.choose_port("127.0.0.1") not in (0, taken)
        with pytest.raises(SystemExit, match=f"cannot listen at 127.0.0.1, port {taken}"):
            run.choose_port("127.0.0.1", taken)
    assert run.choose_port("127.0.0.1") == taken


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 65536), ("no.such.host.invalid", None)])
def test_impossible_places_are_refused(run: ModuleType, host: str, port: int | None) -> None:
    with pytest.raises(SystemExit, match="cannot listen"):
        run.choose_port(host, port)


def test_app_gets_port_host_and_further_arguments(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(run, "prepare", lambda kind, cpu: Path("PYTHON") if (kind, cpu) == ("app", True) else None)
    monkeypatch.setattr(run, "hand_over", lambda command: commands.append(command) or 0)
    monkeypatch.setattr(run, "choose_port", lambda host, port: port or 7860)
    assert run.main(["app", "--cpu", "--share", "--host", "0.0.0.0", "picture.jpg"]) == 0
    assert commands == [
        ["PYTHON", str(run.ROOT / "app.py"), "--port", "7860", "--host", "0.0.0.0", "--share", "picture.jpg"]
    ]
    assert capsys.readouterr().out.endswith("simpool_viz: http://127.0.0.1:7860\n")


@pytest.fixture
def machine(run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder on the PATH of an ordinary user who has no browser."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(run, "playwright_browser", lambda python: None)
    nobody(monkeypatch)
    return folder


@pytest.mark.skipif(os.name == "nt", reason="writes shell scripts")
def test_browser_order(run: ModuleType, machine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def find(run_programs: Programs | None = None) -> str | None:
        return run.find_browser(Path("PYTHON"), run_programs or Programs())

    assert find() is None
    root(monkeypatch, machine)
    programs = Programs("install")
    assert find(programs) is None and programs.commands[-1] == ["apt-get", "install", "-y", "chromium"]
    monkeypatch.setattr(run, "playwright_browser", lambda python: "/playwright/chrome")
    assert find() == "/playwright/chrome"
    chrome = executable(machine / "google-chrome", "true")
    assert find() == str(chrome)
    chromium = executable(machine / "chromium", "true")
    assert find() == str(chromium)
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "gone"))
    assert find() == str(chromium)
    named = executable(tmp_path / "mine", "true")
    monkeypatch.setenv("CHROMIUM", str(named))
    assert find() == str(named)


def test_playwright_browser_must_exist(run: ModuleType, tmp_path: Path) -> None:
    assert run.playwright_browser(tmp_path / "no-python") is None
    if os.name != "nt":
        assert run.playwright_browser(executable(tmp_path / "python", "echo /no/such/browser")) is None
        assert run.playwright_browser(executable(tmp_path / "python", f"echo {FILE}")) == str(FILE)


def test_required_browser_fails_before_the_tests(run: ModuleType, machine: Path) -> None:
    programs = Programs()
    with pytest.raises(SystemExit, match="the browser tests cannot run, since no browser was found: install Chromium"):
        run.run_tests(Path("PYTHON"), True, [], programs)
    assert programs.commands == []


def test_playwright_that_does_not_start_is_told_and_mended_by_root(
    run: ModuleType, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMIUM", sys.executable)
    with pytest.raises(SystemExit, match=r"PYTHON -m playwright --version fails: .* libatomic1"):
        run.run_tests(Path("PYTHON"), True, [], Programs("playwright"))
    root(monkeypatch, machine)
    programs = Programs("playwright")
    assert not run.driver_starts(Path("PYTHON"), programs)
    assert programs.commands[2] == ["apt-get", "install", "-y", "libatomic1"] and programs.started("playwright")


def test_without_browser_its_tests_are_skipped_and_the_last_line_says_so(
    run: ModuleType, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = Programs("pytest", code=5)
    assert run.run_tests(Path("PYTHON"), False, [], programs) == 5
    assert programs.commands == [
        ["PYTHON", "-m", "ruff", "check", "."],
        ["PYTHON", "-m", "ruff", "format", "--check", "."],
        ["PYTHON", "-m", "mypy"],
        ["PYTHON", "-m", "pytest", "-m", "not browser", "-n", "2", "--dist", "loadfile"],
    ]
    assert "were skipped, since no browser was found: install Chromium" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("codes", [[1, 0], [0, 1], [1, 1], [0, 0]])
def test_a_failure_in_either_part_of_the_suite_fails_the_run(
    run: ModuleType, machine: Path, monkeypatch: pytest.MonkeyPatch, codes: list[int]
) -> None:
    monkeypatch.setenv("CHROMIUM", sys.executable)
    left = codes.copy()

    def pytest_ends(command: list[str], **_: object) -> int:
        return left.pop(0) if "pytest" in command else 0

    assert run.run_tests(Path("PYTHON"), True, [], pytest_ends) == max(codes)
    assert not left  # both parts ran


def test_browser_and_arguments_reach_pytest(run: ModuleType, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMIUM", sys.executable)
    programs = Programs()
    assert run.run_tests(Path("PYTHON"), True, ["-k", "board"], programs) == 0
    # A selection is for a quick look: no linter.
    assert programs.commands[1:] == [["PYTHON", "-m", "pytest", "-k", "board"]]
    assert programs.environments[1] is not None and programs.environments[1]["CHROMIUM"] == sys.executable


@pytest.mark.parametrize("tool", ["ruff", "mypy"])
def test_faults_of_the_linter_stop_the_tests(run: ModuleType, machine: Path, tool: str) -> None:
    programs = Programs(tool)
    with pytest.raises(SystemExit, match=f"`{tool}.* found the faults above"):
        run.run_tests(Path("PYTHON"), False, [], programs)
    assert not programs.started("pytest")


def test_command_line_keeps_pytests_own_options(run: ModuleType) -> None:
    options, rest = run.parse(["test", "-x", "--require-browser", "tests/test_run.py", "--co", "-k", "cpu and not app"])
    assert options.require_browser and not options.cpu
    assert rest == ["-x", "tests/test_run.py", "--co", "-k", "cpu and not app"]
    with pytest.raises(SystemExit):
        run.parse([])

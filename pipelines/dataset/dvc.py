"""Run DVC and git through their command lines, one writer at a time, with the present Python interpreter.

DVC's stages run `sh launch ...`, which starts FleetLoop with the interpreter that is set here. A second writer waits for
the lock and is then refused with the holder's pid (measured: of four concurrent `dvc add`, two failed). DVC's usage
statistics and update checks are off. Git runs nothing that is in the workspace: no hook, file monitor or filter; and the
git executable itself is looked up outside of it. (dvc.yaml is code, which only `repro` runs.)
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.documents import decode
from foundation.errors import FleetLoopError, MisconfiguredError
from foundation.files import FileLock, write_atomic
from foundation.full_disk import DiskError, disk_of
from foundation.private import make_private
from workspace.layout import Workspace

COMMAND_TIMEOUT_S = 6 * 3600.0
_LAST_LINES = 20
REMOTE_NAME = "local"
_CONFIG = """\
[core]
    remote = {name}
    analytics = false
    check_update = false
['remote "{name}"']
    url = {place}
"""
_PRIVATE_KEY = b"PRIVATE KEY-----"
_PROGRAMS = re.compile(r"filter\..+|(commit|tag)\.gpgsign", re.IGNORECASE | re.DOTALL)
"""Settings of a repository that can make the git commands of this module run a program, besides hooks and the monitor."""
_REMOTE = re.compile(r"(remote\..+)\.[^.]+", re.IGNORECASE | re.DOTALL)
_AUTOSTAGE = re.compile(
    r"""^\s*["']?autostage["']?\s*=(?!\s*(?:false|no|off|0)\s*$)""", re.IGNORECASE | re.MULTILINE
)
"""With autostage DVC adds files to git through a library that runs the repository's filters whatever git's settings."""
PYTHON_VARIABLE = "FLEETLOOP_PYTHON"
"""The variable in which `launch` finds the Python that called DVC."""
GIT_NAME, GIT_MAIL = "FleetLoop", "fleetloop@localhost"
"""Git identity if the user has not configured one."""


OnLine = Callable[[str], object]


class CommandFailedError(FleetLoopError):
    """A git or DVC command failed; the message has the end of its output."""


class CommandDiskError(CommandFailedError, DiskError):
    """A git or DVC command failed because the disk refused."""


@dataclass(frozen=True, slots=True)
class DvcRepository:
    """The workspace as a git and DVC repository."""

    workspace: Workspace

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the writer's lock. Raises RetryLaterError if another process holds it for longer than lock_wait_s."""
        self.workspace.private_path.mkdir(exist_ok=True)
        with FileLock(self.workspace.private_path / "dvc.lock", wait_s=self.workspace.settings.lock_wait_s):
            yield

    def dvc(self, *arguments: str, on_line: OnLine | None = None) -> str:
        """Run `dvc ARGUMENTS` in the workspace and return its output; `on_line` gets each line as it comes."""
        self._refuse_autostage()
        return self._run([sys.executable, "-P", "-m", "dvc", *arguments], on_line=on_line)

    def dvc_status(self) -> Mapping[str, Any]:
        """Return what differs from dvc.lock, by stage, as `dvc status --json` reports it."""
        self._refuse_autostage()
        said = self._asked([sys.executable, "-P", "-m", "dvc", "status", "--json"])
        return decode(dict[str, Any], said, "dvc status")

    def git(self, *arguments: str) -> str:
        """Run `git ARGUMENTS` in the workspace with fsync enabled and return its output."""
        return self._run([*self._git(), "-c", "core.fsync=all", *arguments])

    def repro(self, *stages: str, on_line: OnLine | None = None) -> str:
        """Run `dvc repro` for the stages, or for all, under the writer's lock."""
        with self.writing():
            self.remember_python()
            return self.dvc("repro", *stages, on_line=on_line)

    def commit_git(self, message: str, paths: Sequence[str], exclude: Sequence[str] = ()) -> None:
        """Commit the changes in these files and folders, if there are any, except ignored files.

        `exclude` holds further pathspecs, such as ":(exclude)keys".

        Raises:
            MisconfiguredError: a file to be committed holds a private key; nothing was committed.
        """
        where = [*paths, *exclude]
        listed = self._names("ls-files", "--modified", "--others", "--exclude-standard", "-z", "--", *where)
        for name in listed:
            self._refuse_private_key(name)
        if listed:
            self.git("--literal-pathspecs", "add", "--", *listed)
        staged = self._names("diff", "--cached", "--name-only", "--no-renames", "-z", "--", *where)
        if staged:
            words = ("commit", "--quiet", "--message", message)
            self.git(*self._identity(), "--literal-pathspecs", *words, "--", *staged)

    def begin(self, remote: Path) -> None:
        """Create the git and DVC repositories if they are missing, with `remote` as DVC's default remote.

        DVC's configuration is written directly, because four calls of DVC would take 6 s.

        Raises MisconfiguredError if git or DVC is not installed, or if the repository has git filters, which `dvc init`
        would run; nothing is created then.
        """
        if importlib.util.find_spec("dvc") is None:
            raise MisconfiguredError(
                "dvc is not installed here; a workspace needs: pip install 'fleetloop[cloud]'"
            )
        root = self.workspace.root
        if not (root / ".git").exists():
            self.git("init", "--quiet", "--initial-branch", "main")
        config = root / ".dvc" / "config"
        if not config.is_file():
            filters = [name for name, _ in self._overrides() if name.lower().startswith("filter.")]
            if filters:
                raise MisconfiguredError(
                    f"{root / '.git' / 'config'} sets {filters[0]}, a program that `dvc init` would run: remove it first"
                )
            self.dvc("init", "--quiet", "--force")
        if "[core]" not in config.read_text():
            make_private(remote)
            place = os.path.relpath(remote.resolve(), config.parent)
            write_atomic(config, _CONFIG.format(name=REMOTE_NAME, place=place).encode())

    def remote_folder(self) -> Path | None:
        """Return the folder that DVC pushes to, if it is a local folder."""
        config = self.workspace.root / ".dvc" / "config"
        match = re.search(rf"\['remote \"{REMOTE_NAME}\"'\]\s+url = (\S.*)", config.read_text())
        place = (config.parent / match[1].strip()) if match is not None else None
        return place.resolve() if place is not None and place.is_dir() else None

    def has_commit(self) -> bool:
        """Return whether git has a commit."""
        return self._status([*self._git(), "rev-parse", "--verify", "--quiet", "HEAD"]) == 0

    def tag(self, name: str, message: str) -> None:
        """Tag the newest commit."""
        self.git(*self._identity(), "tag", "--annotate", "--message", message, name)

    def environment(self) -> dict[str, str]:
        """Return the environment of git, DVC and the stages: this interpreter first on PATH, nothing from the workspace.

        Settings in the workspace's git configuration that run programs are overridden, for all git processes below.
        """
        source = str(Path(__file__).resolve().parents[2])
        python_path = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
        quiet = {"DVC_NO_ANALYTICS": "1", "GX_ANALYTICS_ENABLED": "false", "GIT_TERMINAL_PROMPT": "0"}
        settings = self._overrides()
        first = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
        overrides = {"GIT_CONFIG_COUNT": str(first + len(settings)), "GIT_NO_LAZY_FETCH": "1"}
        for number, (name, value) in enumerate(settings, first):
            overrides |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        return {
            **os.environ,
            **quiet,
            **overrides,
            "GIT_ALLOW_PROTOCOL": "none",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), *self._path()]),
            "PYTHONPATH": os.pathsep.join(python_path),
            PYTHON_VARIABLE: sys.executable,
        }

    def remember_python(self) -> None:
        """Store the path of this interpreter for a `dvc repro` that is started without FleetLoop."""
        path = self.workspace.private_path / "python"
        text = f"{sys.executable}\n"
        if not path.is_file() or path.read_text() != text:
            write_atomic(path, text.encode())

    def _path(self) -> list[str]:
        """Return the entries of PATH that are absolute and outside the workspace, which may be another person's."""
        root = self.workspace.root.resolve()
        entries = [Path(entry) for entry in os.environ.get("PATH", os.defpath).split(os.pathsep) if entry]
        return [
            str(entry)
            for entry in entries
            if entry.is_absolute() and not entry.resolve().is_relative_to(root)
        ]

    def _git(self) -> list[str]:
        """Return the first arguments of a git command. Raises MisconfiguredError if git is not installed."""
        program = self._git_program()
        if program is None:
            raise MisconfiguredError("git is not installed; run `fleetloop doctor`")
        return [program]

    def _git_program(self) -> str | None:
        return shutil.which("git", path=os.pathsep.join(self._path()))

    def _overrides(self) -> tuple[tuple[str, str], ...]:
        """Return git settings as name and value; see `_harmless`."""
        program = self._git_program()
        return _harmless(program, self.workspace.root) if program is not None else ()

    def _refuse_autostage(self) -> None:
        """Raise MisconfiguredError if the workspace enables core.autostage of DVC."""
        for name in ("config", "config.local"):
            path = self.workspace.root / ".dvc" / name
            if path.is_file() and _AUTOSTAGE.search(path.read_text(errors="replace")):
                raise MisconfiguredError(
                    f"{path} sets core.autostage, under which DVC runs git filters: remove the line"
                )

    def changes(self) -> list[str]:
        """Return the changed and untracked paths of the workspace; empty if it is clean."""
        fields = self._asked(
            [*self._git(), "status", "--porcelain", "--no-renames", "--ignore-submodules=all", "-z"]
        ).split("\0")
        return sorted(field[3:] for field in fields if field)

    def _names(self, *arguments: str) -> list[str]:
        """Return the file names that a git command lists with -z, without duplicates."""
        return sorted(set(filter(None, self._asked([*self._git(), *arguments]).split("\0"))))

    def _refuse_private_key(self, name: str) -> None:
        path = self.workspace.root / name
        if path.is_file() and _PRIVATE_KEY in path.read_bytes():
            raise MisconfiguredError(
                f"{path} holds a private key, which would be committed to git: move it to {self.workspace.keys_path}"
            )

    def _identity(self) -> list[str]:
        if self._status([*self._git(), "config", "user.email"]) == 0:
            return []
        return ["-c", f"user.name={GIT_NAME}", "-c", f"user.email={GIT_MAIL}"]

    def _status(self, command: list[str]) -> int:
        done = subprocess.run(
            command,
            cwd=self.workspace.root,
            env=self.environment(),
            capture_output=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
        return done.returncode

    def _asked(self, command: list[str]) -> str:
        """Return the standard output only, for parsing; warnings go to standard error."""
        done = subprocess.run(
            command,
            cwd=self.workspace.root,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
        if done.returncode != 0:
            raise self._failed(command, done.returncode, done.stderr.splitlines(keepends=True))
        return done.stdout

    def _run(self, command: list[str], *, on_line: OnLine | None = None) -> str:
        try:
            process = subprocess.Popen(
                command,
                cwd=self.workspace.root,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except FileNotFoundError as error:
            raise MisconfiguredError(f"{command[0]} is not installed; run `fleetloop doctor`") from error
        lines: list[str] = []
        with process:
            assert process.stdout is not None  # noqa: S101
            try:
                for line in process.stdout:
                    lines.append(line)
                    if on_line is not None:
                        on_line(line.rstrip("\n"))
                status = process.wait(COMMAND_TIMEOUT_S)
            except BaseException:
                process.terminate()
                raise
        if status != 0:
            raise self._failed(command, status, lines)
        return "".join(lines)

    def _failed(self, command: list[str], status: int, lines: list[str]) -> CommandFailedError:
        words = "".join(lines[-_LAST_LINES:]).strip()
        shown = shlex.join([Path(command[0]).name, *command[1:]])
        told = f"`{shown}` ended with exit status {status}: {words}"
        if disk := disk_of("".join(lines), self.workspace.root):
            return CommandDiskError(f"{disk}: {told}")
        return CommandFailedError(told)


def _harmless(program: str, root: Path) -> tuple[tuple[str, str], ...]:
    """Return git settings (name, value) that disable every program named in the workspace's git configuration.

    A remote gets the default uploadpack, because with an empty one git would run the remote's address.
    """
    settings = {"core.hooksPath": "/dev/null", "core.fsmonitor": "false"}
    words = [program, "-c", "core.fsmonitor=false", "config", "--list", "--name-only", "--show-scope", "-z"]
    fields = subprocess.run(
        words, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
    ).stdout.split("\0")
    for scope, name in zip(fields[::2], fields[1::2], strict=False):
        if scope not in ("local", "worktree"):
            continue
        if _PROGRAMS.fullmatch(name):
            settings[name] = "false" if name.lower().endswith(("gpgsign", "required")) else ""
        elif remote := _REMOTE.fullmatch(name):
            settings |= {f"{remote[1]}.promisor": "false", f"{remote[1]}.uploadpack": "git-upload-pack"}
    return tuple(settings.items())

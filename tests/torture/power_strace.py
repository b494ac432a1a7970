"""What a real process did to its files, by strace: every write with its bytes, every fsync, every change of a name.

A forked child waits until strace has attached, so that its imports are neither recorded nor counted. With `inject`,
strace makes the n-th call of a kind fail without carrying it out (Linux fault injection).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.torture.power_disk import PowerLossDisk
from tests.torture.power_tape import Call, Mark

TRACED = (
    "open,openat,creat,write,writev,pwrite64,pwritev,pwritev2,sendfile,copy_file_range,fsync,fdatasync,ftruncate,truncate,"
    "lseek,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,dup,dup2"
)
MAX_BYTES = 4_000_000
_LINE = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+|\?)(<[^>]*>)?.*$")
_ESCAPED = re.compile(r'^["<]?((?:\\x[0-9a-f]{2})*)')
_ESCAPED_ANYWHERE = re.compile(r'("(?:\\x[0-9a-f]{2})*")')
_HERE = re.compile(r"AT_FDCWD<([^>]*)>")
_BY_PATH = ("rename", "link", "unlink", "rmdir", "mkdir", "symlink")
"""Calls whose relative names begin at the folder in which the thread is: that is put behind their arguments."""
_ATTACH_S = 20.0


def needs() -> str | None:
    """Why nothing can be traced here, or None."""
    if shutil.which("strace") is None:
        return "needs strace"
    done = subprocess.run(
        ["strace", "-o", os.devnull, "-e", "inject=fsync:error=EIO:when=1", "true"],
        capture_output=True,
        check=False,
    )
    return None if done.returncode == 0 else "needs the right to trace processes (ptrace)"


@dataclass(frozen=True, slots=True)
class Injection:
    """The `when`-th call of `call` on one of `paths` fails with `error`."""

    call: str
    error: str
    when: int
    paths: tuple[str, ...] = ()
    cleaning: bool = False
    """Whether the calls that would clean up after it (ftruncate, unlink) fail as well."""


def traced_child(
    work: Callable[[], None], log: Path, *, injection: Injection | None = None, limit_s: float = 60.0
) -> int:
    """Run `work` in a forked child under strace; its wait status. The log is complete when this returns."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        status = 70
        try:
            os.close(write_end)
            os.read(read_end, 1)
            work()
            status = 0
        except BaseException:
            import traceback

            log.with_suffix(".error").write_text(traceback.format_exc())
        finally:
            os._exit(status)
    os.close(read_end)
    command = ["strace", "-f", "-y", "-xx", "-s", str(MAX_BYTES), "-o", str(log), "-e", f"trace={TRACED}"]
    if injection is not None:
        command += ["-e", f"inject={injection.call}:error={injection.error}:when={injection.when}"]
        if injection.cleaning:
            command += ["-e", f"inject=ftruncate,unlink,unlinkat:error={injection.error}:when=1+"]
        for path in injection.paths:
            command += ["-P", path]
    tracer = subprocess.Popen([*command, "-p", str(child)], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        _wait_until_attached(child)
        os.write(write_end, b"x")
        os.close(write_end)
        return _wait(child, limit_s)
    finally:
        try:
            tracer.wait(10.0)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.wait()
        assert tracer.stderr is not None
        tracer.stderr.close()


def traced_command(command: list[str], log: Path, *, limit_s: float) -> int:
    """Run a command under strace, with all that it starts (for libraries that do not survive a fork)."""
    options = [
        "-f",
        "--seccomp-bpf",
        "-y",
        "-xx",
        "-s",
        str(MAX_BYTES),
        "-o",
        str(log),
        "-e",
        f"trace={TRACED}",
    ]
    with log.with_suffix(".error").open("wb") as errors:
        done = subprocess.run(
            ["strace", *options, *command], stdout=errors, stderr=errors, check=False, timeout=limit_s
        )
    return done.returncode


def _wait_until_attached(child: int) -> None:
    until = time.monotonic() + _ATTACH_S
    while time.monotonic() < until:
        status = Path(f"/proc/{child}/status").read_text()
        if "TracerPid:\t0\n" not in status:
            time.sleep(0.02)  # seized; the options are set right after
            return
        time.sleep(0.002)
    raise TimeoutError(f"strace was not attached within {_ATTACH_S} s")


def _wait(child: int, limit_s: float) -> int:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(f"the traced child was not done after {limit_s} s")


def read_log(
    log: Path, disk: PowerLossDisk, told: Path | None = None, folder: Path | None = None
) -> Iterator[Call | Mark]:
    """The calls below the disk's root, in order; what was written to the file `told` are marks, a line each.

    `folder` is where relative names begin, as long as a thread did not say where it is.

    Raises ValueError for a call that this cannot play back.
    """
    offsets: dict[str, int] = {}
    appends: set[str] = set()
    folders: dict[str, str] = {}
    for line in _whole(log):
        thread, _, _ = line.partition(" ")
        if (here := _HERE.search(line)) is not None:
            folders[thread] = _text(here[1])
        match = _LINE.match(line)
        if match is None or match[3] == "?":
            continue
        call, result = match[1], int(match[3])
        arguments = _split(match[2])
        if result < 0 and call not in ("fsync", "fdatasync"):
            continue
        if call in _BY_PATH:
            arguments = [*arguments, folders.get(thread, str(disk.root if folder is None else folder))]
        yield from _played(call, arguments, result, match[4] or "", disk, offsets, appends, str(told))


def _played(
    call: str,
    arguments: list[str],
    result: int,
    opened: str,
    disk: PowerLossDisk,
    offsets: dict[str, int],
    appends: set[str],
    told: str,
) -> Iterator[Call | Mark]:
    if call in ("open", "openat", "creat"):
        at = 1 if call == "openat" else 0
        path, flags = _text(opened), arguments[at + 1] if len(arguments) > at + 1 else ""
        key = f"{result}<{path}>"
        offsets[key] = 0
        (appends.add if "O_APPEND" in flags else appends.discard)(key)
        if disk.covers(path) and "O_TMPFILE" in flags:
            raise ValueError(f"{path} is opened without a name")
        if disk.covers(path) and ("O_CREAT" in flags or "O_TRUNC" in flags):
            yield Call("opened", (path, "O_TRUNC" in flags))
        return
    if call in ("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "copy_file_range", "lseek"):
        number, path = _descriptor(arguments[0] if call != "copy_file_range" else arguments[2])
        key = f"{number}<{path}>"
        if path == told:
            written = match[1] if (match := _ESCAPED_ANYWHERE.search(" ".join(arguments[1:]))) else ""
            for mark in _bytes(written).decode().splitlines():
                yield Mark((mark,))
            return
        if not disk.covers(path):
            return
        if call == "lseek":
            offsets[key] = result
            return
        if call == "sendfile":
            _, source = _descriptor(arguments[1])
            source_begin = int(re.sub(r"[^0-9].*", "", arguments[2].strip("[")) or 0)
            yield Call("copied", (path, source, offsets.get(key, 0), source_begin, result))
            offsets[key] = offsets.get(key, 0) + result
            return
        if call not in ("write", "pwrite64"):
            raise ValueError(f"{call} to {path} cannot be played back")
        data = _bytes(arguments[1])[:result]
        begin: int | None = offsets.get(key, 0)
        if call == "pwrite64":
            begin = int(arguments[3])
        elif key in appends:
            begin = None
        else:
            offsets[key] = offsets.get(key, 0) + result
        yield Call("wrote", (path, data, begin))
        return
    if call in ("fsync", "fdatasync"):
        _, path = _descriptor(arguments[0])
        if disk.covers(path):
            yield Call("synced" if result == 0 else "sync_failed", (path,))
    elif call == "ftruncate":
        _, path = _descriptor(arguments[0])
        if disk.covers(path):
            yield Call("truncated", (path, int(arguments[1])))
    else:
        yield from _named(call, arguments, disk, offsets, appends)


def _named(
    call: str, arguments: list[str], disk: PowerLossDisk, offsets: dict[str, int], appends: set[str]
) -> Iterator[Call]:
    """Calls that change names."""
    if call in ("rename", "renameat", "renameat2", "link", "linkat"):
        source, target = (
            (_path(arguments[-1], arguments[0]), _path(arguments[-1], arguments[1]))
            if call in ("rename", "link")
            else (_path(arguments[0], arguments[1]), _path(arguments[2], arguments[3]))
        )
        if disk.covers(source) and disk.covers(target):
            yield Call("hard_linked" if "link" in call else "renamed", (source, target))
            if "link" not in call:
                _moved(source, target, offsets, appends)
        elif disk.covers(source) or disk.covers(target):
            raise ValueError(f"{call} from {source} to {target} leaves the folder under test")
    elif call in ("unlink", "rmdir", "unlinkat"):
        path = _path(arguments[0], arguments[1]) if call == "unlinkat" else _path(arguments[-1], arguments[0])
        if disk.covers(path):
            yield Call("unlinked", (path,))
    elif call in ("mkdir", "mkdirat"):
        path = _path(arguments[0], arguments[1]) if call == "mkdirat" else _path(arguments[-1], arguments[0])
        if disk.covers(path):
            yield Call("made_folder", (path,))
    elif call in ("symlink", "symlinkat"):
        path = (
            _path(arguments[1], arguments[2]) if call == "symlinkat" else _path(arguments[-1], arguments[1])
        )
        if disk.covers(path):
            yield Call("linked", (path, _text(arguments[0])))


def _moved(source: str, target: str, offsets: dict[str, int], appends: set[str]) -> None:
    """A descriptor that is open follows its file to the new name."""
    for key in [key for key in offsets if key.endswith(f"<{source}>")]:
        new = key.replace(f"<{source}>", f"<{target}>")
        offsets[new] = offsets.pop(key)
        (appends.add if key in appends else appends.discard)(new)


def _whole(log: Path) -> Iterator[str]:
    """Lines of the log, with calls that another thread interrupted put together again."""
    begun: dict[str, str] = {}
    with log.open(encoding="ascii") as file:
        for line in file:
            thread, _, rest = line.rstrip("\n").partition(" ")
            rest = rest.strip()
            if rest.endswith("<unfinished ...>"):
                begun[thread] = rest.removesuffix("<unfinished ...>").rstrip()
            elif rest.startswith("<... "):
                yield f"{thread} {begun.pop(thread, '')}{rest.partition('resumed>')[2]}"
            else:
                yield f"{thread} {rest}"


def _split(arguments: str) -> list[str]:
    """Arguments; with -xx no text holds a comma or a bracket of its own."""
    return [part.strip() for part in arguments.split(", ")]


def _text(escaped: str) -> str:
    return os.fsdecode(_bytes(escaped))


def _bytes(escaped: str) -> bytes:
    """Of `"\\x61\\x62"` or `<\\x61\\x62>(deleted)`."""
    match = _ESCAPED.match(escaped.strip())
    return bytes.fromhex(match[1].replace("\\x", "")) if match is not None else b""


def _descriptor(argument: str) -> tuple[int, str]:
    number, _, path = argument.partition("<")
    return int(number), _text(path)


def _path(folder: str, argument: str) -> str:
    path = _text(argument)
    if path.startswith("/"):
        return os.path.normpath(path)
    if folder.startswith("/"):
        return os.path.normpath(str(Path(folder) / path))
    return os.path.normpath(str(Path(_text(folder.partition("<")[2])) / path))

"""Says which files a traced process opened that it had no business to open. Imports nothing of the product."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

TRACED = "open,openat,openat2,creat,readlink,readlinkat,execve,execveat,memfd_create,truncate"
_CALL = re.compile(r"\b(open|openat|openat2|creat|truncate|execve|execveat)\((.*)$")
_PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')


def opened(trace: str, folder: Path) -> list[Path]:
    """Every path in a trace of strace that was opened with success, made absolute from `folder` and free of dots."""
    found = []
    for line in trace.splitlines():
        call = _CALL.search(line)
        if call is None or " = -1 " in line or "unfinished" in line:
            continue
        path = _PATH.search(call.group(2))
        if path is not None:
            found.append(Path(os.path.normpath(folder / path.group(1).encode().decode("unicode_escape"))))
    return found


def strangers(paths: Iterable[Path], allowed: Iterable[Path]) -> list[Path]:
    """Those that are neither one of the allowed files nor below one of the allowed folders, each once."""
    allow = list(allowed)
    return sorted(
        {path for path in paths if not any(path == one or path.is_relative_to(one) for one in allow)}
    )

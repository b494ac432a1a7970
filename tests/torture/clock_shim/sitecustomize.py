"""Python starts with this when its folder is on the path: the wall clock of the process is off by what a file says.

`TORTURE_CLOCK_OFF_NS` names a file of 8 bytes, a signed number of nanoseconds that may change at any time.
"""

import mmap
import os
import struct
import time

_path = os.environ.get("TORTURE_CLOCK_OFF_NS")
if _path:
    with open(_path, "rb") as _file:  # noqa: PTH123 - pathlib would cost every process its import
        _shared = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)
    _real_ns = time.time_ns

    def _off_ns() -> int:
        off_ns: int = struct.unpack("<q", _shared[:8])[0]
        return off_ns

    time.time_ns = lambda: _real_ns() + _off_ns()
    time.time = lambda: (_real_ns() + _off_ns()) / 1e9

"""Notify the service manager (systemd's notification protocol, sd_notify(3)) that a service is ready and alive.

Outside of such a service nothing is sent. A service manager that cannot be reached is no reason to stop.
"""

from __future__ import annotations

import faulthandler
import io
import os
import socket
from collections.abc import Callable
from contextlib import suppress

READY = "READY=1"
ALIVE = "WATCHDOG=1"
BEAT_EVERY_S = 10.0
"""The longest wait without a sign of life."""


def notify(state: str) -> bool:
    """Send one state; return False when there is no service manager, or it could not be sent."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # an abstract socket of Linux
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto(state.encode(), address)
    except OSError:
        return False
    return True


def print_threads_on_abort() -> None:
    """Let SIGABRT, which a watchdog sends, print where each thread was; nothing without a file behind standard error."""
    with suppress(io.UnsupportedOperation):
        faulthandler.enable()


def wait_alive(wait: Callable[[float], object], seconds: float) -> None:
    """Call `wait` with pieces of `seconds`, and tell the service manager before each that this loop goes round.

    The loop itself tells, never a timer thread: a loop that hangs between two calls must fall silent.
    """
    notify(ALIVE)
    while seconds > 0:
        piece_s = min(seconds, BEAT_EVERY_S)
        wait(piece_s)
        notify(ALIVE)
        seconds -= piece_s

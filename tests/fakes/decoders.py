"""Public fakes: a task for confined processes whose items say what they do to the process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pipelines.curate.picture import Measured, measured


@dataclass(frozen=True, slots=True)
class Told:
    """The answer: the item's text."""

    text: str


def obey(data: bytes) -> Told:
    """Do what the first word of the item says; any other item is answered with its text."""
    word, _, rest = data.decode().partition(" ")
    match word:
        case "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "leave":
            os._exit(3)
        case "spin":
            while True:
                pass
        case "sleep":
            signal.pause()
        case "hog":
            bytearray(10 * 2**30)
        case "fail":
            raise AssertionError(rest)
        case "flood":
            return Told("a" * 10**6)
        case "connect":
            socket.create_connection(("127.0.0.1", int(rest)))
        case "write":
            Path(rest).write_text("written", encoding="utf-8")
        case "run":
            subprocess.run([rest], check=False)
        case "die-once":  # what an earlier item did to the process shows at a later one only
            if not Path(rest).exists():
                os.kill(os.getpid(), signal.SIGSEGV)
    return Told(data.decode())


def measured_unless_it_kills(payload: bytes) -> Measured:
    """As curation's own task, but a picture that ends with these words ends the process."""
    if payload.endswith(b"ends the process"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return measured(payload)

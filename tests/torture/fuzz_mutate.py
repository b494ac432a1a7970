"""Seeded changes of real bytes and real text: the same seed gives the same case. Imports nothing of the product."""

from __future__ import annotations

import random
from collections.abc import Sequence

_ENDS = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff" * 9 + b"\x01", b"\xfe" * 10, b"\x00" * 8)
HOSTILE = (
    "1e999", "-1", "0", "9" * 5000, "0x" + "f" * 5000, "nan", "inf", "true", '""', '"\\u0000"', '"\\ud800"', "[]", "{}",
    "-9223372036854775809", "1.5", '"' + "a" * 70_000 + '"', "[" * 300 + "]" * 300, "1979-05-27T07:32:00Z", '"../../etc"',
    "[1, 2, 3]", '{"a" = 1}', "null", '"\\U0010ffff"', "'''x'''", "1_000", "0b1", "+1", "1e-999", '"1"', "2024-13-45",
)  # fmt: skip


def mutated(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """One to five changes: flips, cuts, insertions, repetitions, pieces of another file."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(8):
            case 0 if found:
                found[at % len(found)] ^= 1 << rng.randrange(8)
            case 1:
                del found[at:]
            case 2:
                del found[at : at + rng.randint(1, 40)]
            case 3:
                found[at:at] = rng.randbytes(rng.randint(1, 40))
            case 4:
                found[at:at] = rng.choice(_ENDS)
            case 5:
                found[at:at] = bytes(found[at : at + rng.randint(1, 200)]) * rng.randint(1, 4)
            case 6:
                other = rng.choice(others)
                begin = rng.randrange(len(other) + 1)
                found[at : at + rng.randint(0, 60)] = other[begin : begin + rng.randint(0, 200)]
            case _ if found:
                found[at % len(found)] = rng.randrange(256)
    return bytes(found[:1_000_000])


def mutated_text(text: str, rng: random.Random) -> str:
    """One to three values or names replaced by hostile ones, or a change of its characters."""
    lines = text.splitlines()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        line = lines[at]
        match rng.randrange(6):
            case 0 | 1 if "=" in line:
                lines[at] = f"{line.partition('=')[0]}= {rng.choice(HOSTILE)}"
            case 0 | 1 | 2 if ":" in line:
                end = "," if line.rstrip().endswith(",") else ""
                lines[at] = f"{line.partition(':')[0]}: {rng.choice(HOSTILE)}{end}"
            case 3:
                del lines[at]
                lines = lines or [""]
            case 4:
                lines.insert(at, rng.choice(lines))
            case _:
                begin = rng.randrange(len(line) + 1)
                lines[at] = (
                    line[:begin]
                    + rng.choice((*HOSTILE[:20], "\x00", "]", "[x]", "\ufeff", "#"))
                    + line[begin:]
                )
    return "\n".join(lines)

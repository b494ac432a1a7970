"""Text from outside as a person may see it: nothing in it drives a terminal, hides, or reorders what stands beside it."""

from __future__ import annotations

import re
import unicodedata

MAX_CHARACTERS = 4000
"""A longer text loses its end: one value never pushes everything else off the screen."""
_SEEN_AS_CODE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that are escaped: control (C0, DEL, C1), format (bidirectional, zero-width, tags), surrogates,
private use, unassigned, and separators of lines and paragraphs."""
_PLAIN = re.compile(r"[ -~]*\Z")


def printable(value: object, *, most: int = MAX_CHARACTERS) -> str:
    r"""Return the text of `value` on one line, with every character that is not visible text as its escape, such as \x1b.

    A backslash stays a backslash: the result is for people, not for reading back.
    """
    text = str(value)
    if len(text) > most:
        text = f"{text[:most]} ... ({len(text):,} characters)"
    if _PLAIN.match(text):
        return text
    return "".join(_escaped(each) if unicodedata.category(each) in _SEEN_AS_CODE else each for each in text)


def printable_lines(value: object, *, most: int = MAX_CHARACTERS) -> str:
    """Return the text of `value` as `printable`, in the lines that it has; those after the first are indented.

    For messages of our own, such as the end of a program's output; a value inside cannot look like a message beside them.
    """
    first, *others = str(value).splitlines() or [""]
    return "\n".join((printable(first, most=most), *(f"  {printable(line, most=most)}" for line in others)))


def _escaped(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"

"""Resolve the address of a lake, which must be a local folder: a path or a file: URI.

Object stores are refused, because a commit relies on rename without overwriting, on locks and on fsync.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from foundation.errors import MisconfiguredError

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/")
_HERE = ("", "localhost")


def local_folder(address: str | Path) -> Path:
    """Return the folder of an address: a path taken literally ("%20" is three characters), or a file: URI, decoded.

    Raises MisconfiguredError for another scheme, another host, or text that cannot be a path.
    """
    text = str(address)
    scheme = _SCHEME.match(text)
    if "\0" in text:
        raise MisconfiguredError(f"lake address {text!r} holds a NUL character, which no path may")
    if scheme is None:
        return Path(text)
    parts = urlsplit(text)
    if scheme[1].lower() != "file" or parts.netloc not in _HERE or parts.query or parts.fragment:
        raise MisconfiguredError(
            f"lake address {text} is not a local folder; only local folders are supported (a path, or file:///PATH)"
        )
    return Path(unquote(parts.path))

"""Where a lake may be: a folder of this machine, named by a path or by a file: address. Anything else is refused by name.

Why no object store: a commit relies on rename without overwriting, on locks and on fsync, which those do not have.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from foundation.errors import MisconfiguredError

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/")
_HERE = ("", "localhost")


def local_folder(address: str | Path) -> Path:
    """The folder that `address` names: a path as it stands ("%20" are three characters of it), or a file: address, whose
    escapes are decoded.

    Raises MisconfiguredError for any other scheme, for another machine's file and for what cannot be a path.
    """
    text = str(address)
    scheme = _SCHEME.match(text)
    if "\0" in text:
        raise MisconfiguredError(f"lake address {text!r} holds a NUL, which no folder's name can")
    if scheme is None:
        return Path(text)
    parts = urlsplit(text)
    if scheme[1].lower() != "file" or parts.netloc not in _HERE or parts.query or parts.fragment:
        raise MisconfiguredError(
            f"lake address {text} is not a local folder; only local folders are supported (a path, or file:///PATH)"
        )
    return Path(unquote(parts.path))

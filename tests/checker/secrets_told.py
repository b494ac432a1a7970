"""Says where a secret was told. Imports nothing of the product: it searches bytes for a secret in any usual spelling."""

from __future__ import annotations

import base64
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote


def spellings(secret: bytes) -> set[bytes]:
    """As it is, quoted for a URL, in hex, and in base64 at each of its three alignments."""
    found = {secret, quote(secret).encode(), secret.hex().encode(), secret.hex().upper().encode()}
    for shift in range(3):
        text = base64.b64encode(bytes(shift) + secret)
        found.add(text[4:-4] if shift else text.rstrip(b"=")[:-1])
    return {each for each in found if len(each) >= 8}


def everything_in(folder: Path, but_not: frozenset[Path] = frozenset()) -> Iterator[tuple[str, bytes]]:
    """Each file below a folder with its bytes; of an archive such as a wheel, each member."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink() or path in but_not:
            continue
        yield str(path.relative_to(folder)), path.read_bytes()
        if path.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield f"{path.name}/{name}", archive.read(name)


def tellings(secret: bytes, texts: Mapping[str, bytes]) -> list[str]:
    """The names of the texts in which the secret stands."""
    words = spellings(secret)
    return sorted(name for name, text in texts.items() if any(word in text for word in words))

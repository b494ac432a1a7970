"""What every page that is written here has in common: it may run nothing, and load nothing but pictures beside it."""

from __future__ import annotations

from typing import Final

from foundation.printable import printable

_RULES = (
    "default-src 'none'",
    "img-src 'self' data: file:",  # `file:` for a page that lies on a disk
    "style-src 'unsafe-inline'",
    "base-uri 'none'",
    "form-action 'none'",
)
CONTENT_POLICY: Final = "; ".join(_RULES)
"""Content security policy: no scripts, no frames, no forms, no other server."""
CONTENT_POLICY_TAG: Final = f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">'


def page_text(value: str) -> str:
    """Return a text of any length for a page, where it is still to be escaped: nothing in it hides or reorders the rest."""
    return "\n".join(printable(line, most=len(line)) for line in value.split("\n"))

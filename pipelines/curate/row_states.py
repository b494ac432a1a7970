"""The four states of a row that curation read; they add up to all rows. Imports nothing, so that every command may."""

from __future__ import annotations

from typing import Final

REMOVED: Final = "removed"
UNLABELLED: Final = "unlabelled"
QUARANTINED: Final = "quarantined"
KEPT: Final = "kept"

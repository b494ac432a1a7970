"""Shorten names for plots and tables."""

from __future__ import annotations


def shorten_middle(text: str, most_characters: int) -> str:
    """Return `text` with at most `most_characters` characters; a longer one loses its middle to an ellipsis."""
    if len(text) <= most_characters:
        return text
    tail = (most_characters - 1) // 3
    return text[: most_characters - 1 - tail] + "…" + text[len(text) - tail :]

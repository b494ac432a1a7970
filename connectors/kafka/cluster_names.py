"""The names by which a client knows what kind of broker answers."""

from __future__ import annotations

from typing import Final

EMBEDDED_CLUSTER: Final = "embedded-"
"""What the cluster id of an embedded broker begins with.

A source needs to know: this broker's ListOffsets names the end of a partition as the first offset of the last
batch plus one, so its true end is asked for in another way.
"""

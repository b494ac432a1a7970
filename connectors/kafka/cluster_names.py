"""Cluster ids by which a client recognises what kind of broker answers."""

from __future__ import annotations

from typing import Final

EMBEDDED_CLUSTER: Final = "embedded-"
"""Prefix of the cluster id of an embedded broker.

A source needs it because this broker's ListOffsets returns the first offset of the last batch plus one as the end of
a partition; its true end is determined in another way.
"""

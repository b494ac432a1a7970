"""The settings of a topic under which nothing that was accepted gets lost: made from this table, compared with it.

A topic may be there already, with its cluster's or its owner's defaults. Each setting here says what the product needs
and what another value costs; what it does not name is the owner's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from schemas.topics import TOPIC_TABLE, TOPICS, Topic

_LEAST_MESSAGE_BYTES: Final = 1_048_588
"""Kafka's own default: the largest record (`schemas.topics.MAX_RECORD_BYTES`) with its key and headers."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting of a topic that is not as the product needs it."""

    topic: str
    setting: str
    found: str
    wanted: str
    cost: str

    def __str__(self) -> str:
        return f"topic {self.topic}: {self.setting} is {self.found}; wanted is {self.wanted}: {self.cost}"


@dataclass(frozen=True, slots=True)
class _Rule:
    setting: str
    wanted: Callable[[Topic], str]
    holds: Callable[[str, Topic], bool]
    cost: str


_RULES: Final = (
    _Rule(
        "cleanup.policy",
        lambda _: "delete",
        lambda found, _: found == "delete",
        "compaction destroys every record of a vehicle but its last",
    ),
    _Rule(
        "message.timestamp.type",
        lambda _: "LogAppendTime",
        lambda found, _: found == "LogAppendTime",
        "retention goes by the sender's clock: records of a vehicle whose clock says 1970 are deleted at once",
    ),
    _Rule(
        "retention.ms",
        lambda topic: f"at least {topic.retention_s * 1000}",
        lambda found, topic: int(found) == -1 or int(found) >= topic.retention_s * 1000,
        "records are deleted when ingest is away for longer than that",
    ),
    _Rule(
        "retention.bytes",
        lambda _: "-1",
        lambda found, _: int(found) < 0,
        "records are deleted by size, however short ingest was away",
    ),
    _Rule(
        "max.message.bytes",
        lambda _: f"at least {_LEAST_MESSAGE_BYTES}",
        lambda found, _: int(found) >= _LEAST_MESSAGE_BYTES,
        "the broker refuses larger samples, and the vehicle gives them up as oversize",
    ),
    _Rule(
        "compression.type",
        lambda _: "producer",
        lambda found, _: found in ("producer", "uncompressed"),
        "the broker packs every batch anew: time for nothing with pictures, and a vehicle without pyarrow cannot read"
        " snappy",
    ),
    _Rule(
        "unclean.leader.election.enable",
        lambda _: "false",
        lambda found, _: found == "false",
        "a broker that missed records may become the leader: acknowledged records are lost",
    ),
)


def settings_for(topic: Topic) -> dict[str, str]:
    """What a new topic is made with. Only settings that every cluster lets the maker of a topic choose."""
    return {
        "cleanup.policy": "delete",
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": str(topic.retention_s * 1000),
        "retention.bytes": "-1",
        "compression.type": "producer",
    }


def topic_named(name: str) -> Topic:
    """The row of the table for a topic of that name; for another name what samples need."""
    found = {topic.name: topic for topic in TOPIC_TABLE}
    return found.get(name, found[TOPICS.samples])


def differences(name: str, found: Mapping[str, str]) -> list[Difference]:
    """Each setting in `found` (of the topic of that name) that is not as the product needs it."""
    topic = topic_named(name)
    return [
        Difference(name, rule.setting, found[rule.setting], rule.wanted(topic), rule.cost)
        for rule in _RULES
        if rule.setting in found and not _holds(rule, found[rule.setting], topic)
    ]


def _holds(rule: _Rule, found: str, topic: Topic) -> bool:
    try:
        return rule.holds(found, topic)
    except ValueError:
        return False

"""The topic settings under which no accepted record is lost, for creating topics and for checking existing ones.

A topic may exist already, with defaults of its cluster or its owner. Each rule says what the product needs and what
another value costs; other settings are left to the owner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from schemas.topics import TOPIC_TABLE, TOPICS, Topic

_LEAST_MESSAGE_BYTES: Final = 1_048_588
"""Kafka's default; it holds the largest record (`schemas.topics.MAX_RECORD_BYTES`) with its key and headers."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting of a topic that differs from what the product needs."""

    topic: str
    setting: str
    found: str
    wanted: str
    cost: str

    def __str__(self) -> str:
        return f"topic {self.topic}: {self.setting} is {self.found}; it must be {self.wanted}: {self.cost}"


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
        "log compaction removes every record of a vehicle except its last",
    ),
    _Rule(
        "message.timestamp.type",
        lambda _: "LogAppendTime",
        lambda found, _: found == "LogAppendTime",
        "retention follows the sender's clock: records of a vehicle whose clock is at 1970 are deleted at once",
    ),
    _Rule(
        "retention.ms",
        lambda topic: f"at least {topic.retention_s * 1000}",
        lambda found, topic: int(found) == -1 or int(found) >= topic.retention_s * 1000,
        "records are deleted if ingest is down for longer than that",
    ),
    _Rule(
        "retention.bytes",
        lambda _: "-1",
        lambda found, _: int(found) < 0,
        "records are deleted by size, however briefly ingest was down",
    ),
    _Rule(
        "max.message.bytes",
        lambda _: f"at least {_LEAST_MESSAGE_BYTES}",
        lambda found, _: int(found) >= _LEAST_MESSAGE_BYTES,
        "the broker refuses larger samples, and the vehicle drops them as oversize",
    ),
    _Rule(
        "compression.type",
        lambda _: "producer",
        lambda found, _: found in ("producer", "uncompressed"),
        "the broker recompresses every batch, which gains nothing for images, and a client without pyarrow cannot read"
        " snappy",
    ),
    _Rule(
        "unclean.leader.election.enable",
        lambda _: "false",
        lambda found, _: found == "false",
        "an out-of-sync broker may become leader: acknowledged records are lost",
    ),
)


def settings_for(topic: Topic) -> dict[str, str]:
    """Return the settings of a new topic: only those that every cluster lets its creator choose."""
    return {
        "cleanup.policy": "delete",
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": str(topic.retention_s * 1000),
        "retention.bytes": "-1",
        "compression.type": "producer",
    }


def topic_named(name: str) -> Topic:
    """Return the row of `TOPIC_TABLE` for a topic name; for any other name, that of samples."""
    found = {topic.name: topic for topic in TOPIC_TABLE}
    return found.get(name, found[TOPICS.samples])


def differences(name: str, found: Mapping[str, str]) -> list[Difference]:
    """Return each setting in `found` (of the topic `name`) that differs from what the product needs."""
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

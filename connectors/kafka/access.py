"""Who may do what on the broker: the rights of vehicles and of ingest, as Kafka's access control lists.

A principal is made from a client certificate: CN=car-1, OU=vehicles becomes `vehicle-car-1`, so that no vehicle can be
named like a service. docs/security.md has the same as commands of Kafka's own tools.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)

from connectors.kafka.admin import administration
from connectors.kafka.settings import KafkaSettings
from foundation.errors import MisconfiguredError
from schemas.topics import TOPICS

BROKER: Final = "broker"
OPERATOR: Final = "operator"
INGEST: Final = "ingest"
PRINCIPAL_RULES: Final = (
    r"RULE:^CN=([A-Za-z0-9._-]+),OU=vehicles,O=fleetloop$/vehicle-$1/,"
    r"RULE:^CN=([A-Za-z0-9._-]+),OU=services,O=fleetloop$/$1/,"
    "DEFAULT"
)
Right = tuple[str, ACLOperation]
VEHICLE_RIGHTS: Final[tuple[Right, ...]] = (
    (TOPICS.samples, ACLOperation.WRITE),
    (TOPICS.telemetry, ACLOperation.WRITE),
    (TOPICS.notices, ACLOperation.READ),
)
SERVICE_RIGHTS: Final[tuple[Right, ...]] = (
    (TOPICS.samples, ACLOperation.READ),
    (TOPICS.telemetry, ACLOperation.READ),
    (TOPICS.notices, ACLOperation.WRITE),
)


def vehicle_principal(vehicle_id: str) -> str:
    """The name by which the broker knows the certificate of a vehicle."""
    return f"vehicle-{vehicle_id}"


def broker_settings() -> dict[str, str]:
    """What every broker is told: nobody has a right that was not given; broker and operator have all."""
    return {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": f"User:{BROKER};User:{OPERATOR}",
        "ssl.client.auth": "required",
        "ssl.principal.mapping.rules": PRINCIPAL_RULES,
    }


def allow(operator: KafkaSettings, principal: str, rights: Sequence[Right]) -> None:
    """Give rights; those that are there already stay. Raises MisconfiguredError when the broker refuses."""
    with administration(operator) as admin:
        answer = admin.ask(
            "giving rights", lambda client: client.create_acls(list(_rules(principal, rights)))
        )
    if answer["failed"]:
        raise MisconfiguredError(f"the broker did not take the rights of {principal}: {answer['failed']}")


def take_away(operator: KafkaSettings, principal: str) -> None:
    """Take every right of a principal: from the next request on it may do nothing."""
    everywhere = ResourcePatternFilter(ResourceType.ANY, None, _any_pattern())
    what = ACLFilter(f"User:{principal}", "*", ACLOperation.ANY, ACLPermissionType.ANY, everywhere)
    with administration(operator) as admin:
        admin.ask("taking rights", lambda client: client.delete_acls([what]))


def _any_pattern() -> Any:
    from kafka.admin import ACLResourcePatternType

    return ACLResourcePatternType.ANY


def _rules(principal: str, rights: Sequence[Right]) -> Iterator[ACL]:
    for topic, operation in rights:
        pattern = ResourcePattern(ResourceType.TOPIC, topic)
        yield ACL(f"User:{principal}", "*", operation, ACLPermissionType.ALLOW, pattern)

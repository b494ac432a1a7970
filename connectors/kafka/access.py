"""Access control lists (ACLs) on the broker for vehicles and for ingest.

A principal is derived from the client certificate: CN=car-1, OU=vehicles becomes `vehicle-car-1`, so that no vehicle can
take the name of a service. docs/security.md lists the same ACLs as commands of Kafka's own tools.
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
    """Return the principal that the broker derives from a vehicle's certificate."""
    return f"vehicle-{vehicle_id}"


def authorizer_settings() -> dict[str, str]:
    """Return the broker settings that deny by default; only broker and operator are superusers."""
    return {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": f"User:{BROKER};User:{OPERATOR}",
        "ssl.client.auth": "required",
        "ssl.principal.mapping.rules": PRINCIPAL_RULES,
    }


def grant(operator: KafkaSettings, principal: str, rights: Sequence[Right]) -> None:
    """Grant rights to a principal beside those it has. Raises MisconfiguredError if the broker refuses."""
    with administration(operator) as admin:
        answer = admin.ask(
            "creating ACLs", lambda client: client.create_acls(list(_rules(principal, rights)))
        )
    if answer["failed"]:
        raise MisconfiguredError(f"the broker refused the ACLs of {principal}: {answer['failed']}")


def revoke(operator: KafkaSettings, principal: str) -> None:
    """Revoke every right of a principal, effective with its next request."""
    everywhere = ResourcePatternFilter(ResourceType.ANY, None, _any_pattern())
    what = ACLFilter(f"User:{principal}", "*", ACLOperation.ANY, ACLPermissionType.ANY, everywhere)
    with administration(operator) as admin:
        admin.ask("deleting ACLs", lambda client: client.delete_acls([what]))


def _any_pattern() -> Any:
    from kafka.admin import ACLResourcePatternType

    return ACLResourcePatternType.ANY


def _rules(principal: str, rights: Sequence[Right]) -> Iterator[ACL]:
    for topic, operation in rights:
        pattern = ResourcePattern(ResourceType.TOPIC, topic)
        yield ACL(f"User:{principal}", "*", operation, ACLPermissionType.ALLOW, pattern)

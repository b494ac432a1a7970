"""Settings that no client could work with are refused with the key, the value and the bound."""

from __future__ import annotations

import kafka.errors as client_errors
import pytest

from connectors.kafka.errors import translated
from connectors.kafka.settings import KafkaSettings, connection_options, consumer_options, producer_options
from foundation.errors import DeadlineError, MisconfiguredError, RejectedError, RetryLaterError
from foundation.settings import Secret, load_settings, print_config

SASL = {"security_protocol": "SASL_PLAINTEXT", "sasl_user": "ann"}
ENV = {"FLEETLOOP_SASL_PASSWORD": "tell-nobody"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"bootstrap": "localhost"}, "bootstrap is 'localhost'; it must be host:port"),
        ({"bootstrap": "a:1,b:70000"}, "'b:70000'"),
        ({"bootstrap": "a:0"}, "'a:0'"),
        ({"security_protocol": "TLS"}, "security_protocol is 'TLS'; it must be one of PLAINTEXT"),
        ({"compression": "snappy"}, "compression is 'snappy'"),
        ({"tls_max_version": "1.1"}, "tls_max_version is '1.1'; it must be one of 1.2, 1.3"),
        ({"max_in_flight_bytes": 1000}, "max_in_flight_bytes is 1000"),
        ({"tls_key_path": "key.pem"}, "set both or neither"),
        ({"proxy_url": "ftp://x:1"}, "proxy_url is 'ftp://x:1'"),
        ({"sasl_password": "in-a-file"}, "secret"),
        (SASL, "needs sasl_user and the secret sasl_password"),
    ],
)
def test_what_cannot_work_is_refused_by_name(table: dict[str, object], message: str) -> None:
    with pytest.raises(MisconfiguredError, match=message):
        load_settings(KafkaSettings, table, env={})


def test_a_password_reaches_the_client_and_is_shown_nowhere() -> None:
    settings = load_settings(KafkaSettings, SASL, env=ENV)
    assert connection_options(settings)["sasl_plain_password"] == ENV["FLEETLOOP_SASL_PASSWORD"]
    for shown in (repr(settings), str(settings), print_config(settings)):
        assert "tell-nobody" not in shown


def test_the_options_that_keep_the_promises_are_set() -> None:
    producer, consumer = producer_options(KafkaSettings()), consumer_options(KafkaSettings())
    assert producer["enable_idempotence"] is True
    assert (producer["acks"], producer["batch_size"], producer["delivery_timeout_ms"]) == (
        "all",
        900_000,
        2**31 - 1,
    )
    assert producer["api_version"] is not None
    assert (consumer["group_id"], consumer["auto_offset_reset"]) == (None, "none")
    assert isinstance(KafkaSettings().sasl_password, Secret)


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (client_errors.MessageSizeTooLargeError(), RejectedError, "oversize"),
        (client_errors.UnknownTopicOrPartitionError(), RejectedError, "no_such_topic"),
        (client_errors.TopicAuthorizationFailedError(), MisconfiguredError, None),
        (client_errors.SaslAuthenticationFailedError(), MisconfiguredError, None),
        (client_errors.KafkaTimeoutError(), DeadlineError, None),
        (client_errors.NotLeaderForPartitionError(), RetryLaterError, None),
        (client_errors.KafkaConnectionError(), RetryLaterError, None),
        (OSError("broken pipe"), RetryLaterError, None),
    ],
)
def test_refused_access_is_never_a_rejection_of_the_record(
    error: Exception, kind: type[Exception], reason: str | None
) -> None:
    ours = translated(error, "sending to t")
    assert type(ours) is kind
    assert str(ours).startswith("sending to t: ")
    assert getattr(ours, "reason", None) == reason

"""How to reach a Kafka cluster: one frozen settings object, and the options of kafka-python derived from it.

The producer's options are those that lost nothing, duplicated nothing and kept the order in tests with killed leaders,
outages and a stopped process (docs/adr/0010-the-uploader-never-believes-its-client.md). The delivery timeout is
infinite because an idempotent kafka-python producer gets stuck when a batch that was already sent expires.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from foundation.errors import MisconfiguredError
from foundation.settings import Secret, setting
from schemas.topics import MAX_RECORD_BYTES

PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
SASL_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
COMPRESSIONS: Final = ("none", "gzip", "lz4", "zstd")
TLS_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
API_VERSION: Final = (4, 3)
"""Given so that the constructor of a client returns without a broker; an older broker is detected when it answers."""

_ADDRESS: Final = re.compile(r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})$")
_PROXY: Final = re.compile(r"^(http|socks5|socks5h)://[^\s/@]+:[0-9]{1,5}$")
_NO_TIMEOUT_MS: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """Where the brokers are and how to authenticate. Secrets come from the environment only.

    Raises:
        MisconfiguredError: names the key, the value and what it must be.
    """

    bootstrap: str = setting("127.0.0.1:9092", min=3, help="host:port, several with commas")
    client_id: str = setting("fleetloop", min=1, max=200)
    security_protocol: str = setting("PLAINTEXT", help="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")
    tls_ca_path: Path | None = setting(None, help="PEM file of the authorities that sign the brokers")
    tls_certificate_path: Path | None = setting(None, help="PEM file of this client's certificate")
    tls_key_path: Path | None = setting(None, help="PEM file of this client's private key")
    tls_key_password: Secret = setting(Secret(""), secret=True)
    tls_max_version: str = setting("1.2", help="1.2: kafka-python reconnects without back-off under 1.3")
    proxy_url: str = setting(
        "", max=500, help="http://HOST:PORT (CONNECT) or socks5://HOST:PORT; none when empty"
    )
    sasl_mechanism: str = setting("SCRAM-SHA-512")
    sasl_user: str = setting("")
    sasl_password: Secret = setting(Secret(""), secret=True)
    compression: str = setting("none", help="none, gzip, lz4 or zstd; images do not shrink")
    max_in_flight_bytes: int = setting(16_000_000, min=1_000, max=1_000_000_000)
    max_record_bytes: int = setting(MAX_RECORD_BYTES, min=1, max=MAX_RECORD_BYTES)
    request_timeout_s: float = setting(15.0, min=0.1, max=300.0)
    progress_deadline_s: float = setting(30.0, min=0.1, max=3600.0, help="a read without progress ends then")

    def __post_init__(self) -> None:
        """Refuse combinations of settings that cannot work."""
        if self.proxy_url and not _PROXY.match(self.proxy_url):
            raise MisconfiguredError(
                f"proxy_url is {self.proxy_url[:200]!r}; it must be http://HOST:PORT or socks5://HOST:PORT"
            )
        for address in self.bootstrap.split(","):
            found = _ADDRESS.match(address.strip())
            if found is None or not 0 < int(found[2]) < 65_536:
                raise MisconfiguredError(
                    f"bootstrap is {address.strip()!r}; it must be host:port, port 1 to 65535"
                )
        for name, value, allowed in (
            ("security_protocol", self.security_protocol, PROTOCOLS),
            ("sasl_mechanism", self.sasl_mechanism, SASL_MECHANISMS),
            ("compression", self.compression, COMPRESSIONS),
            ("tls_max_version", self.tls_max_version, tuple(TLS_VERSIONS)),
        ):
            if value not in allowed:
                raise MisconfiguredError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
        if self.is_sasl and not (self.sasl_user and self.sasl_password):
            raise MisconfiguredError(
                f"security_protocol {self.security_protocol} needs sasl_user and the secret sasl_password"
            )
        if bool(self.tls_certificate_path) != bool(self.tls_key_path):
            raise MisconfiguredError("tls_certificate_path and tls_key_path go together: set both or neither")
        if self.max_in_flight_bytes < self.max_record_bytes:
            raise MisconfiguredError(
                f"max_in_flight_bytes is {self.max_in_flight_bytes}; it must hold one record of "
                f"max_record_bytes ({self.max_record_bytes})"
            )

    @property
    def is_sasl(self) -> bool:
        """Whether the client authenticates by SASL (user name and password)."""
        return self.security_protocol.startswith("SASL_")

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.security_protocol.endswith("SSL")


class FreshTlsContext:
    """A TLS context that reloads its files for each connection, so that a renewed certificate is picked up."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._build()  # a missing or broken file is an error now, not a connection that never comes up

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """Wrap a socket as `ssl.SSLContext.wrap_socket` does."""
        return self._build().wrap_socket(*args, **kwargs)

    def _build(self) -> ssl.SSLContext:
        settings = self._settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = TLS_VERSIONS[settings.tls_max_version]
        try:
            if settings.tls_ca_path is None:
                context.load_default_certs()
            else:
                context.load_verify_locations(settings.tls_ca_path)
            if settings.tls_certificate_path is not None:
                password = settings.tls_key_password
                context.load_cert_chain(
                    settings.tls_certificate_path,
                    settings.tls_key_path,
                    password.reveal() if password else None,
                )
        except (OSError, ssl.SSLError) as error:
            raise MisconfiguredError(
                f"cannot load the TLS files (tls_ca_path={settings.tls_ca_path}, tls_certificate_path="
                f"{settings.tls_certificate_path}, tls_key_path={settings.tls_key_path}): {error}"
            ) from error
        return context


def connection_options(settings: KafkaSettings) -> dict[str, Any]:
    """Return the options of every kafka-python client."""
    options: dict[str, Any] = {
        "bootstrap_servers": [address.strip() for address in settings.bootstrap.split(",")],
        "client_id": settings.client_id,
        "security_protocol": settings.security_protocol,
        "request_timeout_ms": int(settings.request_timeout_s * 1000),
        "reconnect_backoff_max_ms": 1000,
        "metadata_max_age_ms": 30_000,
    }
    if settings.proxy_url:
        options["proxy_url"] = settings.proxy_url
    if settings.is_tls:
        options["ssl_context"] = FreshTlsContext(settings)
    if settings.is_sasl:
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.sasl_user
        options["sasl_plain_password"] = settings.sasl_password.reveal()
    return options


def producer_options(settings: KafkaSettings) -> dict[str, Any]:
    """Return the options of a producer: idempotent, acks=all, ordered, without a delivery timeout."""
    return connection_options(settings) | {
        "api_version": API_VERSION,
        "acks": "all",
        "enable_idempotence": True,
        "batch_size": 900_000,
        "linger_ms": 20,
        "delivery_timeout_ms": _NO_TIMEOUT_MS,
        "compression_type": None if settings.compression == "none" else settings.compression,
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }


def consumer_options(settings: KafkaSettings) -> dict[str, Any]:
    """Return the options of a consumer: assigned partitions, no group, no offset reset, read_committed."""
    return connection_options(settings) | {
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "allow_auto_create_topics": False,
        "isolation_level": "read_committed",
        "check_crcs": True,
        "max_partition_fetch_bytes": 8_000_000,
        "metrics_enabled": False,
    }

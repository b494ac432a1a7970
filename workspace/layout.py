"""The layout of a workspace: one folder, which is the user's own git and DVC repository.

    fleetloop.toml dvc.yaml params.yaml launch lake.lock .gitignore
    lake/       tables (arrivals, labels, reference); in neither git nor DVC
    datasets/   current/, an output of DVC
    registry/   vehicles.json, tags.json, served.jsonl, base.json, models/, datasets/ (one manifest per version), rollouts/, tuf/
    models/     candidate/ and package/, outputs of DVC
    reports/    the reports of the stages
    .fleetloop/ locks, caches and unfinished work; may be removed when nothing runs
Private keys are outside, by default in the sibling folder "<workspace>.keys". This module reads `fleetloop.toml` and
writes nothing; it closes what is there to other accounts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from connectors.kafka.settings import KafkaSettings
from connectors.lake.address import local_folder
from foundation.errors import MisconfiguredError
from foundation.private import PASSAGE, close_to_others
from foundation.settings import load_settings, setting

CONFIG_NAME = "fleetloop.toml"
KAFKA_SECRETS = ("FLEETLOOP_KAFKA_SASL_PASSWORD", "FLEETLOOP_KAFKA_TLS_KEY_PASSWORD")
"""The environment variables of the secrets of the table [kafka]."""
PRIVATE_FOLDERS = (
    ".fleetloop",
    ".git",
    ".dvc",
    "datasets",
    "models",
    "reports",
    "registry/models",
    "registry/rollouts",
)
"""Folders that no other account may enter; `registry/tuf` is published."""


@dataclass(frozen=True, slots=True)
class LabelDeskSettings:
    """The source of labels for requested samples."""

    file: str = ""
    """A Parquet, JSON Lines or CSV file with payload_sha256 and class_name or boxes, relative to the workspace; "" for none."""
    labeller: str = setting("label-desk", min=1, max=200)
    """The labeller that is recorded with each label."""
    cost: float = setting(1.0, min=0.0, max=1e6)
    """Cost units per label; `fleetloop label --cost-per-label` overrides it."""


@dataclass(frozen=True, slots=True)
class VehicleQuota:
    """The most that one vehicle lands within a day; what is beyond stays a dead letter (`over_quota`). 0 bounds nothing."""

    records_per_day: int = setting(100_000, min=0, max=10**9)
    bytes_per_day: int = setting(10_000_000_000, min=0, max=10**15)
    """Bytes of payloads."""


@dataclass(frozen=True, slots=True)
class WorkspaceSettings:
    """The contents of fleetloop.toml."""

    name: str = "fleet"
    lake: str = "lake"
    """Folder of the lake, absolute or relative to the workspace."""
    blobs: str = ""
    """Address of the blob store for payloads that are too large for a record (file:, s3: ...); empty for none."""
    keys: str = ""
    """Folder of the private keys; empty for the sibling folder "<workspace>.keys"."""
    bootstrap: str = "127.0.0.1:9092"
    """HOST:PORT of the Kafka-compatible broker; `bootstrap` in [kafka] takes precedence."""
    kafka: Mapping[str, Any] = field(default_factory=dict)
    """The table [kafka] as it is in the file; `Workspace.kafka` turns it into `KafkaSettings`."""
    licence: str = ""
    """Licence and attribution of the data, shown on every dataset card."""
    provenance: str = ""
    """A sentence on the origin of the data, and on which parts are simulated."""
    lock_wait_s: float = setting(60.0, min=0.0, max=3600.0)
    notice_wait_s: float = setting(2.0, min=0.0, max=60.0)
    """Seconds that a release or a rollout waits for the broker to accept its notice; 0 sends none."""
    label_desk: LabelDeskSettings = LabelDeskSettings()
    vehicle_quota: VehicleQuota = VehicleQuota()


@dataclass(frozen=True, slots=True)
class _KafkaTable:
    """Gives the secrets of [kafka] their environment variables."""

    kafka: KafkaSettings = field(default_factory=KafkaSettings)


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace: its folder, its settings and the paths derived from them."""

    root: Path
    settings: WorkspaceSettings = WorkspaceSettings()

    @classmethod
    def open(cls, root: Path | str) -> Workspace:
        """Open the workspace at `root`. Raises MisconfiguredError if it is none, or if fleetloop.toml is invalid."""
        folder = Path(root).resolve()
        config = folder / CONFIG_NAME
        if not config.is_file():
            raise MisconfiguredError(
                f"{folder} is not a FleetLoop workspace: it has no {CONFIG_NAME}; run `fleetloop init {root}`"
            )
        workspace = cls(folder, load_settings(WorkspaceSettings, config, env={}))
        # [kafka] is checked now; its secrets are needed only by commands that connect to a broker.
        workspace.kafka(env=dict.fromkeys(KAFKA_SECRETS, "not needed yet"))
        workspace.close_to_others()
        return workspace

    def close_to_others(self) -> None:
        """Let no other account read pictures, labels and reports or hold a lock, also in a workspace that was made open.

        A folder of somebody else is left as it is. Mode 0711 of the workspace itself is left, too: by it a web server of
        another account reaches `registry/tuf`, which is public, and nothing else.

        Raises:
            MisconfiguredError: the system refuses it; names the folder.
        """
        close_to_others(self.root, allowed=PASSAGE)
        remote = self.root.with_name(f"{self.root.name}.dvc-remote")
        for folder in (
            self.lake_path,
            self.keys_path,
            remote,
            *(self.root / name for name in PRIVATE_FOLDERS),
        ):
            close_to_others(folder)

    @property
    def bootstrap(self) -> str:
        """HOST:PORT of the broker: from [kafka], otherwise from the top of fleetloop.toml."""
        return str(self.settings.kafka.get("bootstrap", self.settings.bootstrap))

    def kafka(
        self, bootstrap: str = "", *, client_id: str = "", env: Mapping[str, str] | None = None
    ) -> KafkaSettings:
        """Return the Kafka settings: the table [kafka] with its secrets from the environment.

        Args:
            bootstrap: takes precedence over [kafka], which takes precedence over the top of the file.
            client_id: the client id of the caller, unless [kafka] has one.
            env: the environment that holds the secrets; os.environ by default.

        Raises:
            MisconfiguredError: names the file, the key, the value and what it must be.
        """
        table = {"bootstrap": self.settings.bootstrap, **self.settings.kafka}
        if bootstrap:
            table["bootstrap"] = bootstrap
        if client_id:
            table.setdefault("client_id", client_id)
        try:
            held = load_settings(_KafkaTable, {"kafka": table}, env=os.environ if env is None else env).kafka
        except MisconfiguredError as error:
            raise MisconfiguredError(f"{self.root / CONFIG_NAME}: {error}") from error
        files = {
            name: self.root / value
            for name in ("tls_ca_path", "tls_certificate_path", "tls_key_path")
            if (value := getattr(held, name)) is not None
        }
        return replace(held, **files)

    def path(self, text: str) -> Path:
        """Return `text` as a path, relative to the workspace unless it is absolute."""
        return self.root / text

    @property
    def lake_path(self) -> Path:
        """Folder of the lake's tables. Raises MisconfiguredError if `lake` is not a local folder."""
        return self.root / local_folder(self.settings.lake)

    @property
    def arrivals_uri(self) -> str:
        """Table with one row per Kafka offset."""
        return str(self.lake_path / "arrivals")

    @property
    def labels_uri(self) -> str:
        """Table with one row per label."""
        return str(self.lake_path / "labels")

    @property
    def reference_uri(self) -> str:
        """Table of labelled pictures that did not come from the vehicles."""
        return str(self.lake_path / "reference")

    @property
    def lake_lock_path(self) -> Path:
        """The table versions that the dataset is built from."""
        return self.root / "lake.lock"

    @property
    def params_path(self) -> Path:
        """The parameters of all stages."""
        return self.root / "params.yaml"

    @property
    def registry_path(self) -> Path:
        """The records of vehicles, models, releases and dataset versions."""
        return self.root / "registry"

    @property
    def enrolment_path(self) -> Path:
        """Public keys of the vehicles."""
        return self.registry_path / "vehicles.json"

    @property
    def tags_path(self) -> Path:
        """Tags of vehicles, by which a rollout selects them."""
        return self.registry_path / "tags.json"

    @property
    def rollouts_path(self) -> Path:
        """The state of rollouts: state.json, reports.jsonl, history.jsonl."""
        return self.registry_path / "rollouts"

    @property
    def models_path(self) -> Path:
        """The registered models, one folder per model."""
        return self.registry_path / "models"

    @property
    def served_path(self) -> Path:
        """Which model the fleet serves in each role, a row per change (`workspace.served_models`)."""
        return self.registry_path / "served.jsonl"

    @property
    def old_serving_path(self) -> Path:
        """What releases before roles had instead, for the role serving only."""
        return self.registry_path / "serving.json"

    @property
    def base_path(self) -> Path:
        """Name and digest of the model that training starts from; set by `fleetloop base`, never by a rollout."""
        return self.registry_path / "base.json"

    @property
    def candidate_path(self) -> Path:
        """The model that the stages train and quantise."""
        return self.root / "models" / "candidate"

    @property
    def package_path(self) -> Path:
        """The model with its evidence, ready to be released."""
        return self.root / "models" / "package"

    @property
    def dataset_versions_path(self) -> Path:
        """One JSON file per dataset version."""
        return self.registry_path / "datasets"

    @property
    def tuf_path(self) -> Path:
        """The signed TUF repository that vehicles read: metadata/ and targets/."""
        return self.registry_path / "tuf"

    @property
    def datasets_path(self) -> Path:
        """Datasets; `current` is the output of the stage curate."""
        return self.root / "datasets"

    @property
    def dataset_path(self) -> Path:
        """The dataset that the next training reads."""
        return self.datasets_path / "current"

    @property
    def reports_path(self) -> Path:
        """The reports of the stages."""
        return self.root / "reports"

    @property
    def private_path(self) -> Path:
        """Locks, caches and unfinished work."""
        return self.root / ".fleetloop"

    @property
    def keys_path(self) -> Path:
        """Folder of the private keys: outside the workspace unless fleetloop.toml says otherwise."""
        if self.settings.keys:
            return self.path(self.settings.keys)
        return self.root.with_name(self.root.name + ".keys")

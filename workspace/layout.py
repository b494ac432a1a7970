"""Where everything of a workspace is: one folder, which is the user's own git and DVC repository.

    fleetloop.toml dvc.yaml params.yaml launch lake.lock .gitignore
    lake/       tables (arrivals, labels, reference); never in git, never in DVC
    datasets/   current/ is an output of DVC
    registry/   vehicles.json, tags.json, serving.json, base.json, models/, datasets/ (one manifest per version), rollouts/, tuf/
    models/     candidate/ and package/, outputs of DVC
    reports/    what the stages found
    .fleetloop/ locks, caches, unfinished work: may be removed when nothing runs
Private keys are never inside; by default they are in the sibling folder "<workspace>.keys". This module reads
`fleetloop.toml` and makes nothing.
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
from foundation.settings import load_settings, setting

CONFIG_NAME = "fleetloop.toml"
KAFKA_SECRETS = ("FLEETLOOP_KAFKA_SASL_PASSWORD", "FLEETLOOP_KAFKA_TLS_KEY_PASSWORD")
"""The environment variables that the secrets of the table [kafka] come from."""


@dataclass(frozen=True, slots=True)
class LabelDeskSettings:
    """Who answers when a label is asked for."""

    file: str = ""
    """A Parquet, JSON-lines or CSV file with payload_sha256 and class_name; relative to the workspace. Empty:
    no desk."""
    labeller: str = setting("label-desk", min=1, max=200)
    """Who is said to have answered."""
    cost: float = setting(1.0, min=0.0, max=1e6)
    """Label units per answer; `fleetloop label --cost-per-label` names another."""


@dataclass(frozen=True, slots=True)
class WorkspaceSettings:
    """The contents of fleetloop.toml."""

    name: str = "fleet"
    lake: str = "lake"
    """Folder of the lake, relative to the workspace or absolute."""
    blobs: str = ""
    """Address of the blob store for payloads that were too large for a record (file:, s3: ...). Empty:
    none."""
    keys: str = ""
    """Folder of the private keys. Empty: the sibling folder "<workspace>.keys"."""
    bootstrap: str = "127.0.0.1:9092"
    """HOST:PORT of the Kafka-compatible broker: the simple form of `bootstrap` in [kafka], which wins."""
    kafka: Mapping[str, Any] = field(default_factory=dict)
    """The table [kafka] as it stands in the file; `Workspace.kafka` makes a `KafkaSettings` of it."""
    licence: str = ""
    """Licence and attribution of the data, shown on every dataset card."""
    provenance: str = ""
    """A sentence on where the data comes from, and on what of it is simulated."""
    lock_wait_s: float = setting(60.0, min=0.0, max=3600.0)
    notice_wait_s: float = setting(2.0, min=0.0, max=60.0)
    """How long a release or a rollout waits for the broker to take its notice; 0 sends none."""
    label_desk: LabelDeskSettings = LabelDeskSettings()


@dataclass(frozen=True, slots=True)
class _KafkaTable:
    """Gives the secrets of [kafka] their names in the environment."""

    kafka: KafkaSettings = field(default_factory=KafkaSettings)


@dataclass(frozen=True, slots=True)
class Workspace:
    """One workspace: its folder, its settings and the paths that follow from them."""

    root: Path
    settings: WorkspaceSettings = WorkspaceSettings()

    @classmethod
    def open(cls, root: Path | str) -> Workspace:
        """Raises MisconfiguredError when `root` is no workspace, or its fleetloop.toml has a mistake."""
        folder = Path(root).resolve()
        config = folder / CONFIG_NAME
        if not config.is_file():
            raise MisconfiguredError(
                f"{folder} is no FleetLoop workspace: it has no {CONFIG_NAME}; run `fleetloop init {root}`"
            )
        workspace = cls(folder, load_settings(WorkspaceSettings, config, env={}))
        # A mistake in [kafka] is told now; its secrets are asked for only by what talks to a broker.
        workspace.kafka(env=dict.fromkeys(KAFKA_SECRETS, "not needed yet"))
        return workspace

    @property
    def bootstrap(self) -> str:
        """HOST:PORT of the broker: that of [kafka], else the one at the top of fleetloop.toml."""
        return str(self.settings.kafka.get("bootstrap", self.settings.bootstrap))

    def kafka(
        self, bootstrap: str = "", *, client_id: str = "", env: Mapping[str, str] | None = None
    ) -> KafkaSettings:
        """How to reach the broker: the table [kafka], with its secrets from the environment.

        Args:
            bootstrap: goes before that of [kafka], which goes before the one at the top of the file.
            client_id: of the caller, unless [kafka] names one.
            env: where the secrets come from; os.environ by default.

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
        """`text` as a path: as it is when absolute, else inside the workspace."""
        return self.root / text

    @property
    def lake_path(self) -> Path:
        """Folder of the lake's tables. Raises MisconfiguredError when `lake` names anything but a local folder."""
        return self.root / local_folder(self.settings.lake)

    @property
    def arrivals_uri(self) -> str:
        """One row per Kafka offset."""
        return str(self.lake_path / "arrivals")

    @property
    def labels_uri(self) -> str:
        """One row per answer of the label desk."""
        return str(self.lake_path / "labels")

    @property
    def reference_uri(self) -> str:
        """Frames that did not come through the vehicles."""
        return str(self.lake_path / "reference")

    @property
    def lake_lock_path(self) -> Path:
        """Which versions of the tables the dataset is made from."""
        return self.root / "lake.lock"

    @property
    def params_path(self) -> Path:
        """The parameters of all stages."""
        return self.root / "params.yaml"

    @property
    def registry_path(self) -> Path:
        """What is known about vehicles, models, releases and dataset versions."""
        return self.root / "registry"

    @property
    def enrolment_path(self) -> Path:
        """Public keys of the vehicles."""
        return self.registry_path / "vehicles.json"

    @property
    def tags_path(self) -> Path:
        """Words about vehicles that a rollout may ask for."""
        return self.registry_path / "tags.json"

    @property
    def rollouts_path(self) -> Path:
        """The fleet's side of rollouts: state.json, reports.jsonl, history.jsonl."""
        return self.registry_path / "rollouts"

    @property
    def models_path(self) -> Path:
        """Registered models, one folder each."""
        return self.registry_path / "models"

    @property
    def serving_path(self) -> Path:
        """Name and digest of the model that the fleet is served."""
        return self.registry_path / "serving.json"

    @property
    def base_path(self) -> Path:
        """Name and digest of the model that training starts from: chosen on purpose, never by a rollout."""
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
        """The signed repository that vehicles read: metadata/ and targets/."""
        return self.registry_path / "tuf"

    @property
    def datasets_path(self) -> Path:
        """Datasets; `current` is the output of the stage curate."""
        return self.root / "datasets"

    @property
    def dataset_path(self) -> Path:
        """The dataset that the next training would read."""
        return self.datasets_path / "current"

    @property
    def reports_path(self) -> Path:
        """What the stages found."""
        return self.root / "reports"

    @property
    def private_path(self) -> Path:
        """Locks, caches and unfinished work."""
        return self.root / ".fleetloop"

    @property
    def keys_path(self) -> Path:
        """Private keys: outside the workspace unless fleetloop.toml says otherwise."""
        if self.settings.keys:
            return self.path(self.settings.keys)
        return self.root.with_name(self.root.name + ".keys")

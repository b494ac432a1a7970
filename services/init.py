"""Create a workspace: the user's own git and DVC repository, with its signing keys beside it."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from importlib import resources
from pathlib import Path

from foundation.errors import MisconfiguredError
from foundation.files import write_atomic
from foundation.private import make_private
from modelkit.tasks import LEARNED
from pipelines.dataset.dvc import DvcRepository
from schemas.predictions import CLASSIFICATION
from workspace.layout import CONFIG_NAME, Workspace

FOLDERS = ("registry/models", "registry/datasets", "datasets", "models", "reports")
GIT_IGNORE = """\
# Data is in the lake and in DVC, never in git.
/lake/
/.fleetloop/
/reports/data_docs/
/reports/label_requests/
/registry/tuf/targets/
# What DVC holds.
/datasets/
/models/
/registry/models/
/out/
# Locks of writers at work.
.fleet.lock
.reports.lock
.writer.lock
"""
CONFIG = """\
# Settings of this workspace. Parameters of the stages are in params.yaml.
name = {name}

# Folder of the lake, relative to this file or absolute.
lake = "lake"
# Address of the blob store for payloads too large for a record (file:///..., s3://...). Empty: none.
blobs = ""
# Folder of the private keys. Empty: the sibling folder "<workspace>.keys", outside this repository.
keys = ""
# HOST:PORT of the Kafka-compatible broker; several with commas. A bootstrap in [kafka] goes before it, --bootstrap before both.
bootstrap = "127.0.0.1:9092"

# Shown on every dataset card.
licence = {licence}
provenance = {provenance}

# How long a second writer waits before it is refused.
lock_wait_s = 60.0

[label_desk]
# A Parquet, JSON-lines or CSV file with the columns payload_sha256 and class_name (for detection boxes, not in CSV)
# stands for the annotators.
file = ""
# Who is said to have answered, and the label units of one answer.
labeller = "label-desk"
cost = 1.0

# The most that one vehicle lands within a day, in records and bytes of pictures; what is beyond stays a dead letter
# (over_quota) that `fleetloop deadletter replay --reason over_quota` lands later. 0 bounds nothing.
[vehicle_quota]
records_per_day = 100000
bytes_per_day = 10000000000

# How to be let in to a broker that is not on this machine. Paths are relative to this file. The passwords come from
# the environment: FLEETLOOP_KAFKA_SASL_PASSWORD, FLEETLOOP_KAFKA_TLS_KEY_PASSWORD.
[kafka]
# security_protocol = "SASL_SSL" # PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL
# tls_ca_path = "ca.pem"
# sasl_mechanism = "SCRAM-SHA-512"
# sasl_user = "fleetloop"
"""
LAUNCHER = "launch"
"""The script that starts FleetLoop for the stages of dvc.yaml."""
CLASSES_LINE = re.compile(r"^classes: .*$", re.MULTILINE)
TASK_LINE = re.compile(r"^task: .*$", re.MULTILINE)
SALT_BYTES = 16
"""Of each secret in params.yaml: one decides the split of drives, one what is drawn by chance."""
SPLIT_SALT = re.compile(r'^  salt: ""\n  per_vehicle: false', re.MULTILINE)
DRAW_SALT = re.compile(r'^  seed: 0\n  salt: ""', re.MULTILINE)
PARITY_LINE = re.compile(r"^  min_parity_agreement: .*$", re.MULTILINE)


def make_workspace(
    folder: Path,
    *,
    classes: tuple[str, ...] = (),
    task: str = CLASSIFICATION,
    remote: Path | None = None,
    name: str = "",
    licence: str = "",
    provenance: str = "",
    with_keys: bool = True,
    secret: str | None = None,
    root_threshold: int | None = None,
    root_keys: int | None = None,
) -> Workspace:
    """Create (or finish creating) the workspace and open it. Existing files are left unchanged.

    Args:
        folder: a new or empty folder, or a workspace.
        classes: of the model contract; those of the template by default.
        task: what a label is.
        remote: of DVC; a sibling folder by default.
        name: of the fleet; the folder's by default.
        licence: shown on dataset cards.
        provenance: shown on dataset cards.
        with_keys: whether to make the signing keys.
        secret: what the salts of the split and of random draws are made of; drawn at random by default. "" gives the public
            ones, and drives that vehicles may share by name, as in earlier releases.
        root_threshold: how many root keys must sign a root, 1 by default; `root_keys` are made, by default as many.

    Raises:
        MisconfiguredError: the folder holds something else; its repository has another root threshold or number of root
            keys than is asked for; it does not hold 1 <= threshold <= keys <= 16; an unknown task; git or DVC is missing.
    """
    if task not in LEARNED:
        raise MisconfiguredError(f"task {task!r}, expected one of {', '.join(sorted(LEARNED))}")
    root = folder.resolve()
    if root.exists() and not root.is_dir():
        raise MisconfiguredError(f"{root} is a file; a workspace is a folder")
    if root.is_dir() and any(root.iterdir()) and not (root / CONFIG_NAME).is_file():
        raise MisconfiguredError(f"{root} is not empty and not a workspace; name a new or an empty folder")
    make_private(root)
    # First, so that the folder of an interrupted run is recognised as a workspace.
    config = CONFIG.format(
        name=_toml(name or root.name), licence=_toml(licence), provenance=_toml(provenance)
    )
    _write_once(root / CONFIG_NAME, config)
    workspace = Workspace.open(root)
    for part in FOLDERS:
        (root / part).mkdir(parents=True, exist_ok=True)
    _write_once(root / ".gitignore", GIT_IGNORE)
    _write_once(root / "dvc.yaml", template("dvc.yaml"))
    _write_once(root / LAUNCHER, template(LAUNCHER))
    params = TASK_LINE.sub(f"task: {task}", template("params.yaml"), count=1)
    params = PARITY_LINE.sub(f"  min_parity_agreement: {LEARNED[task].usual_parity}", params, count=1)
    if classes:
        params = CLASSES_LINE.sub(
            lambda _: f"classes: {json.dumps(list(classes), ensure_ascii=False)}", params, count=1
        )
    _write_once(root / "params.yaml", _salted(params, secret))
    _make_repositories(workspace, remote or root.with_name(f"{root.name}.dvc-remote"))
    if with_keys:
        _make_keys(workspace, root_threshold, root_keys)
    _first_commit(workspace)
    return workspace


def _salted(params: str, secret: str | None) -> str:
    """Return params.yaml with salts that are derived from `secret`, from a random one by default, without any for ""."""
    secret = secrets.token_hex(SALT_BYTES) if secret is None else secret
    if not secret:
        return params
    split, draw = (
        hashlib.sha256(f"fleetloop-{use}/{secret}".encode()).hexdigest()[: 2 * SALT_BYTES]
        for use in ("split", "draw")
    )
    params = SPLIT_SALT.sub(
        f'  salt: "{split}" # a secret of this workspace: never change it\n  per_vehicle: true', params, 1
    )
    return DRAW_SALT.sub(f'  seed: 0\n  salt: "{draw}" # a secret of this workspace', params, 1)


def template(name: str) -> str:
    """Return the text of dvc.yaml, params.yaml or launch that every workspace starts from."""
    package = resources.files("workspace")
    inside = package / "template" / name
    if inside.is_file():
        return inside.read_text(encoding="utf-8")
    return (Path(str(package)).parent / name).read_text(encoding="utf-8")


def _make_repositories(workspace: Workspace, remote: Path) -> None:
    repository = DvcRepository(workspace)
    with repository.writing():
        repository.begin(remote)
        repository.remember_python()


def _make_keys(workspace: Workspace, threshold: int | None, count: int | None) -> None:
    try:
        from rollout.repository import Repository, init_repository
    except ImportError as error:
        raise MisconfiguredError(
            f"signing keys need the package tuf, which is missing here ({error}); run `fleetloop doctor`"
        ) from error

    if (workspace.tuf_path / "metadata" / "timestamp.json").is_file():
        role = Repository(workspace.tuf_path, workspace.keys_path).load("root").signed.roles["root"]
        if threshold not in (None, role.threshold) or count not in (None, len(role.keyids)):
            raise MisconfiguredError(
                f"the repository of {workspace.root} has a root threshold of {role.threshold} of {len(role.keyids)} keys "
                "already, which `fleetloop init` does not change"
            )
        return
    init_repository(
        workspace.tuf_path,
        workspace.keys_path,
        threshold=1 if threshold is None else threshold,
        root_keys=count,
    )


def _first_commit(workspace: Workspace) -> None:
    repository = DvcRepository(workspace)
    with repository.writing():
        if repository.has_commit():
            return
        paths = [
            CONFIG_NAME,
            ".gitignore",
            "dvc.yaml",
            "params.yaml",
            LAUNCHER,
            ".dvc/config",
            ".dvc/.gitignore",
            ".dvcignore",
            "registry/tuf/metadata",
        ]
        repository.commit_git("Start the workspace", paths)


def _write_once(path: Path, text: str) -> None:
    if not path.exists():
        write_atomic(path, text.encode())


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)

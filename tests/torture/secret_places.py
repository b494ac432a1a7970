"""A canary in every place where a secret may live, real commands on a small workspace, and all that they said and wrote."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.turns import ROOT

SHORT_S = 6.0
"""How long the agent runs."""
_PEM = re.compile(rb"-----BEGIN[^-]*PRIVATE KEY-----\s*(.*?)\s*-----END", re.DOTALL)


@dataclass(slots=True)
class Places:
    """The canaries by the place that they are in, and what was said, by where it was said."""

    folder: Path
    canaries: dict[str, bytes] = field(default_factory=dict)
    said: dict[str, bytes] = field(default_factory=dict)
    secret_files: set[Path] = field(default_factory=set)
    """Where a secret stands because it belongs there."""

    @property
    def workspace(self) -> Path:
        return self.folder / "fleet"

    @property
    def car(self) -> Path:
        return self.folder / "car"

    def canary(self, place: str) -> str:
        """A new secret for a place."""
        secret = f"Canary{len(self.canaries):02d}{os.urandom(9).hex()}"
        self.canaries[place] = secret.encode()
        return secret

    def command(self, name: str, *arguments: str, for_s: float = 60.0, ends: bool = True) -> None:
        """Run `fleetloop`, keep what it says; one that does not end by itself is told to."""
        child = subprocess.Popen(
            [sys.executable, "-B", "-m", "fleetloop", *arguments],
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            output = child.communicate(timeout=for_s)[0]
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGTERM)
            try:
                output = child.communicate(timeout=60.0)[0]
            except subprocess.TimeoutExpired:
                child.kill()
                output = child.communicate()[0]
            if ends:
                output += b"\n(it had to be ended)"
        self.said[f"output of {name}"] = output

    def _environment(self) -> dict[str, str]:
        secrets = {place: secret.decode() for place, secret in self.canaries.items() if place.isupper()}
        return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **secrets}

    def key_files(self) -> None:
        """Every private key that there is becomes a canary: its 32 secret bytes and the text of its file."""
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        for path in sorted(self.folder.rglob("*")):
            if not path.is_file() or b"PRIVATE KEY" not in path.read_bytes()[:4096]:
                continue
            found = _PEM.search(path.read_bytes())
            if found is None:
                continue
            self.secret_files.add(path)
            name = f"private key {path.relative_to(self.folder)}"
            self.canaries[name] = found.group(1)
            is_locked = b"ENCRYPTED" in path.read_bytes()
            password = self.canaries["FLEETLOOP_KEYS_PASSPHRASE"] if is_locked else None
            key = load_pem_private_key(path.read_bytes(), password=password)
            self.canaries[f"{name}, raw"] = key.private_bytes_raw()  # type: ignore[union-attr]


ENVIRONMENT = (
    "FLEETLOOP_KAFKA_SASL_PASSWORD",
    "FLEETLOOP_KAFKA_TLS_KEY_PASSWORD",
    "FLEETLOOP_UPLOAD_KAFKA_SASL_PASSWORD",
    "FLEETLOOP_UPLOAD_KAFKA_TLS_KEY_PASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "FLEETLOOP_KEYS_PASSPHRASE",
)
_SASL = 'security_protocol = "SASL_PLAINTEXT"\nsasl_user = "somebody"\n'


def play(folder: Path) -> Places:
    """Set every secret, run every command that reads one, and make what is published."""
    place = Places(folder)
    for name in ENVIRONMENT:
        place.canary(name)
    _commands(place)
    _mistakes(place)
    _published(place)
    place.key_files()
    return place


def _commands(place: Places) -> None:
    """A workspace, a vehicle whose broker and repository are not there, and every command that needs no broker to speak."""
    import numpy as np
    from PIL import Image

    from tests.fakes.models import tiny_contract, tiny_model

    run, ws = place.command, str(place.workspace)
    run("init", "init", ws, "--classes", "red,green", "--json")
    toml = place.workspace / "fleetloop.toml"
    blobs = place.canary("password in the address of the blob store")
    text = toml.read_text().replace('blobs = ""', f'blobs = "s3://key:{blobs}@bucket"')
    toml.write_text(text.replace("127.0.0.1:9092", "127.0.0.1:1") + _SASL)
    (place.folder / "tiny.onnx").write_bytes(tiny_model(tiny_contract(("red", "green"))))
    enroll = (
        "enroll",
        "car-1",
        "--workspace",
        ws,
        "--state",
        str(place.car),
        "--model",
        "tiny.onnx",
        "--json",
    )
    run("enroll", *enroll)
    frames = place.folder / "frames" / "drive-1"
    frames.mkdir(parents=True)
    for number in range(30):
        Image.fromarray(np.full((32, 32, 3), number * 8, dtype=np.uint8)).save(frames / f"{number:03d}.png")
    repository = place.canary("password in the address of the repository")
    (place.folder / "agent.toml").write_text(
        _AGENT
        + f'[updates]\nbase_url = "http://user:{repository}@127.0.0.1:9/fleet"\npoll_interval_s = 1.0\n'
    )
    run("agent config", "agent", "config", "--config", "agent.toml")
    run("agent run", "agent", "run", "--config", "agent.toml", for_s=SHORT_S + 4.0, ends=False)
    run("agent status", "agent", "status", "--state", str(place.car), "--json")
    run("agent ledger", "agent", "ledger", "--state", str(place.car), "--json")
    run("doctor", "doctor", "--json")
    run("keys list", "keys", "list", "--workspace", ws)
    run("keys rotate", "keys", "rotate", "models", "--workspace", ws)
    run("status", "status", "--workspace", ws, "--json")
    run("ingest", "ingest", "--workspace", ws, "--json", for_s=40.0)
    run("curate", "curate", "--workspace", ws)
    run("release list", "release", "list", "--workspace", ws)
    run("rollout status", "rollout", "status", "--workspace", ws, for_s=30.0)


_AGENT = """vehicle_id = "car-1"
state_folder = "car"
[source]
kind = "image_folder"
path = "frames"
rate_hz = 20.0
[selection.random]
probability = 1.0
[upload.kafka]
bootstrap = "127.0.0.1:1"
security_protocol = "SASL_PLAINTEXT"
sasl_user = "somebody"
"""


def _mistakes(place: Places) -> None:
    """Secrets where they do not belong, and settings that are refused: what the refusal says."""
    lines = {
        "password in agent.toml": 'sasl_password = "{}"\n',
        "password in the address of a proxy": 'proxy_url = "http://user:{}@host/x"\n',
        "password in the address of a broker": 'bootstrap = "user:{}@host"\n',
    }
    for name, line in lines.items():
        path = place.folder / f"mistake-{len(place.canaries)}.toml"
        agent = _AGENT.replace('bootstrap = "127.0.0.1:1"\n', "") if line.startswith("bootstrap") else _AGENT
        path.write_text(agent + line.format(place.canary(name)))
        place.secret_files.add(path)
        place.command(name, "agent", "run", "--config", str(path), for_s=30.0)
    secret = place.canary("password in the address of a repository of an unknown kind")
    path = place.folder / "mistake-scheme.toml"
    path.write_text(_AGENT + f'[updates]\nbase_url = "ftp://user:{secret}@host/fleet"\n')
    place.secret_files.add(path)
    place.command(
        "an unknown kind of repository", "agent", "run", "--config", str(path), for_s=SHORT_S, ends=False
    )
    other = place.folder / "other"
    other.mkdir()
    secret = place.canary("password in fleetloop.toml")
    (other / "fleetloop.toml").write_text(f'name = "other"\n[kafka]\nsasl_password = "{secret}"\n')
    place.secret_files.add(other / "fleetloop.toml")
    place.command("a password in fleetloop.toml", "status", "--workspace", str(other))


def _published(place: Places) -> None:
    """A dataset with its card, and a wheel of a tree in which secrets lie about."""
    from pipelines.dataset.make import curate
    from tests.pipelines.curate_lake import fleet_rows, label_rows, make_workspace
    from tests.torture.tree import copy_of_the_tree
    from workspace.layout import Workspace

    rows = fleet_rows(4, 3)
    made = make_workspace(place.folder / "curated", rows, label_rows(rows))
    blobs = place.canary("password in the address of the blob store of a dataset")
    (made.root / "fleetloop.toml").write_text(f'name = "curated"\nblobs = "s3://key:{blobs}@bucket"\n')
    place.secret_files.add(made.root / "fleetloop.toml")
    curate(Workspace.open(made.root))
    tree = copy_of_the_tree(place.folder / "tree")
    for file in (".env", "fleet.keys/root.pem", "edge_agent/key.pem", "rollout/models.key", "fleetloop/.env"):
        secret = place.canary(f"{file} in the source tree")
        (tree / file).parent.mkdir(exist_ok=True)
        (tree / file).write_text(f"-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n")
        place.secret_files.add(tree / file)
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place.folder / "dist")],
        cwd=tree,
        capture_output=True,
        check=False,
        timeout=300,
    )
    place.said["output of the build"] = done.stdout + done.stderr
    place.said["number of wheels"] = str(len(list((place.folder / "dist").glob("*.whl")))).encode()
    shutil.rmtree(tree)

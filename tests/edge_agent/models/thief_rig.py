"""A thief of one role's key, who also has the online keys, and a vehicle that asks his repository: one story per seed.

The honest state: releases r2 (its rollout runs), r3 (its rollout was halted) and r4 (no rollout) for the role serving,
and s1 (runs) for the role shadow. The root needs two of its two keys, one of which a thief of the root has. The
repository is served from memory, and nothing is fsynced: what a story is about is who signed what.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import DelegatedRole, MetaFile, TargetFile

from edge_agent.models.desired import authorise
from edge_agent.models.fetch import ModelFetcher
from edge_agent.models.slots import SlotFolder
from edge_agent.models.trust_folder import TrustFolder
from foundation.errors import FleetLoopError
from modelkit.digest import sha256_hex
from rollout.repository import init_repository
from schemas.documents import HALTED, RUNNING, Release
from schemas.downlink import INDEX, INDEX_1, PLANS_KEY, RELEASES_KEY, index_targets
from schemas.roles import SERVING
from tests.edge_agent.models.model_bench import Bench
from tests.edge_agent.models.tuf_rig import evil_bytes, refresh, sign

SHADOW = "shadow"
ROLES = ("models", "rollouts", "targets", "root", "snapshot", "timestamp")
ONLINE = ("snapshot", "timestamp")


class World:
    """The honest state, made once; `story` plays one seed against a copy of the vehicle."""

    def __init__(self, folder: Path) -> None:
        bench = self.bench = Bench(folder)
        bench.repository = init_repository(
            folder / "t2", folder / "k2", threshold=2, root_keys=2, clock=bench.clock
        )
        TrustFolder(bench.state).install(bench.repository.root_bytes())
        for release_id, seed, role in (
            ("r2", 2, SERVING),
            ("r3", 3, SERVING),
            ("r4", 4, SERVING),
            ("s1", 5, SHADOW),
        ):
            bench.release(release_id, seed, role=role)
        bench.plan("r3", HALTED)
        bench.plan("r2")
        bench.plan("s1", role=SHADOW)
        online = refresh(bench)
        for role in ("models", "rollouts"):
            online.fetch_index(role)
        root = bench.repository.path
        self.files = {
            str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
        }
        self.digests = {release.release_id: release.model_digest for release in bench.releases}

    def allowed(self, role: str) -> Mapping[str, frozenset[str]]:
        """Return the digests that the other roles approved, by the role that a vehicle could give them."""
        serving = ("r2", "r3", "r4") if role == "rollouts" else ("r2",)
        return {
            SERVING: frozenset(self.digests[name] for name in serving),
            SHADOW: frozenset({self.digests["s1"]}),
        }

    def story(self, role: str, seed: int, folder: Path) -> Ended:
        """Play one story in an empty folder and tell what the vehicle would serve now."""
        rng = random.Random(f"{role}/{seed}")
        thief = Thief(self, role, rng)
        thief.act()
        state = folder / "vehicle"
        shutil.copytree(self.bench.state, state)
        with without_fsync():
            return self._ask(state, thief)

    def _ask(self, state: Path, thief: Thief) -> Ended:
        made = self.bench.fetcher()
        fetcher = ModelFetcher(
            made._settings,
            state,
            self.bench.clock,
            made._log,
            other_roles=(SHADOW,),
            transport=Served(thief.files),
            start_trial=made._start_trial,
        )
        details = [step.detail for step in self.bench.run(fetcher) + self.bench.run(fetcher)]
        found = {}
        for role in (SERVING, SHADOW):
            candidate = SlotFolder(state, role).read_candidate()
            if candidate is None:
                continue
            try:
                authorise(candidate.slot, TrustFolder(state), self.bench.vehicle, self.bench.clock, role)
            except FleetLoopError:
                continue
            found[role] = candidate.slot.digest
        return Ended(found, thief.told, details)


@dataclass(frozen=True, slots=True)
class Ended:
    """What would be served by role, what the thief did, and what the vehicle's steps said."""

    activated: Mapping[str, str]
    told: list[str]
    details: list[str]


class Served:
    """A repository in memory, as a transport."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def open(self, url: str, start_bytes: int, within_s: float) -> tuple[int, Iterator[bytes]]:
        for folder in ("metadata/", "targets/"):
            if folder in url and (data := self._files.get(folder + url.rpartition(folder)[2])) is not None:
                return start_bytes, iter([data[start_bytes:]])
        raise DownloadHTTPError(f"no {url}", 404)


class Thief:
    """Changes documents at random, signs them with what he has, and publishes them with the online keys."""

    def __init__(self, world: World, role: str, rng: random.Random) -> None:
        self.role, self._rng, self._world = role, rng, world
        self.files = dict(world.files)
        self.told: list[str] = []
        private = Ed25519PrivateKey.generate()
        self._own = CryptoSigner(private)
        self._as_key_id = lambda key: CryptoSigner(private, key)
        keys = world.bench.repository.keys
        self._stolen = {name: keys.signers(name)[:1] for name in (role, *ONLINE)}
        load = world.bench.repository.load
        self._documents = {
            name: load(name).signed for name in ("root", "targets", "models", "rollouts", *ONLINE)
        }
        self._changed: set[str] = set()
        self._is_own: dict[str, CryptoSigner] = {}
        """Roles that a changed document leaves to the thief's own key, and what he signs them with."""
        data = evil_bytes()
        self._put("evil.onnx", data)
        self._evil = replace(
            world.bench.releases[0],
            release_id="evil",
            model_digest=sha256_hex(data),
            model_bytes=len(data),
            model_target="models/evil.onnx",
        )

    def act(self) -> None:
        """Do one to four things, mostly what the stolen key is for, and publish."""
        moves: dict[str, list[Callable[[], None]]] = {
            "models": [self.replace_model, self.add_model, self.exchange_models, self.hide_new_index],
            "rollouts": [self.let_out_evil, self.let_out_another, self.list_models_as_rollouts],
            "targets": [self.take_delegations, self.keep_key_ids, self.list_at_the_top, self.delegate_before],
            "root": [self.take_root],
        }
        mine = moves.get(self.role, [])
        every = [move for each in moves.values() for move in each]
        for _ in range(self._rng.randint(1, 4)):
            move = self._rng.choice(mine if mine and self._rng.random() < 0.7 else every)
            self.told.append(move.__name__)
            move()
        self._publish()

    # Moves of the key of models.

    def replace_model(self) -> None:
        """Other bytes under the id of an approved release."""
        name = self._rng.choice(["r2", "s1"])
        self._release(replace(self._evil, release_id=name, role=SHADOW if name == "s1" else SERVING))

    def add_model(self) -> None:
        self._release(replace(self._evil, role=self._rng.choice([SERVING, SHADOW])))

    def exchange_models(self) -> None:
        """Bytes that were approved for something else."""
        r2, r3, r4, s1 = self._world.bench.releases
        one, other = self._rng.sample([r2, r3, r4, s1], 2)
        self._release(replace(other, release_id=one.release_id, role=one.role))

    def hide_new_index(self) -> None:
        self.replace_model()
        self._documents["models"].targets.pop(f"models/{INDEX}", None)

    # Moves of the key of rollouts.

    def let_out_evil(self) -> None:
        self._plan("evil", self._evil)

    def let_out_another(self) -> None:
        self._plan(
            self._rng.choice(["r3", "r4", "s1"]), self._rng.choice([None, *self._world.bench.releases])
        )

    def list_models_as_rollouts(self) -> None:
        self._list("rollouts")

    # Moves of the key of targets.

    def take_delegations(self) -> None:
        """Both roles go to the thief's own key, who then signs what he likes in their name."""
        targets = self._documents["targets"]
        for role in self._rng.choice(
            [("models",), ("rollouts",), ("models", "rollouts"), ("models", "rollouts")]
        ):
            for key_id in list(targets.delegations.roles[role].keyids):
                if self._rng.random() < 0.8:
                    targets.revoke_key(key_id, role)
            targets.add_key(self._own.public_key, role)
            self._is_own[role] = self._own
        self._changed.add("targets")
        self.replace_model()
        self._plan("r2", self._evil)

    def keep_key_ids(self) -> None:
        """The same key ids, with the thief's public key behind them."""
        delegations = self._documents["targets"].delegations
        for role in ("models", "rollouts"):
            (key_id,) = delegations.roles[role].keyids[:1]
            other = self._own.public_key
            key = type(other)(key_id, other.keytype, other.scheme, other.keyval)
            delegations.keys[key_id] = key
            self._is_own[role] = self._as_key_id(key)
        self._changed.add("targets")
        self.replace_model()
        self._plan("r2", self._evil)

    def list_at_the_top(self) -> None:
        self._list("targets")

    def delegate_before(self) -> None:
        """Another role in front that may also speak of models."""
        delegations = self._documents["targets"].delegations
        other = DelegatedRole("aaa", [self._own.public_key.keyid], 1, terminating=True, paths=["models/*"])
        delegations.keys[self._own.public_key.keyid] = self._own.public_key
        delegations.roles = {"aaa": other, **{k: v for k, v in delegations.roles.items() if k != "aaa"}}
        self._changed.add("targets")
        self.replace_model()

    # Moves of one key of the root.

    def take_root(self) -> None:
        """A next root that trusts the thief, signed by one of the two keys that are needed."""
        root = self._documents["root"]
        for role in ("root", "targets"):
            for key_id in list(root.roles[role].keyids):
                root.revoke_key(key_id, role)
            root.roles[role].threshold = 1
            root.add_key(self._own.public_key, role)
        root.unrecognized_fields.clear()
        self._is_own["targets"] = self._own
        self._changed.add("root")
        self.take_delegations()

    # Parts.

    def _put(self, name: str, data: bytes) -> None:
        self.files[f"targets/models/{sha256_hex(data)}.{name}"] = data

    def _release(self, release: Release) -> None:
        others = [each for each in self._releases() if each.release_id != release.release_id]
        self._index("models", RELEASES_KEY, [*others, release])
        model = self.files.get(
            f"targets/models/{release.model_digest}.{release.model_target.removeprefix('models/')}"
        )
        if model is not None:
            self._target("models", release.model_target, model)

    def _releases(self) -> list[Release]:
        return list(self._world.bench.releases)

    def _plan(self, release_id: str, model: Release | None) -> None:
        plan = replace(
            self._world.bench.plans[0],
            plan_id=f"thief-{release_id}",
            release_id=release_id,
            state=RUNNING,
            role=self._rng.choice([SERVING, SERVING, SHADOW]),
            model_digest=model.model_digest if model else None,
            model_bytes=model.model_bytes if model else None,
        )
        self._index("rollouts", PLANS_KEY, [*self._world.bench.plans, plan])

    def _index(self, role: str, key: str, documents: Any) -> None:
        listed = dict(index_targets(key, documents))
        if self._rng.random() < 0.2:  # rows of version 1 in the list of version 2
            rows = json.loads(listed[INDEX_1]) | {"format": 2}
            listed[INDEX] = json.dumps(rows).encode()
        for name, data in listed.items():
            self.files[f"targets/{role}/{sha256_hex(data)}.{name}"] = data
            self._target(role, f"{role}/{name}", data)

    def _target(self, role: str, path: str, data: bytes) -> None:
        self._documents[role].targets[path] = TargetFile.from_data(path, data, ["sha256"])
        self._changed.add(role)

    def _list(self, role: str) -> None:
        """List the evil model and an index that offers it in the document of a role that may not."""
        data = evil_bytes()
        self._target(role, "models/evil.onnx", data)
        index = index_targets(RELEASES_KEY, [*self._releases(), self._evil])[INDEX]
        self.files[f"targets/models/{sha256_hex(index)}.{INDEX}"] = index
        self._target(role, f"models/{INDEX}", index)

    def _publish(self) -> None:
        snapshot, timestamp = self._documents["snapshot"], self._documents["timestamp"]
        for role in sorted(self._changed, key=ROLES.index):
            document = self._documents[role]
            document.version += 1 if role == "root" else self._rng.choice([1, 1, 1, 2, 1000])
            data = sign(document, self._signers(role))
            self.files[f"metadata/{document.version}.{role}.json"] = data
            if role != "root":
                snapshot.meta[f"{role}.json"] = MetaFile(document.version)
        if self._rng.random() < 0.2:
            self._replay(snapshot)
        snapshot.version += 1
        data = sign(snapshot, self._stolen["snapshot"])
        self.files[f"metadata/{snapshot.version}.snapshot.json"] = data
        timestamp.version += 1
        timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, data, ["sha256"])
        self.files["metadata/timestamp.json"] = sign(timestamp, self._stolen["timestamp"])

    def _replay(self, snapshot: Any) -> None:
        role = self._rng.choice(["models", "rollouts"])
        old = self._rng.randint(1, max(1, snapshot.meta[f"{role}.json"].version - 1))
        if f"metadata/{old}.{role}.json" in self.files:
            self.told.append(f"replay {role} {old}")
            snapshot.meta[f"{role}.json"] = MetaFile(old)

    def _signers(self, role: str) -> list[Any]:
        """Return the right key where he has one, and now and then others with it or in its place."""
        right = [
            *self._stolen.get(role, []),
            *([self._is_own.get(role, self._own)] if role in self._is_own or role == "root" else []),
        ]
        wrong = [self._own, *(signer for each in self._stolen.values() for signer in each)]
        return right if right and self._rng.random() < 0.9 else [self._rng.choice(wrong)]


@contextmanager
def without_fsync() -> Iterator[None]:
    with mock.patch.object(os, "fsync", lambda _fd: None):
        yield


def violations(world: World, role: str, ended: Ended) -> list[str]:
    """Return what was activated without the approval of the other roles."""
    allowed = world.allowed(role)
    names = {digest: name for name, digest in world.digests.items()}
    return [
        f"thief of {role} by {', '.join(ended.told)}: {slot} would be served {names.get(digest, 'what nobody approved')}"
        for slot, digest in ended.activated.items()
        if digest not in allowed[slot]
    ]

"""What is fed to each parser, and that only a declared error comes out of it."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.torture.fuzz_mutate import mutated, mutated_text
from tests.torture.turns import ROOT
from workspace.enrolment_file import load_enrolment

Case = Callable[[random.Random], list[str]]
"""Runs one case; returns what was wrong, and adds to nothing."""


def outcome(call: Callable[[], object]) -> str:
    """`accepted`, `refused`, or the name and text of an error that nobody declared."""
    from foundation.errors import FleetLoopError, GuaranteeBrokenError

    try:
        call()
    except GuaranteeBrokenError as error:
        return f"a guarantee is said to be broken: {error}"
    except FleetLoopError:
        return "refused"
    except (Exception, SystemExit) as error:  # what is looked for is just any error
        return f"{type(error).__module__}.{type(error).__name__}: {str(error)[:200]}"
    return "accepted"


@contextmanager
def codec(_folder: Path) -> Iterator[dict[str, Callable[[random.Random], str]]]:
    """Golden vectors: records in Avro, and one signed record with its headers."""
    from schemas.codec import decode, decode_sample
    from schemas.signing import EnrolledKey, Enrolment, verify

    folder = ROOT / "schemas" / "vectors"
    values = [path.read_bytes() for path in sorted(folder.glob("*.avro"))]
    signed = json.loads((folder / "signed.json").read_text())
    headers = [(name, bytes.fromhex(value)) for name, value in signed["headers"]]
    value, key = bytes.fromhex(signed["value"]), bytes.fromhex(signed["key"])
    enrolment = Enrolment.of(EnrolledKey(**signed["enrolled"]))

    def record(rng: random.Random) -> str:
        data = rng.choice(values)
        data = (
            data[:10] + mutated(data[10:], values, rng) if rng.random() < 0.9 else mutated(data, values, rng)
        )
        return outcome(lambda: decode(data) if rng.random() < 0.8 else decode_sample(data))

    def envelope(rng: random.Random) -> str:
        changed = list(headers)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(changed))
            name, content = changed[at]
            changed[at] = rng.choice(
                [(name, mutated(content, values, rng)), (rng.choice(headers)[0], content)]
            )
        told = mutated(value, values, rng) if rng.random() < 0.2 else value
        return outcome(lambda: verify(tuple(changed), key, told, signed["kind"], enrolment))

    yield {"record": record, "envelope": envelope}


@contextmanager
def spool(_folder: Path) -> Iterator[dict[str, Callable[[random.Random], str]]]:
    """A spool of some segments, delivered in part: any of its files changed, then opened by both sides and used."""
    from foundation.framing import ScannedFrame, encode_frame, scan
    from tests.edge_agent.spool.spool_rig import Spool, sample

    memory = Path("/dev/shm")  # noqa: S108 - a folder of ours is made in it
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory if memory.is_dir() else None) as name:
        made = Spool(Path(name) / "made")
        for number in range(60):
            made.writer.append(sample(800, seed=number))
        made.writer.commit()
        made.reader.refresh()
        leased = made.reader.lease(16_000)
        made.reader.acknowledge([each.identity for each in leased[:15]])
        made.reader.sync()
        made.writer.close()
        made.reader.close()
        files = sorted(
            path for path in (Path(name) / "made").rglob("*") if path.is_file() and path.stat().st_size
        )
        others = [path.read_bytes() for path in files]

        def reframed(data: bytes, rng: random.Random) -> bytes:
            """One to three frames changed, with checksums that fit: what another version or a defect could write."""
            frames = [frame for frame in scan(data) if isinstance(frame, ScannedFrame)]
            for frame in rng.sample(frames, min(len(frames), rng.randint(1, 3))):
                body = data[frame.body_offset : frame.body_offset + frame.body_bytes]
                if body[:1] == b"{" and rng.random() < 0.7:
                    lines = body.decode("utf-8", "replace").replace(",", ",\n").replace("{", "{\n")
                    body = mutated_text(lines, rng).encode("utf-8", "replace")
                elif rng.random() < 0.7:
                    body = mutated(body, others, rng)
                kind = rng.randrange(256) if rng.random() < 0.1 else frame.kind
                meta = mutated(frame.meta, others, rng)[:1000] if rng.random() < 0.3 else frame.meta
                data = data[: frame.offset] + encode_frame(kind, meta, body) + data[frame.end :]
                if len(body) != frame.body_bytes or len(meta) != len(frame.meta):
                    break  # what follows lies elsewhere now
            return data

        def change(rng: random.Random) -> str:
            is_framed = rng.random() < 0.5
            copy = Path(name) / "copy"
            shutil.copytree(Path(name) / "made", copy)
            try:
                for _ in range(rng.randint(1, 2)):
                    path = copy / rng.choice(files).relative_to(Path(name) / "made")
                    data = path.read_bytes()
                    path.write_bytes(reframed(data, rng) if is_framed else mutated(data, others, rng))
                return outcome(lambda: _use(copy))
            finally:
                shutil.rmtree(copy)

        yield {"files": change}


def _use(folder: Path) -> None:
    """A vehicle goes on with the spool: it accepts one more sample and hands everything out."""
    from tests.edge_agent.spool.spool_rig import Spool, sample

    opened = Spool(folder)
    try:
        opened.writer.append(sample(800, seed=1000))
        opened.writer.commit()
        opened.reader.refresh()
        while leased := opened.reader.lease(100_000):
            opened.reader.acknowledge([each.identity for each in leased])
        opened.reader.sync()
    finally:
        opened.writer.close()
        opened.reader.close()


@contextmanager
def config(folder: Path) -> Iterator[dict[str, Callable[[random.Random], str]]]:
    """The agent's settings, a workspace's, its parameters, and the list of enrolled keys."""
    from edge_agent.config import load_agent_settings
    from foundation.settings import print_config
    from pipelines.curate.params import CurateParams
    from schemas.enrolment import EnrolledKey, Enrolment
    from schemas.signing import VehicleKey
    from workspace.layout import Workspace
    from workspace.params_file import load_classes, load_section

    agent = (ROOT / "examples" / "agent.toml").read_text()
    place = 'name = "fleet"\nlake = "lake"\nbootstrap = "127.0.0.1:9092"\nlock_wait_s = 60.0\n[kafka]\nsecurity = "tls"\n'
    params = "classes:\n  - red\n  - green\ncurate:\n  seed: 7\n  budget: 100\n"
    key = VehicleKey.generate()
    keys = Enrolment.of(EnrolledKey("car-1", key.key_id, key.public_b64, 1)).to_json()

    def written(name: str, text: str) -> Path:
        (folder / name).write_text(text, "utf-8", errors="surrogatepass")
        return folder / name

    def of_agent(rng: random.Random) -> str:
        path = written("agent.toml", mutated_text(agent, rng))
        return outcome(lambda: print_config(load_agent_settings(path)))

    def of_workspace(rng: random.Random) -> str:
        written("fleetloop.toml", mutated_text(place, rng))
        return outcome(lambda: Workspace.open(folder))

    def of_params(rng: random.Random) -> str:
        path = written("params.yaml", mutated_text(params, rng))

        def read() -> None:
            load_classes(path)
            load_section(path, "curate", CurateParams)

        return outcome(read)

    def of_keys(rng: random.Random) -> str:
        path = written("enrolment.json", mutated_text(keys, rng))
        return outcome(lambda: load_enrolment(path))

    yield {"agent": of_agent, "workspace": of_workspace, "params": of_params, "enrolment": of_keys}


@contextmanager
def plan(_folder: Path) -> Iterator[dict[str, Callable[[random.Random], str]]]:
    """Releases, rollout plans and the two signed indices, as a vehicle reads and obeys them."""
    from edge_agent.models.desired import desired, plans_of, releases_of
    from edge_agent.models.vehicle import Vehicle
    from schemas.documents import RUNNING, Gate, Release, RolloutPlan, Wave

    one = Release("r2", "tiny", "0" * 64, "models/r2.onnx", 100, "1" * 64, Gate(passed=True), 1)
    waves = (Wave(1, 5, "1" * 64), Wave(2, 10, "2" * 64))
    two = RolloutPlan("r2.1", "r2", RUNNING, waves, ("winter",), ("car-2",), ("car-3",))
    rows = [json.loads(two.to_json()), json.loads(two.to_json()) | {"state": "halted"}]
    plans = json.dumps({"format": 1, "plans": rows}, indent=1)
    releases = json.dumps({"format": 1, "releases": [json.loads(one.to_json())]}, indent=1)
    car = Vehicle("car-1", "0" * 16, 0, ("winter",))

    def text(of: str, read: Callable[[bytes], object]) -> Callable[[random.Random], str]:
        def case(rng: random.Random) -> str:
            if rng.random() < 0.7:
                data = mutated_text(of, rng).encode("utf-8", "surrogatepass")
            else:
                data = mutated(of.encode(), [plans.encode(), releases.encode()], rng)
            return outcome(lambda: read(data))

        return case

    yield {
        "release": text(one.to_json().decode(), Release.from_json),
        "plan": text(two.to_json().decode(), RolloutPlan.from_json),
        "plans": text(plans, lambda data: desired(plans_of(data), car)),
        "releases": text(releases, releases_of),
    }


@contextmanager
def onnx(folder: Path) -> Iterator[dict[str, Callable[[random.Random], str]]]:
    """Model files: any byte changed, and the contract in their metadata changed. What is verified is sometimes tried."""
    from edge_agent.models.settings import TrialLimits
    from edge_agent.models.trial_run import TrialRun
    from fleetloop.demo.bad_models import return_nan_when_dark
    from foundation.clock import SystemClock
    from modelkit.contract import METADATA_KEY
    from modelkit.embed import parse_model
    from modelkit.verify import verify_model
    from tests.fakes.models import tiny_contract, tiny_model

    small = tiny_model(tiny_contract(embedding_size=2))
    models = [small, return_nan_when_dark(small, 50.0), tiny_model()]
    tried = [0]

    def judged(data: bytes) -> str:
        def verify_and_try() -> None:
            verified = verify_model(data, None)
            if tried[0] < 3:
                tried[0] += 1
                path = folder / "model.onnx"
                path.write_bytes(data)
                limits = TrialLimits(min_runs=2, wall_s=20, cpu_s=10)
                TrialRun(path, verified.digest, folder / "none", limits, SystemClock()).wait(60.0)

        return outcome(verify_and_try)

    def of_bytes(rng: random.Random) -> str:
        return judged(mutated(rng.choice(models), models, rng))

    def of_contract(rng: random.Random) -> str:
        model = parse_model(small)
        for entry in model.metadata_props:
            if entry.key == METADATA_KEY:
                text = json.dumps(json.loads(entry.value), indent=1)
                entry.value = mutated_text(text, rng).encode("utf-8", "replace").decode()
        return judged(model.SerializeToString())

    yield {"bytes": of_bytes, "contract": of_contract}

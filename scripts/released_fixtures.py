"""Make tests/fixtures/released/<name>: a workspace, a vehicle's state folder and single documents, as a released commit writes them.

Run once per release, with the code of that commit and the packages of this one, then commit what it wrote:

    git worktree add --detach /tmp/released COMMIT
    PYTHONPATH=/tmp/released .venv/bin/python scripts/released_fixtures.py tests/fixtures/released/NAME
    git worktree remove /tmp/released

Everything in it is made here: pictures drawn from a seed, models of a few kilobytes, keys that are thrown away (private
halves are never copied). The parts of the released code's own test rigs are used to drive it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Make the folder that the command line names."""
    target, parts = Path(sys.argv[1]).resolve(), sys.argv[2:]
    import schemas

    print(f"code of {Path(schemas.__file__).parents[1]}")
    if parts == ["learning"]:
        add_learning(target / "learning")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vehicle(folder / "bench")
        workspace(folder / "work")
        shutil.rmtree(target, ignore_errors=True)
        copied(folder / "bench" / "vehicle", target / "vehicle")
        copied(folder / "bench" / "tuf", target / "tuf")
        copied(folder / "work" / "ws", target / "workspace")
    documents(target)
    add_learning(target / "learning")
    total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{total} bytes in {target}")


def add_learning(target: Path) -> None:
    """Make this part alone, beside what is there."""
    with tempfile.TemporaryDirectory() as name:
        learning(Path(name) / "ws")
        shutil.rmtree(target, ignore_errors=True)
        copied(Path(name) / "ws", target)


def copied(source: Path, target: Path) -> None:
    """Without git, caches, private keys and locks."""
    ignored = shutil.ignore_patterns(".git", ".dvc", ".fleetloop", "*.pem", "*.lock", "current", "data_docs")
    shutil.copytree(source, target, ignore=ignored)
    lock = source / "lake.lock"
    if lock.exists():
        shutil.copy(lock, target / "lake.lock")
    for path in sorted(target.rglob(".gitignore")):  # else git would not keep the fixtures
        path.rename(path.with_name("gitignore"))


def vehicle(folder: Path) -> None:
    """A vehicle that took an update, accepted samples, delivered some, and was stopped in its drive."""
    from edge_agent.config import RandomSettings, SelectionSettings, UncertaintySettings
    from edge_agent.spool.reader import SpoolReader
    from edge_agent.spool.settings import SpoolSettings
    from foundation.clock import ManualClock
    from foundation.events import EventLog
    from schemas.signing import VehicleKey
    from tests.edge_agent.agent_bench import VEHICLE, WALL_NS, Vehicle1, make_frame, settings_for
    from tests.edge_agent.models.model_bench import Bench

    folder.mkdir()
    bench = Bench(folder, ManualClock(WALL_NS))
    VehicleKey.generate().save(bench.state / "key.pem")
    selection = SelectionSettings(
        uncertainty=UncertaintySettings(enabled=False), random=RandomSettings(probability=1.0)
    )
    spool = SpoolSettings(quota_bytes=40_000_000, segment_bytes=20_000, commit_count=4, reserve_bytes=4_000)
    settings = settings_for(folder, selection=selection, spool=spool, state_folder=bench.state)
    car = Vehicle1(settings, clock=bench.clock)
    for number in range(10):
        car.loop.process(make_frame(number, track=f"track-{number // 3}"))
    bench.release("r2", 2)
    bench.plan("r2")
    fetcher = bench.fetcher()
    bench.run(fetcher)
    car.serving.poll()
    for number in range(10, 20):
        car.loop.process(make_frame(number, track=f"track-{number // 3}"))
    car.writer.commit()
    from edge_agent.state_folder import publish_json

    publish_json(car.state.status_path("perceive"), {"pid": 1, "accepted": 20})
    bench.release("r3", 3)
    bench.plan("r3")
    bench.run(bench.fetcher())
    reader = SpoolReader.open(car.state.spool, spool, VEHICLE, bench.clock, EventLog(None))
    with reader:
        leased = reader.lease(20_000)
        reader.acknowledge([each.identity for each in leased])
        reader.sync()
    car.kill()


def workspace(folder: Path) -> None:
    """Two releases, a finished and a running rollout, reports of two vehicles, a lake, a dataset version, a served model."""
    import pyarrow as pa
    from connectors.fakes import FakeBroker, FakeSource
    from connectors.lake_schema import ARRIVALS, LABELS, REFERENCE
    from modelkit.fakes import tiny_contract, tiny_model

    from connectors.lake import LakeTable
    from fleetloop.commands.init import make_workspace
    from fleetloop.commands.rollout import open_reports, open_service
    from foundation.clock import SystemClock
    from modelkit.digest import sha256_hex
    from pipelines.dataset.lock import write_lock
    from pipelines.dataset.versions import commit_version
    from rollout.release import GateReport, publish_release
    from rollout.repository import Repository
    from schemas.codec import encode_telemetry
    from schemas.records import ModelEvent, Telemetry
    from schemas.signing import EnrolledKey, Enrolment, VehicleKey, seal
    from schemas.topics import TOPICS
    from schemas.wire import KIND_TELEMETRY
    from tests.pipelines.curate_lake import CLASSES, fleet_rows, label_rows, reference_rows
    from training.registry import ModelRecord, register_model, set_serving

    folder.mkdir()
    place = make_workspace(folder / "ws", classes=CLASSES, secret="")
    keys = {name: VehicleKey.generate() for name in ("car-0", "car-1", "car-2")}
    Enrolment.of(*(EnrolledKey(n, key.key_id, key.public_b64, 5) for n, key in keys.items())).with_revoked(
        "car-2", 9
    ).save(place.enrolment_path)
    rows = fleet_rows(6, 4)
    parts = (
        (("arrivals"), ARRIVALS, rows),
        ("labels", LABELS, label_rows(rows)),
        ("reference", REFERENCE, reference_rows(2)),
    )
    for name, schema, part in parts:
        LakeTable.create(place.lake_path / name, schema).append(pa.Table.from_pylist(part, schema))
    write_lock(place)
    from pipelines.dataset.dvc import DvcRepository

    DvcRepository(place).repro("curate", "validate")
    commit_version(place, "first drives")
    models = {
        name: tiny_model(tiny_contract(name=name, classes=CLASSES), seed=seed)
        for name, seed in (("v1", 1), ("v2", 2))
    }
    version = json.loads((place.dataset_versions_path / "v1.json").read_text())
    for name, data in models.items():
        record = ModelRecord(
            name, sha256_hex(data), "0" * 64, {"kind": "trafficnet"}, (), version["manifest"]["digest"], ""
        )
        register_model(place.registry_path, data, b"weights", record)
        set_serving(place.registry_path, record)
    repository = Repository(place.tuf_path, place.keys_path, clock=SystemClock())
    for name, data in models.items():
        publish_release(repository, data, GateReport(True, "better"), SystemClock(), release_id=f"r-{name}")
    service = open_service(place)
    service.start("r-v1", "1,rest", ["car-0", "car-1"])
    reports = open_reports(place)
    broker = FakeBroker(clock=SystemClock())
    for at, (name, key) in enumerate(keys.items()):
        digest = sha256_hex(models["v1"])
        events = (
            ModelEvent(10, "0" * 64, "v0", "installed"),
            ModelEvent(20 + at, digest, "v1", "activated", "", "r-v1"),
        )
        for seq in range(3):
            said = Telemetry(
                vehicle_id=name, epoch="1" * 16, previous_epoch="", seq=seq, telemetry_time_ns=seq, monotonic_ns=seq,
                boot_id="boot", agent_version="0", model_digest=digest, model_name="v1", model_events=events,
            )  # fmt: skip
            broker.produce(seal(TOPICS.telemetry, KIND_TELEMETRY, said.identity, encode_telemetry(said), key))
    reports.listen(FakeSource(broker), Enrolment.load(place.enrolment_path))
    service.advance(reports.newest)
    service.halt("by hand")
    service.start("r-v2", "1,rest", ["car-0", "car-1"])


def learning(folder: Path) -> None:
    """A workspace whose models were really trained: a lake of drawn pictures, a dataset version, a base, a candidate, a package."""
    import pyarrow as pa
    import yaml
    from connectors.lake_schema import ARRIVALS, LABELS

    from connectors.lake import LakeTable
    from fleetloop.commands.init import make_workspace
    from fleetloop.commands.train import split_by_params
    from modelkit.images import condition_of, decode_image
    from pipelines.dataset.dvc import DvcRepository
    from pipelines.dataset.lock import write_lock
    from pipelines.dataset.versions import commit_version
    from tests.pipelines.curate_lake import CLASSES, fleet_rows, label_rows, picture
    from training.initial import train_initial
    from training.params import TrainParams
    from training.registry import set_serving
    from training.rows import Row

    place = make_workspace(folder, classes=CLASSES, secret="")
    params = yaml.safe_load(place.params_path.read_text())
    params["split"] = {"validation_ratio": 0.2, "test_ratio": 0.3}
    params["curate"]["quality"]["min_sharpness"] = 0.0
    params["train"]["epochs"] = 1
    params["evaluate"] |= {"bootstrap_samples": 200, "latency_runs": 10}
    place.params_path.write_text(yaml.safe_dump(params))
    rows = fleet_rows(8, 6)
    for name, schema, part in (("arrivals", ARRIVALS, rows), ("labels", LABELS, label_rows(rows))):
        LakeTable.create(place.lake_path / name, schema).append(pa.Table.from_pylist(part, schema))
    split_of = split_by_params(place.params_path)
    drive = next(f"garage-{n}" for n in range(99) if split_of(f"garage-{n}") == "train")
    images = [decode_image(picture(20_000 + number)) for number in range(24)]
    bare = [
        Row(image, f"{n:064x}", CLASSES[n % 3], drive, f"t{n}", condition_of(image), "reference")
        for n, image in enumerate(images)
    ]
    first = train_initial(
        place.root / "registry",
        bare,
        name="v1",
        classes=CLASSES,
        split_of=split_of,
        params=TrainParams(epochs=1),
    )
    set_serving(place.root / "registry", first.record)
    write_lock(place)
    repository = DvcRepository(place)
    repository.repro("curate", "validate")
    commit_version(place, "first drives")
    repository.repro()
    for path in sorted(place.root.rglob("*")):  # what nothing reads again, and is large
        is_large = path.suffix in (".png", ".npz", ".onnx") and "registry" not in path.parts
        if is_large or path.name in ("fp32.onnx", "models.dvc"):  # DVC counts the files that it recorded
            path.unlink()


def documents(target: Path) -> None:
    """One of each document that is read by itself: contract, settings, records of the wire."""
    from modelkit.fakes import tiny_contract, tiny_model

    from edge_agent.config import AgentSettings, SourceKind, SourceSettings
    from foundation.settings import print_config
    from modelkit.embed import read_contract

    folder = target / "documents"
    folder.mkdir()
    (folder / "contract.json").write_text(read_contract(tiny_model(tiny_contract())).to_json())
    source = SourceSettings(kind=SourceKind.IMAGE_FOLDER, path=Path("recording"))
    settings = AgentSettings(vehicle_id="car-1", state_folder=Path("state"), source=source)
    (folder / "agent.toml").write_text(print_config(settings))
    import schemas

    vectors = Path(schemas.__file__).parent / "vectors"
    shutil.copytree(vectors, folder / "vectors")


if __name__ == "__main__":
    main()

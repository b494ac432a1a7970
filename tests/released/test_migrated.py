"""A workspace and a vehicle of a release go on working after the migration: the next dataset, the next model, the next drive."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from connectors.kafka.admin import ensure_topics
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.source import KafkaSource
from connectors.lake.schema import ARRIVALS, LABELS
from connectors.lake.table import LakeTable
from devservers.embedded_broker import EmbeddedBroker
from edge_agent.key_file import save_key
from edge_agent.models.vehicle import read_vehicle, write_vehicle
from edge_agent.status import build_status
from foundation.clock import SystemClock
from pipelines.dataset.versions import list_versions
from pipelines.runner import RunnerSettings
from schemas.codec import decode_sample
from schemas.signing import VehicleKey
from schemas.topics import TOPICS
from services.curate import curate
from services.dataset import commit, diff
from services.init import make_workspace
from services.migrate import migrate_vehicle
from services.migrate_workspace import migrate_workspace
from services.status import workspace_status
from services.training import fine_tune
from services.validate import validate
from tests.conditions import needs_embedded_broker
from tests.edge_agent.agent_bench import png
from tests.pipelines.curate_lake import arrival, label_rows, picture
from tests.released.released import NAMES, copy_of

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("release", NAMES)]
FRAMES = 12


def test_a_workspace_makes_its_next_dataset_and_its_next_model(release: str, tmp_path: Path) -> None:
    root = copy_of(release, "learning", tmp_path)
    for path in sorted(root.rglob("gitignore")):
        path.rename(path.with_name(".gitignore"))
    place = make_workspace(root, with_keys=False)  # git and DVC, of which a fixture holds nothing
    done, _ = migrate_workspace(place)
    assert (done.is_done, done.unreadable) == (True, ())
    status = workspace_status(place)
    assert status.dataset is not None
    assert status.base == status.serving
    assert status.base is not None
    assert (status.dataset.id, status.base.name) == ("v1", "v1")

    curate(place, RunnerSettings())
    again = commit(place, "the dataset of the release, measured as today")
    first, second = (version.manifest for version in list_versions(place))
    assert again.version.id == "v2", (
        "sharpness was a sum of float32 then, which each processor rounds in its own way"
    )
    for told in ("counts", "splits", "classes", "conditions", "removed", "rows"):
        assert second.get(told) == first.get(told), (
            "the same rows, classes and splits from the release's lake.lock"
        )
    assert not commit(place, "the same again").is_new

    rows = [
        arrival(picture(5000 + number), seq=1000 + number, drive=f"later-{number % 4}", offset=1000 + number)
        for number in range(24)
    ]
    for name, schema, part in (("arrivals", ARRIVALS, rows), ("labels", LABELS, label_rows(rows))):
        LakeTable.create(place.lake_path / name, schema).append(pa.Table.from_pylist(part, schema))
    curate(place, RunnerSettings(), with_lock=True)
    assert validate(place, with_expectations=False).failure is None
    new = commit(place, "more drives")
    assert (new.version.id, new.version.parent, new.is_new) == ("v3", "v2", True)
    changed = diff(place, "v2", "v3")
    assert changed.added
    assert not changed.removed

    report = fine_tune(place)
    assert (report["model_name"], report["base_digest"]) == ("v2", status.base.digest)
    assert report["dataset_digest"] == new.version.digest


@needs_embedded_broker
def test_a_vehicle_starts_delivers_what_it_had_and_drives_on(release: str, tmp_path: Path) -> None:
    state = copy_of(release, "vehicle", tmp_path)
    key = VehicleKey.generate()  # a fixture holds no private key
    save_key(key, state / "key.pem")
    write_vehicle(state, replace(read_vehicle(state), key_id=key.key_id))
    assert migrate_vehicle(state, SystemClock()).unreadable == ()
    drive = tmp_path / "recording" / "drive-2"
    drive.mkdir(parents=True)
    for number in range(FRAMES):
        (drive / f"{number:05d}.png").write_bytes(png(number))
    with EmbeddedBroker() as broker:
        kafka = KafkaSettings(bootstrap=broker.bootstrap)
        ensure_topics(kafka)
        config = tmp_path / "agent.toml"
        config.write_text(
            f"""
vehicle_id = "car-1"
state_folder = "{state.name}"
[source]
kind = "image_folder"
path = "recording"
[selection]
limits_tracks = false
[selection.uncertainty]
enabled = false
[selection.random]
probability = 1.0
[upload.kafka]
bootstrap = "{broker.bootstrap}"
"""
        )
        command = [sys.executable, "-m", "fleetloop", "agent", "run", "--config", str(config)]
        done = subprocess.run(
            [*command, "--until-source-ends"], cwd=Path(__file__).parents[2], timeout=240, check=False
        )
        source = KafkaSource(kafka)
        try:
            samples = [
                decode_sample(record.value)
                for partition in source.describe(TOPICS.samples).partitions
                for batch in source.read(TOPICS.samples, partition, *source.bounds(TOPICS.samples, partition))
                for record in batch
                if record.value is not None
            ]
        finally:
            source.close()
    assert done.returncode == 0
    drives = [sample.drive_id for sample in samples]
    assert (drives.count("drive-1"), drives.count("drive-2")) == (15, FRAMES)
    ledger = build_status(state)["ledger"]
    assert isinstance(ledger, dict)
    assert (ledger["accepted"], ledger["pending"], ledger["balances"]) == (20 + FRAMES, 0, True)

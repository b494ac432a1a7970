"""The demo from beginning to end: prepare, enrol, drive, learn, release, drive again, prove, report."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from connectors.embedded_broker import EmbeddedBroker
from connectors.kafka_admin import ensure_topics
from connectors.static_server import StaticServer
from fleetloop.demo.bad_records import repeat_records, send_bad_records
from fleetloop.demo.deploy import ReleaseOutcome, release_bad, release_forged, release_good
from fleetloop.demo.drives import DriveShape
from fleetloop.demo.journeys import Fleet, Road, first_journey
from fleetloop.demo.lab import Lab
from fleetloop.demo.learn import Learnt, learn
from fleetloop.demo.prepare import VEHICLES, Prepared, prepare
from fleetloop.demo.prove import Facts, judge, read_arrivals
from fleetloop.demo.result import build_result
from fleetloop.demo.sources import ImageSource, load_gtsrb, load_traffic_lights
from foundation.errors import MisconfiguredError
from foundation.files import write_atomic, write_json_atomic
from pipelines.curate.params import SplitParams, load_params
from schemas.signing import VehicleKey

REPEATED_RECORDS = 20
MARKER = ".fleetloop-demo"
GTSRB_TRAIN_TRACKS = 420


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the user may choose."""

    out: Path
    dataset: str
    data: Path | None
    bootstrap: str
    seed: int
    scale: float
    label_budget: int
    wheel_folder: Path


def run_demo(options: DemoOptions, console: Console) -> dict[str, Any]:
    """Run the whole loop and write result.json and report.html into `options.out`. Returns the result.

    Raises:
        MisconfiguredError: the data is missing, or `out` holds something that no demo made.
        GuaranteeBrokenError: something that was promised did not hold; the message says what.
    """
    from fleetloop.demo.report import write_report

    _clear(options.out)
    lab = Lab(options.out.resolve(), options.seed, options.scale, console)
    started = time.monotonic()
    broker = EmbeddedBroker() if not options.bootstrap else None
    try:
        bootstrap = options.bootstrap
        with lab.step(
            "broker", "Starting the embedded broker" if broker else f"Using the broker at {options.bootstrap}"
        ):
            if broker is not None:
                bootstrap = broker.start()
            ensure_topics(bootstrap)
        result = _loop(lab, options, bootstrap, started)
    finally:
        if broker is not None:
            broker.close()
    with lab.step("report", "Writing the report"):
        write_json_atomic(lab.out / "result.json", result)
        write_report(lab, result)
    return result


def prepare_only(options: DemoOptions, console: Console) -> Path:
    """Write the drives, the labels and the pictures of v1, and nothing else: what the tutorial starts from."""
    _clear(options.out)
    lab = Lab(options.out.resolve(), options.seed, options.scale, console)
    with lab.step("prepare", "Preparing drives of real images"):
        prepared = prepare(lab, load_source(options), SplitParams(), DriveShape())
    lab.say(f"{prepared.captured_frames} frames for {len(VEHICLES)} vehicles in {options.out / 'drives'}")
    return lab.drives


def _loop(lab: Lab, options: DemoOptions, bootstrap: str, started: float) -> dict[str, Any]:
    from fleetloop.demo.uplink import Uplink

    with lab.step("prepare", "Preparing drives of real images"):
        source = load_source(options)
        lab.run(
            "init", lab.workspace, "--classes", ",".join(source.classes), "--remote", lab.out / "dvc-remote"
        )
        _configure(lab, source, bootstrap)
        prepared = prepare(lab, source, load_params(lab.workspace / "params.yaml").split, DriveShape())
        lab.say(
            f"{prepared.captured_frames} frames for {len(VEHICLES)} vehicles, {prepared.held_out_images} images held out, "
            f"{prepared.bootstrap_images} for v1"
        )
    with lab.step("first_model", "Training v1, weak on purpose"):
        exclude = [word for name in source.untrained_classes for word in ("--exclude-class", name)]
        first = lab.run(
            "train",
            "--from-scratch",
            lab.drives / "bootstrap.parquet",
            "--name",
            "v1",
            *exclude,
            "--exclude-condition",
            "dark",
        )
        lab.run("reference", "add", lab.drives / "reference.parquet")
        lab.say(
            f"v1 never saw {', '.join(first['untrained_classes'])}, nor anything {', '.join(first['untrained_conditions'])}"
        )
    with lab.step("enrol", f"Enrolling {len(VEHICLES)} vehicles"):
        for vehicle_id in VEHICLES:
            lab.run("enroll", vehicle_id, "--state", lab.vehicle(vehicle_id) / "state")
    with (
        StaticServer(lab.workspace / "registry" / "tuf") as server,
        Uplink() as uplink,
        Fleet(lab, Road(bootstrap, server.url, uplink)) as fleet,
    ):
        with lab.step(
            "first_journey", "Driving under v1: select, spool, upload; with an outage and a SIGKILL"
        ):
            frames = {v: pq.read_metadata(lab.drives / v / "first.parquet").num_rows for v in VEHICLES}
            faults = first_journey(lab, fleet, Road(bootstrap, server.url, uplink), frames)
        with lab.step("ingest", "Sending bad records too, and ingesting (Beam)"):
            keys = [VehicleKey.load(lab.vehicle(v) / "state" / "key.pem") for v in VEHICLES[:2]]
            repeated = repeat_records(bootstrap, REPEATED_RECORDS)
            bad = send_bad_records(bootstrap, VEHICLES[0], *keys)
            faults.append(
                f"A gateway repeats {repeated} records of the log byte for byte: each is marked as a resend."
            )
            faults.append(f"{sum(bad.values())} bad records are sent: {', '.join(sorted(bad))}.")
            ingested = lab.run("ingest")
            lab.say(
                f"{ingested['offsets']} offsets: {ingested['landed']} landed, {ingested['resent']} resent, "
                f"{sum(ingested['rejected'].values())} rejected"
            )
        learnt = learn(lab, options.label_budget)
        with lab.step("release", "Releasing v2 in two waves while the vehicles drive"):
            good_model = lab.workspace / "models" / "package" / "model.onnx"
            releases = [release_good(lab, fleet)]
            lab.say(f"{releases[0].id}: {releases[0].reason}")
        with lab.step("forged_release", "Publishing a release signed with the wrong role's key"):
            releases.append(release_forged(lab, fleet, good_model))
            lab.say("no vehicle loaded it")
        with lab.step("bad_release", "Forcing a bad release past the gate"):
            bad_release, bad_facts = release_bad(lab, fleet, good_model)
            releases.append(bad_release)
            fleet.stop_all()
        with lab.step("second_journey", "Driving the same roads again under v2"):
            for vehicle_id in VEHICLES:
                fleet.start(vehicle_id, "second")
            fleet.wait_all()
            lab.run("ingest")
        with lab.step("prove", "Counting, on every disk, what was promised"):
            history = lab.run("rollout", "history", "--events")
            facts = _facts(lab, bootstrap, fleet, bad, prepared, releases, bad_facts, learnt)
            verdicts = judge(facts)
    lab.seconds["total"] = round(time.monotonic() - started, 1)
    return build_result(lab, prepared, facts, verdicts, faults, first, history)


def _facts(
    lab: Lab,
    bootstrap: str,
    fleet: Fleet,
    bad: dict[str, int],
    prepared: Prepared,
    releases: list[ReleaseOutcome],
    bad_facts: dict[str, Any],
    learnt: Learnt,
) -> Facts:
    arrivals, offsets = read_arrivals(lab.workspace, bootstrap)
    return Facts(
        arrivals=arrivals,
        offsets_in_log=offsets,
        statuses={v: fleet.status(v) for v in VEHICLES},
        ledgers={v: lab.run("agent", "ledger", "--state", lab.vehicle(v) / "state") for v in VEHICLES},
        bad_records=bad,
        unreadable_frames=prepared.unreadable_frames,
        releases=releases,
        exposed_to_bad_release=int(bad_facts["exposed"]),
        learnt=learnt,
        workspace=lab.workspace,
    )


def load_source(options: DemoOptions) -> ImageSource:
    """The images that the user chose.

    Raises:
        MisconfiguredError: an unknown name, or no folder for a data set that has to be brought along.
    """
    if options.dataset == "traffic-lights":
        return load_traffic_lights(options.wheel_folder)
    if options.dataset == "gtsrb":
        if options.data is None:
            raise MisconfiguredError(
                "--dataset gtsrb needs --data DIR, a folder with train.parquet and test.parquet"
            )
        return load_gtsrb(options.data, max_train_tracks=GTSRB_TRAIN_TRACKS)
    raise MisconfiguredError(f"--dataset is {options.dataset!r}; it must be traffic-lights or gtsrb")


def _configure(lab: Lab, source: ImageSource, bootstrap: str) -> None:
    """Write the workspace's settings as its user would with an editor."""
    config = lab.workspace / "fleetloop.toml"
    text = config.read_text(encoding="utf-8")
    text = text.replace('bootstrap = "127.0.0.1:9092"', f'bootstrap = "{bootstrap}"')
    text = text.replace('licence = ""', f'licence = "{source.title}: {source.licence}"')
    write_atomic(config, text.encode())


def _clear(out: Path) -> None:
    """Start afresh in a folder that an earlier demo made; never remove anything else."""
    if out.exists():
        if not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).is_file()):
            raise MisconfiguredError(
                f"{out} holds something that no demo made: name another folder with --out"
            )
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / MARKER).touch()

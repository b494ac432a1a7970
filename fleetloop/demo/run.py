"""Run the demo from beginning to end: prepare, enrol, drive, learn, release, drive again, check, report."""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from connectors.kafka.admin import ensure_topics
from devservers.embedded_broker import EmbeddedBroker
from devservers.static_server import StaticServer
from edge_agent.key_file import load_key
from edge_agent.spool.snapshot import read_ledger
from edge_agent.state_folder import StateFolder
from fleetloop.demo.bad_records import repeat_records, send_bad_records
from fleetloop.demo.deploy import WAVES, refuse_malformed, release_bad, release_forged, release_good
from fleetloop.demo.drives import DriveShape
from fleetloop.demo.journeys import Fleet, Road, first_journey
from fleetloop.demo.lab import Lab
from fleetloop.demo.learn import learn
from fleetloop.demo.prepare import VEHICLES, Prepared, prepare
from fleetloop.demo.prove import Facts, count_offsets, judge, read_arrivals, read_receipts
from fleetloop.demo.report import write_report
from fleetloop.demo.result import build_result
from fleetloop.demo.sources import ImageSource, load_gtsrb, load_traffic_lights
from fleetloop.demo.uplink import Uplink
from fleetloop.terminal import Terminal
from foundation.clock import SystemClock
from foundation.errors import FleetLoopError, MisconfiguredError
from foundation.files import write_atomic, write_json_atomic
from pipelines.curate.params import SplitParams, load_params
from schemas.wire import TOPICS
from services import rollout
from services.enrol import enrol_vehicle
from services.ingest import open_ingest
from services.init import make_workspace
from services.reference import add_reference
from services.runners import runner_settings
from services.training import FirstModel, FirstModelRequest, train_first
from workspace.layout import CONFIG_NAME

REPEATED_RECORDS = 20
MARKER = ".fleetloop-demo"
TRACKS_SHAPE = DriveShape(bootstrap_ratio=0.4, max_fleet_drives=27, max_test_images=2000)
"""For a source of thousands of real tracks: a part of them, so that a run takes minutes."""
TRACKS_PARAMS = {"epochs: 20": "epochs: 12", "n_min: 50": "n_min: 150"}
"""Its 43 classes share 2,000 test images: most have too few of them to prove a margin of 5 points, and the gate lists
those as insufficient evidence. Proven harm refuses at any number."""


class InterruptedRunError(FleetLoopError):
    """The user, or the system, interrupted the demo."""

    exit_code = 130
    """As in shells: 128 + SIGINT."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The user's options."""

    out: Path
    dataset: str
    data: Path | None
    bootstrap: str
    seed: int
    scale: float
    label_budget: int
    wheel_folder: Path


def run_demo(options: DemoOptions, console: Terminal) -> dict[str, Any]:
    """Run the whole loop and write result.json and report.html into `options.out`. Returns the result.

    A run that fails leaves a result.json as well: with the error, the steps done, and no guarantees.

    Raises:
        MisconfiguredError: the data is missing, `out` holds something that no demo made, the broker is not empty.
        GuaranteeBrokenError: a guarantee did not hold; the message says which.
        InterruptedRunError: Ctrl-C, SIGTERM or SIGHUP; every started process was ended.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    source = load_source(options)
    _clear(options.out)
    lab = Lab(options.out.resolve(), options.seed, options.scale, console)
    # Or libraries would warn between the lines of the progress.
    logging.basicConfig(filename=lab.out / "demo.log", force=True)
    started = time.monotonic()
    try:
        with _broker(lab, options.bootstrap) as bootstrap:
            result = _loop(lab, options, source, bootstrap)
        with lab.step("report", "Writing the report"):
            write_report(lab, result)
    except FleetLoopError as error:
        _write_broken_off(lab, source, f"{type(error).__name__}: {error}")
        raise
    except KeyboardInterrupt:
        told = f"interrupted during: {lab.under_way}"
        _write_broken_off(lab, source, told)
        raise InterruptedRunError(
            f"{told}. Nothing that the demo started is running any more; run it again and it starts afresh"
        ) from None
    lab.seconds["total"] = round(time.monotonic() - started, 1)
    write_json_atomic(lab.out / "result.json", {"format": 1, **result})
    return result


def _write_broken_off(lab: Lab, source: ImageSource, error: str) -> None:
    """Write the result.json of a run that failed: the steps done, and no guarantees."""
    known = {
        "seed": lab.seed,
        "scale": lab.scale,
        "dataset": {"name": source.name},
        "seconds": lab.seconds,
        "error": error,
        "guarantees": [],
    }
    write_json_atomic(lab.out / "result.json", {"format": 1, **known})


def prepare_only(options: DemoOptions, console: Terminal) -> Path:
    """Write the drives, the labels and the images of v1, and nothing else: the start of the tutorial."""
    source = load_source(options)
    _clear(options.out)
    lab = Lab(options.out.resolve(), options.seed, options.scale, console)
    with lab.step("prepare", "Preparing drives of real images"):
        prepared = prepare(lab, source, SplitParams(), shape_of(source))
    lab.say(f"{prepared.captured_frames} frames for {len(VEHICLES)} vehicles in {options.out / 'drives'}")
    return lab.drives


def _loop(lab: Lab, options: DemoOptions, source: ImageSource, bootstrap: str) -> dict[str, Any]:
    prepared, first = _begin(lab, source, bootstrap)
    place = lab.place
    with ExitStack() as stack:
        server = stack.enter_context(StaticServer(place.tuf_path))
        hosts = [address.rpartition(":")[0] for address in bootstrap.split(",")]
        road = Road(bootstrap, server.url, stack.enter_context(Uplink(hosts)))
        fleet = stack.enter_context(Fleet(lab, road))
        with lab.step(
            "first_journey", "Driving under v1: select, spool, upload; with an outage and a SIGKILL"
        ):
            frames = {v: pq.read_metadata(lab.drives / v / "first.parquet").num_rows for v in VEHICLES}
            faults = first_journey(lab, fleet, road, frames)
        repeated, bad = _ingest(lab, bootstrap, faults)
        learnt = learn(lab, options.label_budget)
        good_model = place.package_path / "model.onnx"
        with lab.step(
            "release",
            "Releasing v2 in two waves while the vehicles drive",
            "release create",
            f"rollout start RELEASE --waves {WAVES}",
            "rollout watch",
        ):
            releases = [release_good(lab, fleet)]
            lab.say(f"{releases[0].id}: {releases[0].reason}")
        with lab.step("forged_release", "Publishing a release signed with the wrong role's key"):
            releases.append(release_forged(lab, fleet, good_model))
            lab.say("no vehicle loaded it")
        with lab.step(
            "bad_release",
            "Forcing a bad release past the gate",
            "release create --model ../v4-fails-in-the-dark.onnx --override-by NAME --override-why REASON",
        ):
            releases.append(release_bad(lab, fleet, good_model))
            fleet.stop_all()
        with lab.step("malformed_models", "Trying to release malformed models"):
            malformed = refuse_malformed(lab, good_model)
        with lab.step("second_journey", "Driving the same roads again under v2", "ingest"):
            for vehicle_id in VEHICLES:
                fleet.start(vehicle_id, "second")
            fleet.wait_all()
            open_ingest(place, runner_settings()).once()
        with lab.step("prove", "Checking the guarantees on every disk", "rollout history --events"):
            facts = Facts(
                arrivals=read_arrivals(place),
                offsets_in_log=count_offsets(bootstrap),
                repeated=repeated,
                receipts={v: read_receipts(lab.receipts(v)) for v in VEHICLES},
                statuses={v: fleet.status(v) for v in VEHICLES},
                ledgers={v: read_ledger(StateFolder(lab.state(v)).spool) for v in VEHICLES},
                bad_records=bad,
                unreadable_frames=prepared.unreadable_frames,
                unordered_restarts=fleet.unordered_restarts,
                malformed=malformed,
                releases=releases,
                model_events=rollout.history(place).events,
                learnt=learnt,
                workspace=lab.workspace,
            )
            verdicts = judge(facts)
    return build_result(lab, prepared, facts, verdicts, faults, first)


def _begin(lab: Lab, source: ImageSource, bootstrap: str) -> tuple[Prepared, FirstModel]:
    """Create the workspace, the drives, a weak first model and the vehicles. Returns the drives and the facts of v1."""
    with lab.step(
        "prepare", "Preparing drives of real images", f"init . --classes {','.join(source.classes)}"
    ):
        make_workspace(
            lab.workspace,
            classes=source.classes,
            remote=lab.out / "dvc-remote",
            licence=f"{source.title}: {source.licence}",
            secret="",  # one seed gives one demo, whose drives are planned before they have a vehicle
        )
        _configure(lab, source, bootstrap)
        prepared = prepare(lab, source, load_params(lab.place.params_path).split, shape_of(source))
        lab.say(
            f"{prepared.captured_frames} frames for {len(VEHICLES)} vehicles, {prepared.held_out_images} images held out, "
            f"{prepared.bootstrap_images} for v1"
        )
    place = lab.place
    excluded = [*(f"--exclude-class {name}" for name in source.untrained_classes), "--exclude-condition dark"]
    with lab.step(
        "first_model",
        "Training v1, weak on purpose",
        f"train --from-scratch ../drives/bootstrap.parquet --name v1 {' '.join(excluded)}",
        "reference add ../drives/reference.parquet",
    ):
        first = train_first(
            place,
            FirstModelRequest(
                lab.drives / "bootstrap.parquet",
                excluded_classes=source.untrained_classes,
                excluded_conditions=("dark",),
            ),
        )
        add_reference(place, lab.drives / "reference.parquet")
        classes, conditions = map(", ".join, (first.untrained_classes, first.untrained_conditions))
        lab.say(f"v1 was not trained on {classes}, nor on anything {conditions}")
    typed = [f"enroll {v} --state ../vehicles/{v}/state" for v in VEHICLES]
    with lab.step("enrol", f"Enrolling {len(VEHICLES)} vehicles", *typed):
        for vehicle_id in VEHICLES:
            enrol_vehicle(place, vehicle_id, lab.state(vehicle_id), (), SystemClock())
    return prepared, first


def _ingest(lab: Lab, bootstrap: str, faults: list[str]) -> tuple[int, dict[str, int]]:
    """Send repeated and bad records, and ingest. Returns the number of repeated ones, and of bad ones by reason."""
    with lab.step("ingest", "Sending bad records too, and ingesting (Beam)", "ingest"):
        keys = [load_key(lab.state(v) / "key.pem") for v in VEHICLES[:2]]
        repeated = repeat_records(bootstrap, REPEATED_RECORDS)
        bad = send_bad_records(bootstrap, VEHICLES[0], *keys)
        faults.append(
            f"A gateway repeats {repeated} records of the log byte for byte: each is marked as a resend."
        )
        faults.append(f"{sum(bad.values())} bad records are sent: {', '.join(sorted(bad))}.")
        done = open_ingest(lab.place, runner_settings()).once()
        lab.say(
            f"{done.offsets} offsets: {done.landed} landed, {done.resent} resent, {sum(done.rejected.values())} rejected"
        )
        return repeated, bad


@contextmanager
def _broker(lab: Lab, named: str) -> Iterator[str]:
    """Use the broker that the user named, or an embedded one for the run; its topics exist and are empty.

    Raises:
        MisconfiguredError: the topic holds records already, so that this run's counts would be wrong.
    """
    with ExitStack() as stack:
        with lab.step("broker", f"Using the broker at {named}" if named else "Starting the embedded broker"):
            broker = None if named else stack.enter_context(EmbeddedBroker())
            bootstrap = named if broker is None else broker.bootstrap
            ensure_topics(bootstrap)
            held = count_offsets(bootstrap) if named else 0
        if held:
            raise MisconfiguredError(
                f"topic {TOPICS.samples} at {named} holds {held} offsets; the demo needs it empty: delete the topic, or name "
                "another broker"
            )
        yield bootstrap


def load_source(options: DemoOptions) -> ImageSource:
    """Load the images that the user chose.

    Raises:
        MisconfiguredError: an unknown name, or no folder for a data set that the user must provide.
    """
    if options.dataset == "traffic-lights":
        beside_source = Path(__file__).parents[2] / options.wheel_folder
        return load_traffic_lights(options.wheel_folder if options.wheel_folder.is_dir() else beside_source)
    if options.dataset == "gtsrb":
        if options.data is None:
            raise MisconfiguredError(
                "--dataset gtsrb needs --data DIR, a folder with train.parquet and test.parquet"
            )
        return load_gtsrb(options.data)
    raise MisconfiguredError(f"--dataset is {options.dataset!r}; it must be traffic-lights or gtsrb")


def _configure(lab: Lab, source: ImageSource, bootstrap: str) -> None:
    """Edit the workspace's settings as its user would."""
    config = lab.workspace / CONFIG_NAME
    text = config.read_text(encoding="utf-8")
    text = text.replace('bootstrap = "127.0.0.1:9092"', f'bootstrap = "{bootstrap}"')
    write_atomic(config, text.encode())
    if source.has_real_tracks:
        params = lab.workspace / "params.yaml"
        text = params.read_text(encoding="utf-8")
        for old, new in TRACKS_PARAMS.items():
            if old not in text:
                raise MisconfiguredError(f"params.yaml has no {old!r} that the demo could change")
            text = text.replace(old, new, 1)
        write_atomic(params, text.encode())


def shape_of(source: ImageSource) -> DriveShape:
    """Return how the source's drives are made."""
    return TRACKS_SHAPE if source.has_real_tracks else DriveShape()


def _clear(out: Path) -> None:
    """Empty a folder that an earlier demo made; never remove anything else."""
    if out.exists():
        if not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).is_file()):
            raise MisconfiguredError(
                f"{out} holds something that no demo made: name another folder with --out"
            )
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / MARKER).touch()

"""Bad models, cut downloads and kills in the middle of a swap: the old model serves throughout."""

from __future__ import annotations

from tests.torture.fault import Batch, BrokenBuild, Fault, Tally

_KILLS = (
    *(("serve", label) for label in ("candidate-read", "verified", "loaded", "plan-read", "persisted", "swapped")),
    ("serve", "gave-way"),
    *(("serve", f"operation {number}") for number in range(8)),
    *(("fetch", f"operation {number}") for number in range(0, 24, 2)),
)  # fmt: skip
_AFTER_KILL = ("sound", "not-finite-when-dark")


def _bad_models(batch: Batch) -> Tally:
    from tests.torture.models_attempt import Vehicle
    from tests.torture.models_bad import KINDS, ROLLED_BACK

    tally = Tally()
    with Vehicle(batch.folder) as vehicle:
        for number in batch.in_time():
            bad = KINDS[number % len(KINDS)]
            wrong, took_s = vehicle.attempt(bad, number)
            tally.judge(wrong, bad.name)
            tally.count(f"{bad.end.replace(' ', '_')}")
            name = "rollback_s" if bad.end == ROLLED_BACK else "refusal_s"
            tally.measure(name, took_s)
        answered = vehicle.frames()
        tally.count("frames_answered", sum(bool(each.model) for each in answered))
        tally.count("frames_not_answered", sum(not each.model for each in answered))
        tally.count("process_deaths", vehicle.deaths)
    return tally


def _killed(batch: Batch) -> Tally:
    from tests.torture.models_attempt import Vehicle, sound
    from tests.torture.models_bad import KINDS

    tally = Tally()
    for number in batch.in_time():
        role, where = _KILLS[number % len(_KILLS)]
        turn = number // len(_KILLS)
        kind = "not-finite-when-dark" if where == "gave-way" else _AFTER_KILL[turn % 2]
        bad = sound() if kind == "sound" else next(each for each in KINDS if each.name == kind)
        folder = batch.folder / str(number)
        folder.mkdir()
        with Vehicle(folder, **{f"{role}_kill": where}) as vehicle:
            wrong, took_s = vehicle.attempt(bad, number)
            if not vehicle.deaths:
                tally.count("attempts_that_had_no_such_step")
            tally.count("kills", vehicle.deaths)
            tally.count("frames_answered", sum(bool(each.model) for each in vehicle.frames()))
            tally.measure("served_again_and_decided_s", took_s)
        tally.judge(wrong, f"{bad.name}, {role} killed at {where}")
    return tally


FAULTS = (
    Fault(
        "bad-models",
        9,
        ("G6", "G10"),
        "Signed releases of more than 40 kinds of bad model and tampered file are offered to a vehicle while it answers frames: "
        "each is refused or rolled back within 60 s, and each frame is answered once, finite, by a model that may serve.",
        "one bad model offered",
        full=90,
        turn=4,
        full_turn=45,
        run=_bad_models,
        real="real processes (serving with ONNX Runtime, fetching, trial), real signed repository over HTTP, real disk; tiny "
        "models; the frames are made",
        broken=(
            BrokenBuild(
                "a model that failed its trial is offered all the same",
                "edge_agent/models/fetch.py",
                "        if not result.passed:\n",
                "        if False:\n",
                tries=4,
            ),
            BrokenBuild(
                "outputs that are not finite are no reason to roll back",
                "edge_agent/models/health.py",
                "        if bad:\n",
                "        if False:\n",
                tries=2,
                first=2,
            ),
            BrokenBuild(
                "starts on probation are not counted",
                "edge_agent/models/active.py",
                "        if not self.state.confirmed or",
                "        if False and",
                tries=1,
                first=4,
            ),
        ),
    ),
    Fault(
        "bad-models-killed",
        9,
        ("G6",),
        "The serving or the fetching process is killed in the middle of taking a model, sound or bad, or of giving it up: a "
        "model serves after the restart, no frame is skipped, and the attempt comes to its right end within 60 s.",
        "one SIGKILL",
        full=2 * len(_KILLS),
        turn=2,
        full_turn=9,
        run=_killed,
        real="real processes and disk, SIGKILL at labelled steps and at numbered file operations; tiny models",
        broken=(
            BrokenBuild(
                "the slot is named in active.json before its bytes are looked at",
                "edge_agent/models/role_model.py",
                '        self._on_step("candidate-read")\n',
                "        self._models.decide(replace(self._state, active=replace(candidate.slot, digest='0' * 64)))\n"
                '        self._on_step("candidate-read")\n',
                tries=1,
            ),
        ),
    ),
)

"""One hostile vehicle beside two honest ones: a seeded mixture of every attack that we know."""

from __future__ import annotations

from tests.torture.fault import Batch, BrokenBuild, Fault, Tally


def _attack(batch: Batch) -> Tally:
    from tests.torture.hostile_world import run

    return run(batch)


FAULTS = (
    Fault(
        name="hostile-vehicle",
        group=12,
        guarantees=("G3", "G5", "G8", "G11"),
        what=(
            "One of three vehicles sends payload references, broken pictures, header blocks, class names, embeddings, clocks, "
            "names of drives and tracks, near and exact copies, a dense scene, replays, conflicts, records in another's "
            "name, garbage, telemetry and more than its quota, in a mixture drawn from a seed, and then has all of it labelled: "
            "the samples and dataset rows of the other two are what they were without it, each gets its share of the labels, "
            "each offset has its row with its reason, and no step stops."
        ),
        one_try="one mixture of 34 to 138 records",
        full=500,
        turn=1,
        full_turn=20,
        fixed=1,
        run=_attack,
        real="ingest, label, curate and validate are real, with real signatures and files; the broker is in memory, "
        "pictures are simulated, the scores that vehicles claim are believed",
        turn_limit_s=900.0,
        broken=(
            BrokenBuild(
                "a labelled copy that came later takes a frame of another vehicle out",
                "pipelines/curate/near_duplicates.py",
                '        pl.col("place_match") < pl.col("place"),\n',
                "",
                tries=3,
            ),
            BrokenBuild(
                "labels go to the highest claimed scores",
                "pipelines/curate/fair_shares.py",
                '            ordered = ordered.filter(place < pl.col("share").fill_null(0)).drop("share")\n',
                '            ordered = ordered.filter(place < 10**9).drop("share")\n',
                tries=3,
            ),
            BrokenBuild(
                "who sends the very bytes of another goes before it by name",
                "pipelines/curate/exact_duplicates.py",
                '        pl.when(is_contested).then("ingest_time_ns"),\n',
                "",
                tries=3,
            ),
        ),
    ),
)

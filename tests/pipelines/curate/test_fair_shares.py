"""One hostile vehicle among ten gets its tenth of the labels, whatever it sends, and takes none from another's tracks."""

from __future__ import annotations

import hashlib
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.labels.ports import Label
from pipelines.curate.fair_shares import equal_parts
from pipelines.curate.labelling import ask
from pipelines.curate.params import LabelParams, Strategy
from pipelines.curate.rarest_class import with_rarest_class
from pipelines.curate.scores import embedding_form
from pipelines.curate.selection import select
from tests.pipelines.curate.test_coverage import Desk, params_with, track
from tests.pipelines.curate.test_selection import SCHEMA

BUDGET = 200


def frame(vehicle: str, number: int, drive: str, track: str | None, split: str, **claims: object) -> dict:  # type: ignore[type-arg]
    sha = hashlib.sha256(f"{vehicle}/{number}".encode()).hexdigest()
    score = claims.pop("score", (number * 37 % 100) / 200)
    return {
        "payload_sha256": sha, "vehicle_id": vehicle, "drive_id": drive, "track_id": track, "split": split,
        "predicted_class": "aab"[number % 3], "model_digest": "m", "score_entropy": score,
        "score_margin": score, "score_least_confidence": score,
        "embedding": [float(number % 7), float(number % 11), 1.0], **claims,
    }  # fmt: skip


def honest(vehicles: int = 9, frames: int = 120) -> list[dict]:  # type: ignore[type-arg]
    return [
        frame(f"car-{v}", n, f"d{n // 30}", f"t{n // 3}", "test" if n // 30 == 0 else "train")
        for v in range(vehicles)
        for n in range(frames)
    ]


def drawn_first(number: int) -> str:
    """Bytes whose hash was sought until chance draws them before everybody else, where the salt is known."""
    tried = 0
    while True:
        sha = hashlib.sha256(f"evil {number} {tried}".encode()).hexdigest()
        if hashlib.sha256(f"0/{sha}".encode()).hexdigest() < "04":
            return sha
        tried += 1


def hostile(frames: int = 300) -> list[dict]:  # type: ignore[type-arg]
    """A vehicle that claims the highest scores, no track, a rare class, many drives, and bytes that chance draws first."""
    return [
        frame(
            "evil", n, f"e{n}", None, "test" if n % 3 == 0 else "train", score=1.0,
            predicted_class="c", payload_sha256=drawn_first(n),
        )
        for n in range(frames)
    ]  # fmt: skip


def table(rows: list[dict]) -> pl.DataFrame:  # type: ignore[type-arg]
    return pl.DataFrame(rows, schema=SCHEMA)


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_vehicle_that_claims_everything_gets_its_share_of_the_labels_in_every_arm(
    strategy: Strategy,
) -> None:
    params = LabelParams(strategy)
    alone = select(table(honest()), table([]), BUDGET, params)
    beside = select(table(honest() + hostile()), table([]), BUDGET, params)
    of = {name: Counter(part["vehicle_id"]) for (name,), part in beside.group_by("arm")}
    assert alone.height == beside.height == BUDGET
    assert BUDGET - sum(each["evil"] for each in of.values()) >= 0.9 * alone.height
    for arm, vehicles in of.items():
        assert vehicles["evil"] <= -(-vehicles.total() // len(vehicles)), arm
    assert min(Counter(beside["vehicle_id"]).values()) >= BUDGET // 10


def test_rounds_of_one_request_share_one_budget(tmp_path: object) -> None:
    rows = table(honest(4, 60) + hostile(60)).with_columns(
        pl.lit("unlabelled").alias("state"),
        pl.lit(None, pl.String).alias("reason"),
        pl.lit(None, pl.String).alias("identity"),
        pl.lit(8, pl.Int32).alias("width_pixels"),
        pl.lit(8, pl.Int32).alias("height_pixels"),
    )

    class AnyClass(Desk):
        def request(self, payload_sha256s):  # type: ignore[no-untyped-def]
            self.requests.append(list(payload_sha256s))
            return [Label(sha, "a", "desk", 1, 1.0) for sha in payload_sha256s]

    for (
        salt
    ) in "abcdef":  # one of them gives a seat that does not divide to the hostile vehicle, in each round
        desk = AnyClass()
        params = params_with(LabelParams(Strategy.COVERAGE, rounds=5, salt=salt), tmp_path)  # type: ignore[arg-type]
        chosen, _ = ask(rows, desk, 30, params)
        assert len(desk.requests) == 5
        assert Counter(chosen["vehicle_id"])["evil"] <= 7


def test_where_the_others_have_no_frames_of_one_arm_their_labels_come_from_another() -> None:
    of_test = [frame(f"car-{v}", n, "d0", None, "test") for v in range(9) for n in range(40)]
    for strategy in Strategy:
        beside = select(table(of_test + hostile(100)), table([]), 100, LabelParams(strategy))
        assert Counter(beside["vehicle_id"])["evil"] <= 10
        assert beside.height == 100


def test_a_vehicle_that_names_anothers_drive_and_track_spends_none_of_its_labels() -> None:
    victim = [frame("victim", n, "d", f"t{n // 3}", "train", score=0.5) for n in range(300)]
    thief = [frame("thief", n, "d", f"t{n}", "train", score=1.0) for n in range(100)]
    params = LabelParams(Strategy.MARGIN, random_ratio=0.0, test_ratio=0.0)
    alone = Counter(select(table(victim), table([]), 40, params)["track_id"])
    beside = select(table(victim + thief), table([]), 80, params).filter(pl.col("vehicle_id") == "victim")
    assert Counter(beside["track_id"]) == alone
    labelled = table(thief).with_columns(pl.lit("a").alias("class_name"))
    after = select(table(victim), labelled, 40, params)
    assert Counter(after["track_id"]) == alone


def test_one_drive_takes_at_most_half_of_its_vehicles_labels_while_others_have_frames() -> None:
    rows = [frame("car", n, "parked", None, "train", score=1.0) for n in range(500)]
    rows += [frame("car", 1000 + n, f"d{n % 5}", None, "train", score=0.1) for n in range(100)]
    params = LabelParams(Strategy.ENTROPY, random_ratio=0.0, test_ratio=0.0)
    chosen = Counter(select(table(rows), table([]), 40, params)["drive_id"])
    assert chosen["parked"] == 20
    assert chosen.total() == 40


def test_a_secret_salt_makes_bytes_that_were_sought_to_be_drawn_as_likely_as_any_others() -> None:
    # One vehicle, so that no share helps: what it sought against the public draw loses it under the salt.
    sought = [frame("car", n, f"d{n % 50}", None, "train", payload_sha256=drawn_first(n)) for n in range(100)]
    plain = [frame("car", 500 + n, f"d{n % 50}", None, "train") for n in range(900)]
    names = {row["payload_sha256"] for row in sought}

    def drawn(salt: str) -> int:
        params = LabelParams(Strategy.RANDOM, salt=salt, random_ratio=0.0, test_ratio=0.0)
        chosen = select(table(sought + plain), table([]), 100, params)
        return len(names & set(chosen["payload_sha256"]))

    assert drawn("") >= 80
    assert drawn("b3f1" * 8) <= 30


def test_classes_that_the_contract_does_not_have_are_no_classes(tmp_path: object) -> None:
    rows = table([frame("evil", n, "d", None, "train", predicted_class=f"new-{n}") for n in range(50)])
    task = params_with(LabelParams(), tmp_path).task  # type: ignore[arg-type]
    known, _ = with_rarest_class(rows.vstack(table(honest(1, 3))), table([]), task, ("a", "b"))
    assert set(known["predicted_class"]) == {None, "a", "b"}


def test_a_vehicle_whose_embeddings_have_another_form_takes_the_nearest_class_from_no_other_track() -> None:
    labelled = track("k", "a", "b", class_name="b", vehicle_id="car-1")
    seen = pl.concat([track(f"u{n}", "a", "b", vehicle_id=f"car-{n}") for n in range(3)])
    forms = [
        frame("evil", n, f"d{n}", None, "train", model_digest="m", embedding=[1.0] * 4096) for n in range(200)
    ]
    forms += [frame("evil", 900 + n, f"d{n}", None, "train", model_digest="z") for n in range(200)]
    evil = table(forms).with_columns(
        pl.lit(32, pl.Int32).alias("width_pixels"), pl.lit(32, pl.Int32).alias("height_pixels")
    )
    params = LabelParams(Strategy.COVERAGE, 1, 0.0, 0.0)
    classes = {}
    for name, pool in (("alone", seen), ("beside", pl.concat([seen, evil]))):
        assert embedding_form(pool) == ("m", 3)
        chosen = select(pool, labelled, 6, params).filter(pl.col("vehicle_id") != "evil")
        classes[name] = sorted(chosen["track_id"])
    assert classes["alone"] == classes["beside"] == ["u0", "u1", "u2"]


@given(
    st.dictionaries(st.text(max_size=3), st.integers(0, 40), max_size=8),
    st.integers(0, 120),
    st.dictionaries(st.text(max_size=3), st.integers(0, 40), max_size=8),
)
def test_parts_are_as_equal_as_the_frames_allow_and_spend_all(
    capacity: dict[str, int], seats: int, taken: dict[str, int]
) -> None:
    parts = equal_parts(capacity, seats, taken, "s")
    assert parts == equal_parts(dict(reversed(capacity.items())), seats, taken, "s")
    assert sum(parts.values()) == min(seats, sum(capacity.values()))
    assert all(0 <= parts[name] <= capacity[name] for name in capacity)
    for name, part in parts.items():
        if part == capacity[name]:
            continue
        for other, more in parts.items():  # nobody has more than one above somebody who could have had more
            assert more == 0 or more + taken.get(other, 0) <= part + taken.get(name, 0) + 1

"""Guarantee 5, first half: a drive is in one split for ever."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from pipelines.curate.params import SplitParams
from pipelines.curate.split import drive_name, split_of, with_drive_names, with_split
from schemas.reasons import Split

DRIVES = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=40)


def test_a_drive_keeps_the_split_that_it_was_given_long_ago() -> None:
    params = SplitParams(validation_ratio=0.1, test_ratio=0.25)
    assert [str(split_of(f"drive-{n}", params)) for n in range(12)] == [
        "train",
        "test",
        "train",
        "train",
        "test",
        "train",
        "train",
        "train",
        "validation",
        "validation",
        "validation",
        "test",
    ]


@given(drives=DRIVES, order=st.randoms())
def test_the_split_of_a_drive_depends_on_nothing_but_its_id(drives: list[str], order: object) -> None:
    params = SplitParams()
    alone = {drive: str(split_of(drive, params)) for drive in drives}
    shuffled = list(drives)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    together = with_split(pl.DataFrame({"drive_id": shuffled}), params)
    assert dict(together.iter_rows()) == alone


@given(drives=DRIVES, validation=st.floats(0, 0.5))
def test_changing_the_share_of_validation_moves_no_drive_into_or_out_of_test(
    drives: list[str], validation: float
) -> None:
    before, after = SplitParams(0.1, 0.25), SplitParams(validation, 0.25)
    for drive in drives:
        assert (split_of(drive, before) is Split.TEST) == (split_of(drive, after) is Split.TEST)


def test_the_shares_are_about_what_was_asked_for() -> None:
    params = SplitParams(validation_ratio=0.1, test_ratio=0.3)
    found = [split_of(f"d{n}", params) for n in range(4000)]
    assert abs(found.count(Split.TEST) / 4000 - 0.3) < 0.03
    assert abs(found.count(Split.VALIDATION) / 4000 - 0.1) < 0.02


def test_two_vehicles_never_share_a_drive_and_none_can_name_one_whose_split_is_known() -> None:
    params = SplitParams(salt="5a17" * 8, per_vehicle=True)
    drives = [f"d{n}" for n in range(400)]
    rows = pl.DataFrame(
        {"vehicle_id": ["car-1"] * 400 + ["car-2"] * 400 + [None] * 400, "drive_id": drives * 3}
    )
    found = with_split(with_drive_names(rows, params), params)
    assert found["drive_id"].n_unique() == 1200
    assert found.filter(pl.col("vehicle_id").is_null())["drive_id"].to_list() == drives
    first, second, reference = (found["split"].to_list()[n * 400 : (n + 1) * 400] for n in range(3))
    assert len({tuple(first), tuple(second), tuple(reference)}) == 3


def test_a_vehicle_that_sought_names_of_test_drives_has_no_more_of_them_under_a_secret_salt() -> None:
    sought = [
        name for name in (f"evil-{n}" for n in range(2000)) if split_of(name, SplitParams()) is Split.TEST
    ]
    secret = SplitParams(salt="5a17" * 8, per_vehicle=True)
    of_test = [split_of(drive_name("evil", name, secret), secret) is Split.TEST for name in sought]
    assert abs(sum(of_test) / len(sought) - secret.test_ratio) < 0.08


def test_a_manifest_names_a_salt_by_its_digest_only_and_an_old_split_as_it_always_did() -> None:
    told = SplitParams(salt="5a17" * 8, per_vehicle=True).as_json()
    assert "5a17" not in str(told) and len(str(told["salt"])) == 16
    assert SplitParams().as_json() == {"validation_ratio": 0.1, "test_ratio": 0.3, "salt": ""}

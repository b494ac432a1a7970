"""Guarantee 5, first half: a drive is in one split for ever."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from pipelines.curate.params import SplitParams
from pipelines.curate.split import split_of, with_split
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

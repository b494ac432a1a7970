"""An identity has one written form, and sorts by vehicle, epoch and seq."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import RejectedError
from schemas.identity import Identity, is_epoch, new_epoch
from schemas.reasons import ValueClass

identities = st.builds(
    Identity,
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
    st.from_regex(r"[0-9a-f]{16}", fullmatch=True),
    st.integers(0, 2**63 - 1),
)


@given(identities)
def test_an_identity_is_parsed_from_what_it_writes(identity: Identity) -> None:
    assert Identity.parse(str(identity)) == identity


@given(st.text())
def test_text_that_parses_is_the_canonical_form(text: str) -> None:
    try:
        identity = Identity.parse(text)
    except RejectedError as error:
        assert error.reason == "malformed_identity"
    else:
        assert str(identity) == text


@pytest.mark.parametrize(
    "text",
    ["", "v/0/0", "v/0123456789abcdef/01", "v/0123456789abcdef/-1",
     "v/0123456789abcdef/1\n", "-v/0123456789abcdef/1",
     "v/0123456789ABCDEF/1", "v" * 64 + "/0123456789abcdef/1",
     "v/0123456789abcdef/9999999999999999999",
     "v/0123456789abcdef/\u0661"],
)  # fmt: skip
def test_other_forms_are_refused_and_named(text: str) -> None:
    with pytest.raises(RejectedError, match="is not of the form"):
        Identity.parse(text)


def test_a_truth_value_is_no_seq() -> None:
    with pytest.raises(RejectedError):
        Identity("v", "0" * 16, True)


def test_seqs_sort_as_numbers_within_an_epoch() -> None:
    epoch = "0" * 16
    assert Identity("v", epoch, 9) < Identity("v", epoch, 10) < Identity("w", epoch, 0)


def test_epochs_are_drawn_anew_and_reproducibly_where_asked() -> None:
    assert len({new_epoch() for _ in range(100)}) == 100
    assert new_epoch(random.Random(1)) == new_epoch(random.Random(1))
    assert is_epoch(new_epoch())


def test_value_classes_are_ordered_and_have_their_words() -> None:
    assert [member.label for member in sorted(ValueClass)] == ["low", "normal", "high", "critical"]
    assert all(ValueClass.from_label(member.label) is member for member in ValueClass)

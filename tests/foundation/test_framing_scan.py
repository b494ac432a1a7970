"""What was framed is found again, whatever happens to the bytes around it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import CorruptError, RejectedError
from foundation.framing import (
    HEADER_BYTES,
    MAGIC,
    MAX_META_BYTES,
    Damage,
    ScannedFrame,
    encode_frame,
    read_frame,
    scan,
)

frames = st.lists(
    st.tuples(st.integers(0, 255), st.binary(max_size=40), st.binary(max_size=200)), min_size=1, max_size=8
)


def whole(items: list[ScannedFrame | Damage]) -> list[ScannedFrame]:
    return [item for item in items if isinstance(item, ScannedFrame)]


def contents(data: bytes, items: list[ScannedFrame | Damage]) -> list[tuple[int, bytes, bytes]]:
    return [
        (item.kind, item.meta, data[item.body_offset : item.body_offset + item.body_bytes])
        for item in whole(items)
    ]


def assert_covers(items: list[ScannedFrame | Damage], size: int) -> None:
    """Every byte belongs to exactly one item: nothing is skipped silently."""
    at = 0
    for item in items:
        begin = item.offset if isinstance(item, ScannedFrame) else item.begin
        assert begin == at
        assert item.end > begin
        at = item.end
    assert at == size


@given(frames)
def test_frames_come_back_as_they_were_put_in(given_frames: list[tuple[int, bytes, bytes]]) -> None:
    data = b"".join(encode_frame(*frame) for frame in given_frames)
    items = list(scan(data))
    assert contents(data, items) == given_frames
    assert_covers(items, len(data))


def test_a_cut_at_any_byte_loses_only_the_frame_it_cuts() -> None:
    parts = [encode_frame(kind, b"meta", bytes(range(kind * 20))) for kind in range(1, 5)]
    data = b"".join(parts)
    ends = [sum(map(len, parts[: index + 1])) for index in range(len(parts))]
    for cut in range(len(data) + 1):
        items = list(scan(data[:cut]))
        assert [frame.end for frame in whole(items)] == [end for end in ends if end <= cut]
        assert_covers(items, cut)
        if cut not in (0, *ends):
            assert isinstance(items[-1], Damage)
            assert items[-1].end == cut


def test_a_flip_of_any_bit_loses_only_the_frame_it_hits() -> None:
    parts = [encode_frame(kind, b"m%d" % kind, b"body %d" % kind * 3) for kind in range(3)]
    data = b"".join(parts)
    begin, end = len(parts[0]), len(parts[0]) + len(parts[1])
    for bit in range(begin * 8, end * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        items = list(scan(damaged))
        assert [frame.kind for frame in whole(items)] == [0, 2], f"bit {bit}"
        (damage,) = (item for item in items if isinstance(item, Damage))
        assert (damage.begin, damage.end) == (begin, end)


def test_a_damaged_body_still_says_whose_it_was() -> None:
    data = bytearray(encode_frame(7, b"car-1/3", b"x" * 100) + encode_frame(8, b"", b"next"))
    data[60] ^= 1
    damage, after = scan(bytes(data))
    assert isinstance(damage, Damage)
    assert damage.header is not None
    assert (damage.header.kind, damage.header.meta, damage.header.body_bytes) == (7, b"car-1/3", 100)
    assert isinstance(after, ScannedFrame)


@given(frames, st.binary(max_size=300), frames)
def test_rubbish_between_frames_hides_none_of_them(
    before: list[tuple[int, bytes, bytes]], rubbish: bytes, after: list[tuple[int, bytes, bytes]]
) -> None:
    rubbish = rubbish.replace(MAGIC, b"")
    data = (
        b"".join(encode_frame(*frame) for frame in before)
        + rubbish
        + b"".join(encode_frame(*frame) for frame in after)
    )
    items = list(scan(data))
    assert contents(data, items) == before + after
    assert_covers(items, len(data))


def test_a_frame_appended_after_a_torn_one_is_found() -> None:
    torn = encode_frame(1, b"torn", b"t" * 500)[:-90]
    data = torn + encode_frame(2, b"", b"u" * 30) + encode_frame(3, b"", b"v" * 200)
    assert [frame.kind for frame in whole(list(scan(data)))] == [2, 3]


def test_a_frame_stored_inside_a_good_body_is_never_taken_for_one() -> None:
    data = encode_frame(1, b"", encode_frame(9, b"inner", b"inner")) + encode_frame(2, b"", b"")
    assert [frame.kind for frame in whole(list(scan(data)))] == [1, 2]


def test_a_body_damaged_around_an_inner_frame_yields_no_inner_frame() -> None:
    data = bytearray(
        encode_frame(1, b"", b"abc" + encode_frame(9, b"", b"inner")) + encode_frame(2, b"", b"")
    )
    data[HEADER_BYTES] ^= 1
    assert [frame.kind for frame in whole(list(scan(bytes(data))))] == [2]


@given(st.binary(max_size=2000))
def test_any_bytes_at_all_are_scanned_to_the_end(data: bytes) -> None:
    assert_covers(list(scan(data)), len(data))


def test_a_file_is_scanned_as_memory_is_across_window_edges(tmp_path: Path) -> None:
    rng = random.Random(5)
    data = bytearray()
    for index in range(60):
        data += encode_frame(index, b"m" * rng.randrange(90), rng.randbytes(rng.randrange(120_000)))
        if index % 7 == 0:
            data += rng.randbytes(rng.randrange(1, 3000))
    for _ in range(20):
        data[rng.randrange(len(data))] ^= 0x10
    path = tmp_path / "segment"
    path.write_bytes(data)
    items = list(scan(path))
    assert items == list(scan(bytes(data)))
    assert len(whole(items)) >= 40
    with path.open("rb") as file:
        assert list(scan(file.fileno())) == items
        frame = whole(items)[3]
        found = read_frame(file.fileno(), frame.offset, frame.end)
        assert found is not None and found[1] == data[frame.body_offset : frame.end]


def test_an_index_is_built_without_reading_bodies(tmp_path: Path) -> None:
    data = bytearray(encode_frame(1, b"a", b"x" * 1000) + encode_frame(2, b"b", b"y" * 1000))
    data[500] ^= 1
    assert [frame.meta for frame in whole(list(scan(bytes(data), check_bodies=False)))] == [b"a", b"b"]


def test_a_scan_keeps_to_the_interval_it_was_given() -> None:
    one, two, three = (encode_frame(kind, b"", b"z") for kind in (1, 2, 3))
    items = list(scan(one + two + three, len(one), len(one) + len(two)))
    assert [(frame.offset, frame.kind) for frame in whole(items)] == [(len(one), 2)]


@pytest.mark.parametrize(
    ("kind", "meta", "word"), [(256, b"", "256"), (-1, b"", "-1"), (1, b"m" * (MAX_META_BYTES + 1), "65537")]
)
def test_what_no_reader_would_take_is_not_framed(kind: int, meta: bytes, word: str) -> None:
    with pytest.raises(RejectedError, match=word):
        encode_frame(kind, meta, b"")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="nowhere"):
        list(scan(tmp_path / "nowhere"))


def test_a_body_that_was_cut_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(encode_frame(1, b"", b"x" * 100))
    with path.open("r+b") as file:
        (frame,) = whole(list(scan(file.fileno())))
        file.truncate(50)
        assert read_frame(file.fileno(), frame.offset, frame.end) is None


@pytest.mark.parametrize("short_bytes", range(6))
def test_a_frame_across_two_windows_of_the_search_is_found(tmp_path: Path, short_bytes: int) -> None:
    begin = 1 + 1024 * 1024 - short_bytes  # the search starts one byte after the damage begins
    data = bytes(begin) + encode_frame(4, b"m", b"body")
    path = tmp_path / "segment"
    path.write_bytes(data)
    assert list(scan(data)) == list(scan(path))
    assert [(frame.offset, frame.kind) for frame in whole(list(scan(path)))] == [(begin, 4)]


@pytest.mark.parametrize("meta_bytes", [0, 40, 1_000, 1_001, 5_000, MAX_META_BYTES])
def test_one_frame_read_from_its_place_is_what_was_written_or_nothing(
    tmp_path: Path, meta_bytes: int
) -> None:
    frame = encode_frame(7, b"m" * meta_bytes, b"body" * 30)
    path = tmp_path / "frames"
    path.write_bytes(b"before" + frame + encode_frame(1, b"", b"next"))
    begin, end = 6, 6 + len(frame)
    with path.open("r+b") as file:
        found = read_frame(file.fileno(), begin, end)
        assert found is not None
        assert (found[0].kind, found[0].meta, found[1]) == (7, b"m" * meta_bytes, b"body" * 30)
        for wrong in ((begin, end - 1), (begin, end + 1), (begin - 1, end), (end, end), (10**9, 10**9 + 50)):
            assert read_frame(file.fileno(), *wrong) is None
        for at in (begin + 1, begin + 9, begin + HEADER_BYTES, end - 1):
            flipped = bytearray(path.read_bytes())
            flipped[at] ^= 1
            (tmp_path / "flipped").write_bytes(flipped)
            with (tmp_path / "flipped").open("rb") as damaged:
                assert read_frame(damaged.fileno(), begin, end) is None
        file.truncate(end - 1)
        assert read_frame(file.fileno(), begin, end) is None

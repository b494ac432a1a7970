"""The desk answers only what it is asked, in the order asked, and counts what that cost."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.labels.desk import FileLabelDesk
from connectors.labels.ports import Label
from foundation.clock import ManualClock
from foundation.errors import CorruptError, MisconfiguredError

KNOWN = {"aa": "red", "bb": "green", "cc": "yellow"}
PAIRS = [{"payload_sha256": sha256, "class_name": name} for sha256, name in KNOWN.items()]


def files(folder: Path) -> list[Path]:
    pq.write_table(pa.Table.from_pylist(PAIRS), folder / "desk.parquet")
    (folder / "desk.jsonl").write_text(
        "".join(f'{{"payload_sha256": "{s}", "class_name": "{n}", "more": 1}}\n\n' for s, n in KNOWN.items())
    )
    (folder / "desk.csv").write_text(
        "payload_sha256,class_name\n" + "".join(f"{s},{n}\n" for s, n in KNOWN.items())
    )
    return [folder / "desk.parquet", folder / "desk.jsonl", folder / "desk.csv"]


def test_every_kind_of_desk_answers_only_what_it_is_asked_and_counts_the_cost(tmp_path: Path) -> None:
    clock = ManualClock(now_ns=99)
    for path in files(tmp_path):
        desk = FileLabelDesk(path, labeller="ann", cost=0.5, clock=clock)
        assert desk.request(["cc", "unknown", "aa", "cc"]) == [
            Label("cc", "yellow", "ann", 99, 0.5),
            Label("aa", "red", "ann", 99, 0.5),
        ]
        assert desk.cost_spent == 1.0
        assert desk.request([]) == []
        assert desk.request(["unknown"]) == []
        assert desk.cost_spent == 1.0


def test_a_desk_that_contradicts_itself_is_refused_with_both_answers(tmp_path: Path) -> None:
    path = tmp_path / "two.csv"
    path.write_text("payload_sha256,class_name\naa,red\naa,green\n")
    with pytest.raises(MisconfiguredError, match=r"'red' and 'green' for the payload aa"):
        FileLabelDesk(path)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.csv", b"sha,label\n1,2\n", MisconfiguredError, "wanted are a column payload_sha256 and"),
        ("a.csv", b"payload_sha256,class_name\naa,\n", MisconfiguredError, "line 2: no class"),
        ("a.csv", b"payload_sha256,class_name\n\xff\xfe,x\n", CorruptError, "not utf-8"),
        ("a.jsonl", b"{}\n", MisconfiguredError, "line 1: no payload_sha256"),
        ("a.jsonl", b"{oops\n", CorruptError, "line 1 is not JSON"),
        ("a.jsonl", b"[1]\n", MisconfiguredError, "line 1: no payload_sha256"),
        (
            "a.jsonl",
            b'{"payload_sha256": "aa", "class_name": 0}',
            MisconfiguredError,
            "no class name but a number: 0",
        ),
        ("a.jsonl", b'{"payload_sha256": "aa", "class_name": NaN}', MisconfiguredError, "line 1: no class"),
        (
            "a.jsonl",
            b'{"payload_sha256": "aa", "class_name": ["red"]}',
            MisconfiguredError,
            "no class name but a value",
        ),
        ("a.jsonl", b"[" * 100_000, CorruptError, "line 1 is not JSON"),
        ("a.parquet", b"nothing", CorruptError, "not a Parquet file"),
        ("a.txt", b"", MisconfiguredError, "must end in .parquet, .jsonl, .csv"),
    ],
)
def test_a_bad_desk_is_named(
    tmp_path: Path, name: str, content: bytes, error: type[Exception], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        FileLabelDesk(tmp_path / name)


def test_a_missing_desk_is_named(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match=r"absent\.csv"):
        FileLabelDesk(tmp_path / "absent.csv")


WRONG = ["red ", "Red", "\u00a0red", "re\0d", "1", "nan", "red,green", "rde"]


@pytest.mark.parametrize("answer", WRONG)
def test_an_answer_that_is_no_class_of_the_contract_refuses_the_desk_before_anything_is_asked(
    tmp_path: Path, answer: str
) -> None:
    path = tmp_path / "desk.csv"
    path.write_text(f'payload_sha256,class_name\naa,red\nbb,"{answer}"\n', "utf-8")
    with pytest.raises(MisconfiguredError, match=r"1 answers that are no class.*nobody is asked: line 3: "):
        FileLabelDesk(path, classes=["green", "red"])


CAR = {"class_name": "car", "left": 1, "top": 2.5, "right": 9, "bottom": 8}
BUS = {**CAR, "class_name": "bus"}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_desk_of_boxes_answers_with_all_boxes_of_a_picture_in_one_order_and_with_none(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"desk.{suffix}"
    rows = [{"payload_sha256": "aa", "boxes": [CAR, BUS]}, {"payload_sha256": "bb", "boxes": []}]
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = FileLabelDesk(path, classes=["car", "bus"], column="boxes").request(["aa", "bb", "cc"])
    assert [answer.value for answer in found] == [[BUS, CAR], []]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (None, "line 1: no boxes"),
        ("car", "no list of boxes but str"),
        ([1], "box 1 is no mapping"),
        ([CAR, {**CAR, "class_name": "tram"}], r"box 2: unknown class 'tram'"),
        ([{**CAR, "class_name": "Car"}], r"box 1: class 'Car'; the nearest is 'car'"),
        ([{**CAR, "right": None}], "box 1: left, top, right, bottom are"),
        ([{**CAR, "right": float("inf")}], "wanted are finite numbers"),
        ([{**CAR, "right": True}], "wanted are finite numbers"),
        ([{**CAR, "right": 10**400}], "wanted are finite numbers"),
        ([{**CAR, "right": 1}], "has no area"),
    ],
)
def test_an_answer_that_is_no_boxes_of_the_contract_refuses_the_desk(
    tmp_path: Path, boxes: object, message: str
) -> None:
    path = tmp_path / "desk.jsonl"
    path.write_text(json.dumps({"payload_sha256": "aa", "boxes": boxes}))
    with pytest.raises(MisconfiguredError, match=message):
        FileLabelDesk(path, classes=["car"], column="boxes")


def test_an_edge_at_minus_zero_is_at_zero(tmp_path: Path) -> None:
    path = tmp_path / "desk.jsonl"
    path.write_text(json.dumps({"payload_sha256": "aa", "boxes": [{**CAR, "left": -0.0}]}))
    [answer] = FileLabelDesk(path, column="boxes").request(["aa"])
    assert json.dumps(answer.value[0]["left"]) == "0.0"


def test_boxes_do_not_stand_in_a_csv(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match=r"must end in \.parquet, \.jsonl$"):
        FileLabelDesk(tmp_path / "desk.csv", column="boxes")


def test_a_hash_in_capitals_is_the_same_hash(tmp_path: Path) -> None:
    path = tmp_path / "desk.csv"
    path.write_text(f"payload_sha256,class_name\n{'AB' * 32},red\n")
    assert len(FileLabelDesk(path, classes=["green", "red"]).request(["ab" * 32])) == 1

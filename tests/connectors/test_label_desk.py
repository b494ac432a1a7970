"""The desk answers only what it is asked, in the order asked, and counts what that cost."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.labels.desk import FileLabelDesk
from connectors.labels.fakes import DictLabelDesk
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
    for desk in (
        DictLabelDesk(KNOWN, labeller="ann", cost=0.5, clock=clock),
        *(FileLabelDesk(path, labeller="ann", cost=0.5, clock=clock) for path in files(tmp_path)),
    ):
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
        ("a.csv", b"sha,label\n1,2\n", MisconfiguredError, "row 1: no payload_sha256, class_name"),
        ("a.csv", b"payload_sha256,class_name\naa,\n", MisconfiguredError, "row 1: no class_name"),
        ("a.csv", b"payload_sha256,class_name\n\xff\xfe,x\n", CorruptError, "not CSV"),
        ("a.jsonl", b"{}\n", MisconfiguredError, "row 1: no payload_sha256"),
        ("a.jsonl", b"{oops\n", CorruptError, "line 1 is not JSON"),
        ("a.jsonl", b"[1]\n", CorruptError, "line 1 is not an object"),
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

"""A label goes to the class with the fewest distinct tracks, and a track is asked again only when that is known."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from connectors.labels.ports import Label
from pipelines.curate.labelling import ask, label
from pipelines.curate.params import LabelParams, Params, Strategy, load_params
from pipelines.curate.row_states import KEPT, UNLABELLED
from pipelines.curate.selection import select
from tests.pipelines.curate.test_selection import SCHEMA
from tests.pipelines.curate_lake import CLASSES, PARAMS, fleet_rows, make_workspace

BALANCED = LabelParams(Strategy.COVERAGE, 1, 0.0, 0.0)
DIRECTION = {"a": [1.0, 0.0, 0.1], "b": [0.0, 1.0, 0.1], "c": [0.1, 0.1, 1.0]}


def track(
    name: str,
    predicted: str,
    looks_like: str,
    frames: int = 4,
    class_name: str | None = None,
    **other: object,
):
    """One track of near-identical frames; what it looks like is its embedding."""
    rows = [
        {
            "payload_sha256": f"{name}-{number}", "vehicle_id": "car", "drive_id": "d", "track_id": name, "split": "train",
            "predicted_class": predicted, "class_name": class_name, "model_digest": "m", "score_entropy": 0.5,
            "score_margin": 0.5, "score_least_confidence": 0.5, "embedding": DIRECTION[looks_like],
            "width_pixels": 32, "height_pixels": 32, **other,
        }
        for number in range(frames)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema={**SCHEMA, "width_pixels": pl.Int32, "height_pixels": pl.Int32})


def tracks_of(chosen: pl.DataFrame) -> list[str]:
    return chosen["track_id"].to_list()


def test_a_track_is_asked_again_only_once_a_label_told_its_class() -> None:
    pool = pl.concat([track(f"t{i}", "a", "a") for i in range(3)])
    assert Counter(tracks_of(select(pool, pool.clear(), 20, BALANCED))) == {"t0": 1, "t1": 1, "t2": 1}
    labelled = track("t0", "a", "a", class_name="a").head(1)
    rest = pool.filter(~pl.col("payload_sha256").is_in(labelled["payload_sha256"].to_list()))
    assert Counter(tracks_of(select(rest, labelled, 20, BALANCED))) == {"t0": 3, "t1": 1, "t2": 1}


def test_a_new_track_of_a_class_goes_before_another_frame_of_a_labelled_one() -> None:
    labelled = track("t0", "a", "a", class_name="a").head(1)
    pool = pl.concat([track("t0", "a", "a").tail(3), track("t1", "a", "a"), track("t2", "a", "a")])
    assert set(tracks_of(select(pool, labelled, 2, BALANCED))) == {"t1", "t2"}


def test_ten_labels_of_one_track_count_less_than_three_tracks() -> None:
    labelled = pl.concat(
        [track("same", "b", "b", frames=10, class_name="b")]
        + [track(f"one{i}", "a", "a", frames=1, class_name="a") for i in range(3)]
    )
    pool = pl.concat([track("new-a", "a", "a"), track("new-b", "b", "b")])
    assert tracks_of(select(pool, labelled, 1, BALANCED)) == ["new-b"]


def test_what_the_model_never_learned_is_found_by_its_looks() -> None:
    """The model says `a` of everything; a labelled track of `c` tells which others are `c`."""
    labelled = pl.concat(
        [track(f"a{i}", "a", "a", class_name="a") for i in range(5)] + [track("c0", "a", "c", 1, "c")]
    )
    pool = pl.concat([track("more-a", "a", "a"), track("more-c", "a", "c"), track("other-a", "a", "a")])
    assert tracks_of(select(pool, labelled, 1, BALANCED)) == ["more-c"]


def test_labels_of_test_drives_do_not_count_as_examples() -> None:
    of_test = track("held", "b", "b", class_name="b", split="test")
    labelled = pl.concat([of_test, *(track(f"a{i}", "a", "a", 1, "a") for i in range(2))])
    pool = pl.concat([track("new-a", "a", "a"), track("new-b", "b", "b")])
    assert tracks_of(select(pool, labelled, 1, BALANCED)) == ["new-b"]


def test_frames_without_a_model_or_a_track_are_still_chosen_once() -> None:
    bare = track("x", "", "a", model_digest=None, embedding=None).with_columns(
        predicted_class=pl.lit(None, pl.String), track_id=pl.lit(None, pl.String)
    )
    assert select(bare, bare.clear(), 9, BALANCED).height == 4


class Desk:
    """Tells the class that a payload's name begins with, and remembers each request."""

    def __init__(self) -> None:
        self.requests: list[list[str]] = []

    def request(self, payload_sha256s: Sequence[str]) -> list[Label]:
        self.requests.append(list(payload_sha256s))
        return [Label(sha, sha[0], "desk", 1, 1.0) for sha in payload_sha256s]


def params_with(label_params: LabelParams, tmp_path: Path) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps({"classes": ["a", "b", "c"]}))
    import dataclasses

    return dataclasses.replace(load_params(path), label=label_params)


def test_later_rounds_use_what_earlier_labels_told(tmp_path: Path) -> None:
    """One rare track among many: its other frames are asked for as soon as its first label is known."""
    pool = pl.concat([track(f"a{i:02d}", "a", "a") for i in range(12)] + [track("c0", "a", "c")])
    pool = pool.with_columns(state=pl.lit(UNLABELLED), identity=pl.col("payload_sha256"))
    desk = Desk()
    chosen, answers = ask(pool, desk, 20, params_with(BALANCED, tmp_path))
    assert [len(asked) for asked in desk.requests] == [4] * 5
    assert chosen.height == len(answers) == 20
    assert chosen["payload_sha256"].is_unique().all()
    assert Counter(tracks_of(chosen))["c0"] == 4
    first = next(i for i, asked in enumerate(desk.requests) if any(sha.startswith("c") for sha in asked))
    assert sum(sha.startswith("c") for sha in desk.requests[first]) == 1


def test_a_strategy_that_learns_nothing_from_answers_asks_once(tmp_path: Path) -> None:
    pool = track("a0", "a", "a").with_columns(state=pl.lit(UNLABELLED), identity=pl.col("payload_sha256"))
    desk = Desk()
    ask(pool, desk, 3, params_with(LabelParams(Strategy.MARGIN, 9, 0.0, 0.0), tmp_path))
    assert [len(asked) for asked in desk.requests] == [3]


def test_labels_that_the_lake_holds_count_as_examples(tmp_path: Path) -> None:
    pool = pl.concat([track("a-new", "a", "a"), track("b-new", "b", "b")]).with_columns(
        state=pl.lit(UNLABELLED)
    )
    held = track("old", "b", "b", class_name="b").with_columns(state=pl.lit(KEPT))
    rows = pl.concat([pool, held]).with_columns(identity=pl.col("payload_sha256"))
    chosen, _ = ask(rows, Desk(), 1, params_with(BALANCED, tmp_path))
    assert tracks_of(chosen) == ["a-new"]


def test_the_rounds_of_one_request_are_one_record_and_one_commit(tmp_path: Path) -> None:
    rows = fleet_rows(6, 5)
    params = PARAMS | {"label": {"strategy": "coverage", "random_ratio": 0.1, "test_ratio": 0.1}}
    workspace = make_workspace(tmp_path / "ws", rows, params=params)

    class Classes(Desk):
        def request(self, payload_sha256s: Sequence[str]) -> list[Label]:
            super().request(payload_sha256s)
            return [Label(sha, CLASSES[0], "desk", 1, 1.0) for sha in payload_sha256s]

    desk = Classes()
    result = label(workspace, desk, 10)
    asked = [sha for part in desk.requests for sha in part]
    assert len(desk.requests) > 1
    assert len(asked) == len(set(asked)) == result.asked == result.answered
    record = json.loads((workspace.reports_path / "label_requests" / f"{result.request_id}.json").read_text())
    assert [frame["payload_sha256"] for frame in record["frames"]] == asked

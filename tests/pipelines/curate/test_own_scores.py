"""What a vehicle claims of its frames buys it no label: our own model scores them again before any is paid for."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from connectors.labels.ports import Label
from foundation.errors import RejectedError
from modelkit.digest import sha256_hex
from modelkit.images import Pixels, decode_image
from modelkit.predictor import Prediction, Predictor
from modelkit.runtimes import open_predictor
from modelkit.verify import verify_model
from pipelines.curate import own_scores
from pipelines.curate.labelling import label
from pipelines.curate.own_scores import ModelScorer
from pipelines.curate.params import Strategy
from schemas.predictions import ClassificationOutput, ModelPrediction
from tests.fakes.models import tiny_model
from tests.pipelines.curate_lake import PARAMS, arrival, fleet_rows, make_workspace, picture

DIGEST = "d" * 64


class Desk:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def request(self, payload_sha256s: Sequence[str]) -> list[Label]:
        self.asked += payload_sha256s
        return [Label(sha, "red", "desk", 1, 1.0) for sha in payload_sha256s]


class Ours:
    """Our model: certain of every picture that is not among `doubtful`, and it has seen which ones it was shown."""

    digest = DIGEST

    def __init__(self, doubtful: set[bytes], unreadable: set[bytes] = frozenset()) -> None:  # type: ignore[assignment]
        self._doubtful, self._unreadable = doubtful, unreadable
        self.shown: list[bytes] = []

    def predict(self, payloads: Sequence[bytes]) -> list[ModelPrediction | None]:
        self.shown += payloads
        return [None if each in self._unreadable else self._one(each) for each in payloads]

    def _one(self, payload: bytes) -> ModelPrediction:
        score = 0.9 if payload in self._doubtful else 0.05
        scores = dict.fromkeys(("entropy", "margin", "least_confidence"), score)
        said = ClassificationOutput("green", (0.5, 0.3, 0.2))
        return ModelPrediction(
            "serving", "classification", "v1", DIGEST, scores, (1.0, 0.0), classification=said
        )


def liar(count: int = 40) -> list[dict[str, object]]:
    """Frames of one vehicle that claims the highest scores and a rare class for all but its truly doubtful ones."""
    return [
        arrival(
            picture(5000 + n), vehicle="liar", seq=n, drive=f"l{n % 4}", offset=5000 + n, track_id=None,
            score_entropy=0.8 if n < 5 else 1.0, score_margin=0.8 if n < 5 else 1.0,
            score_least_confidence=1.0, predicted_class="yellow",
        )
        for n in range(count)
    ]  # fmt: skip


ENTROPY = PARAMS | {
    "label": {"strategy": "entropy", "random_ratio": 0.0, "test_ratio": 0.0, "shortlist_factor": 20}
}


def test_claimed_scores_choose_no_frame_that_our_own_model_finds_worthless(tmp_path: Path) -> None:
    rows = liar()
    doubtful = {bytes(row["payload"]) for row in rows[:5]}  # type: ignore[call-overload]
    names = {row["payload_sha256"] for row in rows[:5]}
    believed, ours = Desk(), Desk()
    label(make_workspace(tmp_path / "believed", rows, params=ENTROPY), believed, 2)
    label(make_workspace(tmp_path / "ours", rows, params=ENTROPY), ours, 2, scorer=Ours(doubtful))
    assert not names & set(believed.asked)
    assert set(ours.asked) <= names and len(ours.asked) == 2


def test_a_vehicle_whose_claims_are_not_what_its_model_says_is_named_with_its_count(tmp_path: Path) -> None:
    honest = [
        row
        | {
            "score_entropy": 0.05,
            "score_margin": 0.05,
            "score_least_confidence": 0.05,
            "predicted_class": "green",
        }
        for row in fleet_rows(3, 8)
    ]
    workspace = make_workspace(tmp_path / "ws", honest + liar(), params=ENTROPY)
    found = label(workspace, Desk(), 4, scorer=Ours(set()))
    assert found.scored_by == DIGEST
    assert found.vehicles["liar"]["differ"] == found.vehicles["liar"]["compared"] > 0
    assert {name: told["differ"] for name, told in found.vehicles.items() if name != "liar"} == {
        name: 0 for name in found.vehicles if name != "liar"
    }


def test_each_vehicle_shortlists_within_its_own_share_and_few_frames_are_scored(tmp_path: Path) -> None:
    params = PARAMS | {"label": {"strategy": "entropy", "random_ratio": 0.0, "test_ratio": 0.0}}
    workspace = make_workspace(tmp_path / "ws", fleet_rows(24, 6) + liar(200), params=params)
    scorer = Ours(set())
    found = label(workspace, Desk(), 8, scorer=scorer)
    assert len(scorer.shown) <= 3 * 8
    scored = {name: told["scored"] for name, told in found.vehicles.items()}
    assert scored["liar"] <= 3 * 8 / 4
    assert sum(scored.values()) == len(scorer.shown)


def test_a_picture_that_gives_no_answer_keeps_no_claim(tmp_path: Path) -> None:
    rows = liar()
    silent = {bytes(row["payload"]) for row in rows[5:]}  # type: ignore[call-overload]
    desk = Desk()
    found = label(make_workspace(tmp_path / "ws", rows, params=ENTROPY), desk, 2, scorer=Ours(set(), silent))
    assert set(desk.asked) <= {row["payload_sha256"] for row in rows[:5]}
    assert found.vehicles["liar"]["unanswered"] > 0


def scorer_of(predictor: object, **changes: Any) -> ModelScorer:
    return ModelScorer("v1", DIGEST, cast("Any", predictor), **changes)


@pytest.mark.parametrize("raised", [MemoryError(), AssertionError(), RecursionError(), SystemError()])
def test_a_picture_whose_decoder_fails_in_any_way_costs_no_other_its_score(
    raised: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = picture(1)

    def decode(payload: bytes) -> Pixels:
        if payload == bad:
            raise raised
        return decode_image(payload)

    monkeypatch.setattr(own_scores, "decode_image", decode)
    data = tiny_model()
    scorer = scorer_of(open_predictor(verify_model(data, sha256_hex(data))))
    found = scorer.predict([picture(0), bad, picture(2)])
    assert [each is None for each in found] == [False, True, False]


class Short:
    """A predictor with memory for so many pixels that cannot answer for pictures of one height; notes what it held."""

    def __init__(self, predictor: Predictor, most_bytes: int, fails_at: int) -> None:
        self._predictor, self._most_bytes, self._fails_at = predictor, most_bytes, fails_at
        self.held: list[int] = []

    def predict(self, images: Sequence[Pixels]) -> list[Prediction]:
        self.held.append(sum(each.nbytes for each in images))
        if self.held[-1] > self._most_bytes:
            raise MemoryError
        if any(len(each) == self._fails_at for each in images):
            raise RejectedError("the runtime failed", reason="run_failed")
        return self._predictor.predict(images)


def png(side: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), (9, 99, 199)).save(out, "PNG")
    return out.getvalue()


def test_large_pictures_are_not_held_together_and_one_without_an_answer_costs_no_other_its_score() -> None:
    data = tiny_model()
    predictor = Short(open_predictor(verify_model(data, sha256_hex(data))), 20_000, 41)
    found = scorer_of(predictor, held_bytes=12_000).predict([png(side) for side in (40, 50, 40, 41, 40, 90)])
    assert [each is None for each in found] == [False, False, False, True, False, True]
    assert max(predictor.held) <= 12_000 + 90 * 90 * 3


@pytest.mark.parametrize("strategy", [Strategy.COVERAGE, Strategy.DIVERSE, Strategy.CLASS_BALANCED])
def test_every_strategy_spends_its_budget_on_frames_scored_by_a_real_model(
    strategy: Strategy, tmp_path: Path
) -> None:
    data = tiny_model()
    verified = verify_model(data, sha256_hex(data))
    scorer = ModelScorer("v1", sha256_hex(data), open_predictor(verified))
    params = PARAMS | {"label": {"strategy": str(strategy)}}
    desk = Desk()
    found = label(make_workspace(tmp_path / "ws", fleet_rows(9, 6), params=params), desk, 6, scorer=scorer)
    assert found.asked == len(desk.asked) == 6
    assert found.scored_by == scorer.digest
    assert sum(told["unanswered"] for told in found.vehicles.values()) == 0

"""Score frames again with a model of our own before their labels are paid for: a vehicle may claim any score or class.

What vehicles claim only shortlists, each vehicle's frames within its own share, so a false claim displaces frames of
that vehicle and of no other. The shortlist is decoded and predicted here, and our scores, class and embedding replace what
was claimed. Where a vehicle claims to have run the very model that runs here, the two are compared and its disagreement
is told. A frame that cannot be decoded, or has no finite answer, keeps no claim: chance alone may draw it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol

import polars as pl

from foundation.errors import RejectedError
from modelkit.images import Pixels, decode_image
from modelkit.predictor import Predictor, to_wire
from schemas.predictions import ModelPrediction, flat_prediction, to_json_plain
from schemas.roles import SERVING

SCORES: Final = ("entropy", "margin", "least_confidence")
DISAGREES_FROM: Final = 0.1
"""A score this far from ours, or another class, disagrees. Providers of one model differ by about a hundredth."""
BATCH: Final = 64
_CLAIMED: Final = {
    **{f"score_{name}": pl.Float64 for name in SCORES},
    "predicted_class": pl.String,
    "model_digest": pl.String,
    "embedding": pl.List(pl.Float32),
    "predictions_json": pl.String,
}


class Scorer(Protocol):
    """A model of our own."""

    @property
    def digest(self) -> str:
        """The model's digest."""
        ...

    def predict(self, payloads: Sequence[bytes]) -> list[ModelPrediction | None]:
        """Return one prediction per picture, in order; None for a picture that cannot be decoded or answered."""
        ...


@dataclass(frozen=True, slots=True)
class ModelScorer:
    """Predicts with a loaded model, as the vehicle does.

    Decodes in this process: candidates are frames whose very bytes were measured in a confined one before. Whatever a
    decoder raises, and memory that is short, is a verdict on that picture; at most `held_bytes` of pixels and one picture
    are held.
    """

    name: str
    digest: str
    predictor: Predictor
    held_bytes: int = 128_000_000

    def predict(self, payloads: Sequence[bytes]) -> list[ModelPrediction | None]:
        """Return one prediction per picture, in order; None for a picture that cannot be decoded or answered."""
        found: list[ModelPrediction | None] = [None] * len(payloads)
        pictures: dict[int, Pixels] = {}
        for number, payload in enumerate(payloads):
            try:
                pictures[number] = decode_image(payload)
            except Exception:  # noqa: BLE001, S112 - a decoder may raise anything; the caller counts the None
                continue
            if sum(each.nbytes for each in pictures.values()) >= self.held_bytes:
                self._answer(pictures, found)
                pictures = {}
        self._answer(pictures, found)
        return found

    def _answer(self, pictures: Mapping[int, Pixels], found: list[ModelPrediction | None]) -> None:
        """Put the answers into `found`; where there are none for all pictures together they are tried one by one."""
        try:
            answers = list(self.predictor.predict(list(pictures.values())))
        except (MemoryError, RejectedError):
            if len(pictures) > 1:
                for number, picture in pictures.items():
                    self._answer({number: picture}, found)
            return
        for number, answer in zip(pictures, answers, strict=True):
            if answer.is_finite:
                found[number] = to_wire(
                    answer, answer.scores, role_name=SERVING, model_name=self.name, model_digest=self.digest
                )


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How far the claims of one vehicle are from our scores.

    `scored` frames were scored here; of these `unanswered` gave no answer, and `compared` are said to be of our model;
    of the compared ones `differ` in the class, or by DISAGREES_FROM or more in a score.
    """

    scored: int
    unanswered: int
    compared: int
    differ: int

    def to_json(self) -> dict[str, int]:
        """Return plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def score_again(
    shortlist: pl.DataFrame, payloads: Iterable[tuple[str, bytes]], scorer: Scorer
) -> tuple[pl.DataFrame, dict[str, Disagreement]]:
    """Return the shortlist with our scores instead of the claimed ones, and each vehicle's disagreement.

    Args:
        shortlist: candidates; payload_sha256 is unique.
        payloads: (payload_sha256, payload) of the shortlist, in any order; what is missing has no answer.
        scorer: the model.
    """
    ours = pl.DataFrame(list(_scored(payloads, scorer)), schema={"payload_sha256": pl.String, **_CLAIMED})
    joined = shortlist.join(ours, on="payload_sha256", how="left", maintain_order="left", suffix="_ours")
    told = _disagreements(joined, scorer.digest)
    own = [pl.col(f"{name}_ours").alias(name) for name in _CLAIMED]
    return joined.with_columns(own).select(shortlist.columns), told


def _scored(payloads: Iterable[tuple[str, bytes]], scorer: Scorer) -> Iterator[Mapping[str, Any]]:
    left = iter(payloads)
    while batch := list(islice(left, BATCH)):
        for (sha, _), said in zip(batch, scorer.predict([payload for _, payload in batch]), strict=True):
            flat = None if said is None else flat_prediction([said])
            if said is None or flat is None:
                continue
            yield {
                "payload_sha256": sha,
                **{f"score_{name}": flat.scores.get(name) for name in SCORES},
                "predicted_class": flat.classification and flat.classification.class_name,
                "model_digest": scorer.digest,
                "embedding": list(flat.embedding),
                "predictions_json": json.dumps([{**to_json_plain(said), "embedding": []}]),
            }


def _disagreements(joined: pl.DataFrame, digest: str) -> dict[str, Disagreement]:
    is_answered = pl.col("model_digest_ours").is_not_null()
    is_compared = is_answered & (pl.col("model_digest") == digest).fill_null(False)
    # A claim that is missing or no number agrees with nothing.
    apart = [
        (
            (pl.col(f"score_{name}") - pl.col(f"score_{name}_ours")).abs().fill_nan(1.0).fill_null(1.0)
            >= DISAGREES_FROM
        )
        & pl.col(f"score_{name}_ours").is_not_null()
        for name in SCORES
    ]
    is_other = pl.col("predicted_class").ne_missing(pl.col("predicted_class_ours"))
    counted = (
        joined.group_by(pl.col("vehicle_id").fill_null(""))
        .agg(
            pl.len().alias("scored"),
            (~is_answered).sum().alias("unanswered"),
            is_compared.sum().alias("compared"),
            (is_compared & pl.any_horizontal(is_other, *apart)).sum().alias("differ"),
        )
        .sort("vehicle_id")
    )
    return {vehicle: Disagreement(*numbers) for vehicle, *numbers in counted.iter_rows()}

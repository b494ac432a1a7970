"""Step 1: read every row of a fragment once and measure every payload once, in parallel over fragments.

In: a fragment's JSON. Out: the path of an Arrow file with the fragment's rows and features, without payloads. Pictures
are decoded in a process with limits: one that breaks it is unreadable, and costs no other its measurements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import apache_beam as beam
import polars as pl

from modelkit.confined import Confined
from pipelines.curate.fragments import (
    Fragment,
    UnavailablePayload,
    read_metadata,
    read_payloads,
    remote_rows,
)
from pipelines.curate.measure_cache import MeasureCache
from pipelines.curate.picture import Measured
from pipelines.curate.quality import FEATURES, check_payload, features_of

DECODING = "pipelines.curate.picture:measured"
"""The task of the confined process."""


class MeasureFragment(beam.DoFn):
    """Measures what is not in the cache. `cache` is its folder, `blobs` the store of payloads that are not inline."""

    def __init__(self, work: str, cache: str, blobs: str, *, with_embeddings: bool = True) -> None:
        self._with_embeddings = with_embeddings
        self._work = work
        self._cache = cache
        self._blobs = blobs
        self._known: pl.DataFrame | None = None
        self._decoding: Confined[Measured] | None = None

    def teardown(self) -> None:
        """End the process in which pictures are decoded."""
        if self._decoding is not None:
            self._decoding.close()
            self._decoding = None

    def process(self, element: str) -> Iterator[str]:
        """Yield one output path per fragment, always the same, so that a retried bundle changes nothing."""
        fragment = Fragment.from_json(element)
        rows = read_metadata(fragment, with_embeddings=self._with_embeddings)
        remote = remote_rows(fragment)
        features, unavailable = self._features(fragment, rows, remote)
        measured = rows.join(features, on="payload_sha256", how="left", maintain_order="left")
        measured = without_payloads(measured, unavailable)
        path = Path(self._work) / "measured" / f"{fragment.fragment_id}.arrow"
        temporary = path.with_suffix(".tmp")
        measured.write_ipc(temporary)
        temporary.replace(path)
        yield str(path)

    def _features(
        self, fragment: Fragment, rows: pl.DataFrame, remote: list[int]
    ) -> tuple[pl.DataFrame, dict[int, str]]:
        """Return the features per payload, and per row why a payload could not be read.

        A blob reference is followed for each row that has one, every time: another row's payload of the same hash, or
        a cached measurement, does not show that this row's can be read when the dataset is written.
        """
        if self._known is None:
            self._known = MeasureCache(Path(self._cache)).read_features()
        landed = rows.filter(pl.col("outcome") == "landed").select("row", "payload_sha256")
        known = self._known.join(landed, on="payload_sha256", how="semi")
        inline = landed.filter(~pl.col("row").is_in(remote)).unique(
            "payload_sha256", keep="first", maintain_order=True
        )
        fresh = inline.join(known, on="payload_sha256", how="anti")
        names = dict(landed.filter(pl.col("row").is_in([*fresh["row"], *remote])).iter_rows())
        measured = set(known["payload_sha256"])
        unavailable: dict[int, str] = {}

        def to_measure() -> Iterator[tuple[tuple[str, int], bytes]]:
            for row, payload in read_payloads(fragment, list(names), self._blobs):
                if isinstance(payload, UnavailablePayload):
                    unavailable[row] = payload.why
                elif names[row] not in measured:
                    check_payload(payload, names[row])
                    measured.add(names[row])
                    yield (names[row], len(payload)), payload

        if self._decoding is None:
            self._decoding = Confined(DECODING, Measured)
        found = [
            asdict(features_of(sha256, size_bytes, result))
            for (sha256, size_bytes), result in self._decoding.each(to_measure())
        ]
        return pl.concat([known.select(list(FEATURES)), pl.DataFrame(found, schema=FEATURES)]), unavailable


def without_payloads(measured: pl.DataFrame, unavailable: Mapping[int, str]) -> pl.DataFrame:
    """Return `measured` where the rows in `unavailable` have the reason instead of measurements (see `quality.judge`)."""
    if not unavailable:
        return measured
    why = pl.DataFrame(
        {"row": list(unavailable), "why": list(unavailable.values())}, {"row": pl.Int64, "why": pl.String}
    )
    joined = measured.join(why, on="row", how="left", maintain_order="left")
    is_gone = pl.col("why").is_not_null()
    kept = [
        pl.when(is_gone).then(None).otherwise(name).alias(name)
        for name in FEATURES
        if name not in ("payload_sha256", "unreadable")
    ]
    return joined.with_columns(*kept, pl.coalesce("why", "unreadable").alias("unreadable")).drop("why")

"""Step 1: every row of a fragment is read once and every payload is measured once, in parallel over
fragments.

In: a fragment's JSON. Out: the path of an Arrow file with the fragment's rows, their features, and no
payloads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import apache_beam as beam
import polars as pl

from pipelines.curate.fragments import Fragment, read_metadata, read_payloads
from pipelines.curate.measure_cache import MeasureCache
from pipelines.curate.quality import FEATURES, measure


class MeasureFragment(beam.DoFn):
    """Measures what the cache does not know. `cache` is its folder, `blobs` where payloads are that are not
    inline."""

    def __init__(self, work: str, cache: str, blobs: str) -> None:
        self._work = work
        self._cache = cache
        self._blobs = blobs
        self._known: pl.DataFrame | None = None

    def process(self, element: str) -> Iterator[str]:
        """One output path a fragment, always of the same name, so that a bundle that is run again changes
        nothing."""
        fragment = Fragment.from_json(element)
        rows = read_metadata(fragment)
        measured = rows.join(
            self._features(fragment, rows), on="payload_sha256", how="left", maintain_order="left"
        )
        path = Path(self._work) / "measured" / f"{fragment.fragment_id}.arrow"
        temporary = path.with_suffix(".tmp")
        measured.write_ipc(temporary)
        temporary.replace(path)
        yield str(path)

    def _features(self, fragment: Fragment, rows: pl.DataFrame) -> pl.DataFrame:
        if self._known is None:
            self._known = MeasureCache(Path(self._cache)).read_features()
        landed = (
            rows.lazy()
            .filter(pl.col("outcome") == "landed")
            .select("row", "payload_sha256")
            .unique("payload_sha256", keep="first", maintain_order=True)
            .collect()
        )
        known = self._known.join(landed.select("payload_sha256"), on="payload_sha256", how="semi")
        fresh = landed.join(known, on="payload_sha256", how="anti").sort("row")
        names = dict(fresh.select("row", "payload_sha256").iter_rows())
        found = [
            asdict(measure(payload, names[row]))
            for row, payload in read_payloads(fragment, list(names), self._blobs)
        ]
        return pl.concat([known.select(list(FEATURES)), pl.DataFrame(found, schema=FEATURES)])

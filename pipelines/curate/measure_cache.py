"""A cache of measurements: features per payload, and near pairs per set of payloads.

Never a source: both files can be deleted at any time; no result changes, only the time it takes. Their names hold
the version of the measurements and the threshold of the pairs; another version starts an empty cache. Files are
replaced whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from foundation.files import write_atomic
from pipelines.curate.near_pairs import PAIR_SCHEMA
from pipelines.curate.quality import FEATURES, MEASURE_VERSION


@dataclass(frozen=True, slots=True)
class MeasureCache:
    """The cache in `folder`; files are read when asked for."""

    folder: Path

    @property
    def features_path(self) -> Path:
        """The file with the columns `quality.FEATURES`, one row per payload."""
        return self.folder / f"features-{MEASURE_VERSION}.parquet"

    def pairs_path(self, max_distance_bits: int) -> Path:
        """Return the file of the pairs at most `max_distance_bits` apart, and of the payloads that were compared."""
        return self.folder / f"pairs-{MEASURE_VERSION}-{max_distance_bits}.parquet"

    def read_features(self) -> pl.DataFrame:
        """Read the features; empty when there are none or they cannot be read, since they are computed again then."""
        return _read(self.features_path, FEATURES)

    def read_pairs(self, max_distance_bits: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Read (pairs by hash, payloads that were compared with each other)."""
        stored = _read(self.pairs_path(max_distance_bits), {**PAIR_SCHEMA, "compared": pl.String()})
        compared = stored.filter(pl.col("compared").is_not_null()).select(
            pl.col("compared").alias("payload_sha256")
        )
        return stored.filter(pl.col("compared").is_null()).drop("compared"), compared

    def write_features(self, features: pl.DataFrame) -> None:
        """Replace the features by these, one row per payload."""
        _write(
            self.features_path,
            features.unique("payload_sha256").sort("payload_sha256").select(list(FEATURES)),
        )

    def write_pairs(self, max_distance_bits: int, pairs: pl.DataFrame, compared: pl.DataFrame) -> None:
        """Replace the pairs; one file holds both, so that they can never disagree."""
        marks = compared.select(pl.col("payload_sha256").alias("compared")).sort("compared")
        _write(self.pairs_path(max_distance_bits), pl.concat([pairs, marks], how="diagonal"))


def _read(path: Path, schema: dict[str, pl.DataType] | dict[str, type[pl.DataType]]) -> pl.DataFrame:
    try:
        return pl.read_parquet(path).select([pl.col(name).cast(kind) for name, kind in schema.items()])
    except (OSError, pl.exceptions.PolarsError):
        return pl.DataFrame(schema=schema)


def _write(path: Path, rows: pl.DataFrame) -> None:
    import io

    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    rows.write_parquet(data, compression="zstd")
    write_atomic(path, data.getvalue())

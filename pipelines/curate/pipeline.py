"""The whole graph of curation, from the fragments of the lake to shards, in one place.

    fragments -> MeasureFragment -> GatherRows -> FindPairs -> ResolveRows -> CutPieces -> MergeShard
                 (each fragment)    (once)        (each block)  (once)         (each       (each shard)
                                                                               fragment)
Elements are the JSON of fragments, block numbers and paths in the work folder, which all workers share; never
rows. The name of what a step writes follows from its element, so a retried bundle changes nothing. Label
selection stops after ResolveRows: it needs no payloads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam

from pipelines.curate.compare import FindPairs, GatherRows
from pipelines.curate.fragments import Fragment
from pipelines.curate.measure import MeasureFragment
from pipelines.curate.params import Params
from pipelines.curate.resolve import ResolveRows
from pipelines.curate.shards import CutPieces, MergeShard


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """The folder of one run's intermediate files."""

    path: Path

    def make(self) -> None:
        """Create the folders that the steps write to."""
        for name in ("measured", "pairs", "pieces", "shards"):
            (self.path / name).mkdir(parents=True, exist_ok=True)

    @property
    def plan(self) -> Path:
        """The plan: a JSON list of the fragments' JSON texts."""
        return self.path / "fragments.json"

    @property
    def labels(self) -> Path:
        """The lake's labels at the locked version."""
        return self.path / "labels.parquet"

    @property
    def resolved(self) -> Path:
        """The outcome of every row."""
        return self.path / "resolved.parquet"

    @property
    def shards(self) -> Path:
        """The finished shards."""
        return self.path / "shards"


class CurateRows(beam.PTransform):
    """Fragments -> the fragments that have kept rows; `resolved.parquet` is written then."""

    def __init__(
        self, work: WorkFolder, cache: Path, params: Params, blobs: str, *, with_embeddings: bool = True
    ) -> None:
        super().__init__()
        self._with_embeddings = with_embeddings
        self._blobs = blobs
        self._work = work
        self._cache = str(cache)
        self._params = params

    def expand(self, fragments: beam.PCollection) -> beam.PCollection:
        """Build the graph of the module's docstring."""
        work = str(self._work.path)
        measured = fragments | "MeasureFragment" >> beam.ParDo(
            MeasureFragment(work, self._cache, self._blobs, with_embeddings=self._with_embeddings)
        )
        blocks = (
            measured
            | "AllMeasured" >> beam.combiners.ToList()
            | "GatherRows" >> beam.ParDo(GatherRows(work, self._cache, str(self._work.labels), self._params))
        )
        pairs = (
            blocks
            | "SpreadBlocks" >> beam.Reshuffle()
            | "FindPairs" >> beam.ParDo(FindPairs(work, self._params))
        )
        return (
            fragments.pipeline
            | "PlanPath" >> beam.Create([str(self._work.plan)])
            | "ResolveRows"
            >> beam.ParDo(ResolveRows(work, self._cache, self._params), beam.pvalue.AsList(pairs))
        )


class WriteShards(beam.PTransform):
    """Fragments with kept rows -> one JSON line per shard, in any order."""

    def __init__(self, work: WorkFolder, params: Params, blobs: str) -> None:
        super().__init__()
        self._blobs = blobs
        self._work = work
        self._params = params

    def expand(self, fragments: beam.PCollection) -> beam.PCollection:
        """Cut each fragment, then merge the pieces of each shard."""
        return (
            fragments
            | "SpreadFragments" >> beam.Reshuffle()
            | "CutPieces" >> beam.ParDo(CutPieces(str(self._work.path), self._blobs, self._params))
            | "PiecesOfShard" >> beam.GroupByKey()
            | "MergeShard" >> beam.ParDo(MergeShard(str(self._work.shards), self._params))
        )


def fragments_of(pipeline: beam.Pipeline, fragments: list[Fragment]) -> beam.PCollection:
    """Return the plan as a collection, distributed over the workers."""
    return (
        pipeline
        | "Fragments" >> beam.Create([fragment.to_json() for fragment in fragments])
        | "Spread" >> beam.Reshuffle()
    )


def write_plan(work: WorkFolder, fragments: list[Fragment]) -> None:
    """Write the plan to the work folder, for `ResolveRows`."""
    work.plan.write_text(json.dumps([fragment.to_json() for fragment in fragments]), encoding="utf-8")

"""Someone between the repository and the vehicle, and the means of a forger: what every story of the downlink needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuf.api.exceptions import DownloadError
from tuf.api.metadata import Metadata, MetaFile, TargetFile

from edge_agent.models.fetch import ModelFetcher
from edge_agent.models.http import BoundedFetcher, UrlTransport
from edge_agent.models.settings import DownloadSettings
from edge_agent.models.trust import OnlineTrust
from edge_agent.models.trust_folder import TrustFolder
from modelkit.digest import sha256_hex
from schemas.downlink import INDEX, RELEASES_KEY, index_targets
from tests.edge_agent.models.model_bench import Bench
from tests.fakes.models import tiny_contract, tiny_model

DAY_S = 86_400.0
YEAR_S = 365 * DAY_S


class Between:
    """Someone between the repository and the vehicle: may change what any address answers."""

    def __init__(self, bench: Bench) -> None:
        self._real = UrlTransport(DownloadSettings())
        self.bench = bench
        self.answers: dict[str, Callable[[int], Iterator[bytes]]] = {}
        self.asked: list[tuple[str, int]] = []
        self.cut_every_bytes = 0
        self.chunk_s = 0.0

    def open(self, url: str, start_bytes: int, within_s: float) -> tuple[int, Iterator[bytes]]:
        name = url.rsplit("/", 1)[-1]
        self.asked.append((name, start_bytes))
        for suffix, answer in self.answers.items():
            if name.endswith(suffix):
                return start_bytes, answer(start_bytes)
        begins, chunks = self._real.open(url, start_bytes, within_s)
        return begins, self._spoiled(chunks, is_model=name.endswith(".onnx"))

    def _spoiled(self, chunks: Iterator[bytes], is_model: bool) -> Iterator[bytes]:
        given = 0
        for chunk in chunks:
            self.bench.clock.advance(self.chunk_s)
            if is_model and self.cut_every_bytes and given + len(chunk) > self.cut_every_bytes:
                yield chunk[: self.cut_every_bytes - given]
                raise DownloadError("the line was cut")
            given += len(chunk)
            yield chunk


def fetcher(bench: Bench, between: Between, **settings: Any) -> ModelFetcher:
    made = bench.fetcher(**settings)
    return ModelFetcher(
        made._settings,
        bench.state,
        bench.clock,
        made._log,
        transport=between,
        start_trial=made._start_trial,
    )


def refresh(bench: Bench, transport: Any = None) -> OnlineTrust:
    settings = DownloadSettings()
    port = BoundedFetcher(transport or UrlTransport(settings), settings, bench.clock)
    online = OnlineTrust(TrustFolder(bench.state), str(bench.repository.path), port, bench.clock)
    online.refresh()
    return online


def metadata_path(bench: Bench, name: str) -> Path:
    return bench.repository.path / "metadata" / f"{name}.json"


def forge(bench: Bench, role: str, change: Callable[[Any], None], signers: list[Any]) -> None:
    """Publish the next version of a role, changed and signed by whoever; snapshot and timestamp by their keys."""
    repository = bench.repository
    snapshot = repository.load("snapshot").signed
    document = repository.load(role).signed
    document.version = snapshot.meta[f"{role}.json"].version + 1
    change(document)
    data = sign(document, signers)
    metadata_path(bench, f"{document.version}.{role}").write_bytes(data)
    snapshot.meta[f"{role}.json"] = MetaFile.from_data(document.version, data, ["sha256"])
    with repository.lock():
        repository._publish_snapshot(snapshot)


def sign(document: Any, signers: list[Any]) -> bytes:
    metadata = Metadata(document)
    for signer in signers:
        metadata.sign(signer, append=True)
    data: bytes = metadata.to_bytes()
    return data


def with_release(bench: Bench, release_id: str = "r2") -> None:
    bench.release(release_id, 2)
    bench.plan(release_id)


def evil_bytes() -> bytes:
    """A valid model that nobody approved."""
    return tiny_model(tiny_contract(name="evil"), seed=66)


def evil_listing(bench: Bench) -> Callable[[Any], None]:
    """Lists an evil model and an index that offers it."""
    data = evil_bytes()
    evil = replace(
        bench.releases[0], release_id="evil", model_digest=sha256_hex(data), model_target="models/evil.onnx"
    )
    evil = replace(evil, model_bytes=len(data))
    index = index_targets(RELEASES_KEY, [*bench.releases, evil])[INDEX]
    folder = bench.repository.path / "targets" / "models"
    (folder / f"{sha256_hex(data)}.evil.onnx").write_bytes(data)
    (folder / f"{sha256_hex(index)}.{INDEX}").write_bytes(index)

    def change(document: Any) -> None:
        for name, content in (("evil.onnx", data), (INDEX, index)):
            path = f"models/{name}"
            document.targets[path] = TargetFile.from_data(path, content, ["sha256"])

    return change


def assert_never_loads(bench: Bench, transport: Any = None) -> None:
    """Whatever the vehicle does, the evil release is neither fetched nor served, though a plan lets out this very model."""
    data = evil_bytes()
    bench.plan("evil", model_digest=sha256_hex(data), model_bytes=len(data))
    done = bench.run(fetcher(bench, transport) if transport else bench.fetcher())
    assert done[-1].outcome == "failed", done
    assert bench.slots.read_candidate() is None
    serving = bench.serving()
    serving.poll()
    assert serving.name == "v1"
    assert bench.trials == []

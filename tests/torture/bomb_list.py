"""Small inputs that would become large or deep: each is refused or read in bounded memory and time."""

from __future__ import annotations

import gzip
import http.server
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

ZEROS = 1_000_000_000
DEPTH = 10_000


@cache
def squeezed(length: int, window: int = 31) -> bytes:
    """`length` zero bytes as gzip (or zlib), about a thousandth of the size."""
    packer, parts = zlib.compressobj(9, zlib.DEFLATED, window), []
    for _ in range(length // 1_000_000):
        parts.append(packer.compress(bytes(1_000_000)))
    return b"".join((*parts, packer.flush()))


@contextmanager
def _answers(body: bytes) -> Iterator[str]:
    """A web server that gives every request the same gzip answer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except ConnectionError:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            """Nothing is said."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _image(payload: bytes) -> None:
    from modelkit.images import decode_image

    decode_image(payload)


def _png_text_bomb(_folder: Path) -> None:
    """Compressed text beside a tiny picture."""
    body = b"note\0\0" + squeezed(100_000_000, 15)
    extra = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    small = _png(4, 4, zlib.compress(bytes(4 * 13)))
    _image(small[:33] + extra + small[33:])


def _metadata_over_http(folder: Path) -> None:
    from edge_agent.models.http import BoundedFetcher, UrlTransport
    from edge_agent.models.settings import DownloadSettings
    from edge_agent.models.trust import OnlineTrust
    from edge_agent.models.trust_folder import TrustFolder
    from tests.edge_agent.models.model_bench import Bench

    bench, settings = Bench(folder), DownloadSettings()
    with _answers(squeezed(ZEROS)) as url:
        port = BoundedFetcher(UrlTransport(settings), settings, bench.clock)
        OnlineTrust(TrustFolder(bench.state), url, port, bench.clock).refresh()


def _model_over_http(folder: Path) -> None:
    from edge_agent.models.http import StagedDownload, UrlTransport
    from edge_agent.models.settings import DownloadSettings
    from edge_agent.models.trust_folder import our_errors
    from foundation.clock import SystemClock

    settings = DownloadSettings()
    with _answers(squeezed(ZEROS)) as url, our_errors():
        StagedDownload(UrlTransport(settings), settings, SystemClock()).advance(
            f"{url}/model.onnx", folder / "model.part", 5_000_000, 60.0
        )


def _avro_lengths(_folder: Path) -> None:
    """Arrays and bytes that claim more than there is."""
    from schemas.codec import decode
    from tests.torture.turns import ROOT

    record = (ROOT / "schemas" / "vectors" / "sample-full.avro").read_bytes()
    for at in range(10, 200):
        try:
            decode(record[:at] + b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01" + record[at:])
        except _ours():
            continue
    decode(record[:10] + b"\xfe\xff\xff\xff\x0f" * 1000)


def _gzip_record(_folder: Path) -> None:
    from schemas.codec import decode

    decode(squeezed(ZEROS))


def _ours() -> type[Exception]:
    from foundation.errors import FleetLoopError

    return FleetLoopError


def _deep_json(_folder: Path) -> None:
    from schemas.documents import Release

    Release.from_json("[" * DEPTH + "]" * DEPTH)


def _deep_index(_folder: Path) -> None:
    from edge_agent.models.trust import parse_index

    parse_index(b'{"format": 1, "plans": ' + b"[" * DEPTH + b"]" * DEPTH + b"}", "plans")


def _deep_state(folder: Path) -> None:
    from foundation.files import read_json

    (folder / "deep.json").write_text('{"a": ' * DEPTH + "1" + "}" * DEPTH)
    read_json(folder / "deep.json")


def _deep_toml(folder: Path) -> None:
    from edge_agent.config import load_agent_settings

    (folder / "agent.toml").write_text("vehicle_id = " + "[" * DEPTH + "]" * DEPTH)
    load_agent_settings(folder / "agent.toml")


def _deep_keys_toml(folder: Path) -> None:
    from edge_agent.config import load_agent_settings

    (folder / "agent.toml").write_text(".".join(["a"] * DEPTH) + " = 1")
    load_agent_settings(folder / "agent.toml")


def _deep_yaml(folder: Path) -> None:
    from workspace.params_file import load_classes

    (folder / "params.yaml").write_text("classes: " + "[" * DEPTH + "]" * DEPTH)
    load_classes(folder / "params.yaml")


def _laughs_yaml(folder: Path) -> None:
    """A few lines that name a list of a billion words."""
    from workspace.params_file import load_classes

    lines = ["a0: &a0 [lol, lol]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    (folder / "params.yaml").write_text("\n".join([*lines, "classes: *a29"]))
    load_classes(folder / "params.yaml")


def _deep_enrolment(_folder: Path) -> None:
    from schemas.enrolment import Enrolment

    Enrolment.from_json("[" * DEPTH + "]" * DEPTH)


def _message(field: int, body: bytes) -> bytes:
    """One length-delimited field of a protocol buffer."""
    length, size = b"", len(body)
    while size > 0x7F:
        length += bytes((size & 0x7F | 0x80,))
        size >>= 7
    return bytes((field << 3 | 2,)) + length + bytes((size,)) + body


def _deep_onnx(_folder: Path) -> None:
    from modelkit.verify import verify_model

    graph = b""
    for _ in range(DEPTH // 3):  # graph, node, attribute: three messages each
        graph = _message(1, _message(5, _message(6, graph)))
    verify_model(b"\x08\x0a" + _message(7, graph), None)


def _onnx(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def bomb(_folder: Path) -> None:
        from modelkit.embed import embed_contract
        from modelkit.verify import verify_model
        from tests.fakes.models import tiny_contract, tiny_proto

        model = tiny_proto(tiny_contract())
        change(model)
        verify_model(embed_contract(model.SerializeToString(), tiny_contract()), None)

    return bomb


def _huge_header(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [2**40, 2**40]


def _huge_sparse(model: Any) -> None:
    import numpy as np
    from onnx import helper, numpy_helper

    one = numpy_helper.from_array(np.zeros(1, dtype=np.float32), "sparse")
    index = numpy_helper.from_array(np.zeros(1, dtype=np.int64), "sparse_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(one, index, [2**50]))


def _gzip_model(_folder: Path) -> None:
    from modelkit.verify import verify_model

    verify_model(gzip.compress(bytes(50_000_000)), None)


def _contract_bomb(_folder: Path) -> None:
    from modelkit.contract import ModelContract

    ModelContract.from_json('{"classes": ' + "[" * DEPTH + "]" * DEPTH + "}")


@cache
def squeezed_zstd(length: int) -> bytes:
    """`length` zero bytes as zstd, much less than a thousandth of the size."""
    import zstandard

    packer = zstandard.ZstdCompressor().compressobj()
    parts = [packer.compress(bytes(1_000_000)) for _ in range(length // 1_000_000)]
    return b"".join((*parts, packer.flush()))


def _kafka_batch(codec: int, packed: Callable[[], bytes]) -> Callable[[Path], None]:
    """A batch of one record whose body is `packed`, as the consumer of ingest reads it."""

    def set_off(_folder: Path) -> None:
        from types import SimpleNamespace

        from kafka.record.memory_records import MemoryRecords

        from connectors.kafka import clients as kafka_clients  # noqa: F401 - they make the client careful
        from connectors.kafka import source as kafka_source
        from foundation.errors import RejectedError
        from pipelines.ingest.decode import verify_and_decode
        from schemas.enrolment import Enrolment

        body = packed()
        head = struct.pack(
            ">qiibIhiqqqhii", 0, 49 + len(body), 0, 2, 0, codec, 0, 1_000, 1_000, -1, -1, -1, 1
        )
        records = [
            kafka_source.stored(
                SimpleNamespace(
                    partition=0,
                    offset=each.offset,
                    timestamp=each.timestamp,
                    key=each.key,
                    value=each.value,
                    headers=each.headers,
                    checksum=each.checksum,
                )
            )
            for each in MemoryRecords(head + body).next_batch()
        ]
        _, rejections = verify_and_decode(records, Enrolment({}))
        for each in rejections:
            raise RejectedError(each.detail, reason=each.reason)

    return set_off


BOMBS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "png-50000-by-50000": ("refused", lambda _: _image(_png(50_000, 50_000, squeezed(ZEROS, 15)))),
    "gzip-http-metadata": ("refused", _metadata_over_http),
    "gzip-http-model": ("refused", _model_over_http),
    "png-with-too-many-pixels": ("refused", lambda _: _image(_png(9_000, 9_000, squeezed(244_000_000, 15)))),
    "png-with-more-data-than-pixels": ("any", lambda _: _image(_png(8, 8, squeezed(ZEROS, 15)))),
    "png-with-a-compressed-note": ("any", _png_text_bomb),
    "gzip-as-an-image": ("refused", lambda _: _image(squeezed(ZEROS))),
    "avro-lengths": ("refused", _avro_lengths),
    "avro-gzip": ("refused", _gzip_record),
    "json-deep": ("refused", _deep_json),
    "json-deep-index": ("refused", _deep_index),
    "json-deep-state": ("refused", _deep_state),
    "json-deep-contract": ("refused", _contract_bomb),
    "json-deep-enrolment": ("refused", _deep_enrolment),
    "toml-deep": ("refused", _deep_toml),
    "toml-deep-keys": ("refused", _deep_keys_toml),
    "yaml-deep": ("refused", _deep_yaml),
    "yaml-laughs": ("refused", _laughs_yaml),
    "onnx-deep": ("refused", _deep_onnx),
    "onnx-huge-header": ("refused", _onnx(_huge_header)),
    "onnx-huge-sparse": ("refused", _onnx(_huge_sparse)),
    "onnx-gzip": ("refused", _gzip_model),
    "kafka-batch-gzip": ("refused", _kafka_batch(1, lambda: squeezed(ZEROS))),
    "kafka-batch-zstd": ("refused", _kafka_batch(4, lambda: squeezed_zstd(ZEROS))),
    "kafka-batch-snappy": ("refused", _kafka_batch(2, lambda: b"\x80\x94\xeb\xdc\x03" + bytes(1_000))),
}
"""Name -> (how it must end: refused, or any for what may also be read), and the bomb."""

"""What a hostile vehicle sends: a mixture of every attack that we know, drawn from a seed, beside two honest vehicles."""

from __future__ import annotations

import dataclasses
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

from schemas.identity import Identity
from schemas.predictions import ClassificationOutput, ModelPrediction
from schemas.wire import WireRecord
from tests.pipelines.curate_lake import CLASSES, picture
from tests.pipelines.ingest.ingest_lab import EPOCH, Fleet

HONEST = ("car-a", "car-b")
HOSTILE = "aaa-evil"
"""Its name sorts before the others', which decides where nothing else does."""
DRIVES, FRAMES = 6, 8
"""Of each honest vehicle."""
FAR = 40_000_000
"""Seeds of pictures that no honest vehicle has."""
_ODD_TEXTS = ("[/red]", "\x1b[2J", "‮drive", "a" * 200, "../../etc", "<script>1</script>", "=1+1", "d0\n")


def said(class_name: str, score: float, embedding: tuple[float, ...]) -> tuple[ModelPrediction, ...]:
    scores = dict.fromkeys(("entropy", "margin", "least_confidence"), score)
    answer = ClassificationOutput(class_name, (0.5, 0.5))
    return (
        ModelPrediction("serving", "classification", "m", "d" * 64, scores, embedding, classification=answer),
    )


def seed_of(vehicle: str, n: int) -> int:
    return HONEST.index(vehicle) * 100_000 + n


def honest_record(fleet: Fleet, vehicle: str, n: int) -> WireRecord:
    return fleet.record(
        vehicle,
        n,
        payload=picture(seed_of(vehicle, n)),
        content_type="image/png",
        drive_id=f"d{n // FRAMES}",
        track_id=f"t{n // 2}",
        predictions=said(CLASSES[n % 3], n * 37 % 100 / 200, (float(n % 7), 1.0, float(n % 3))),
        capture_time_ns=1_000 + n,
    )


class Hostile:
    """One enrolled vehicle with its own key. `records` draws the next ones; what it sent and saw it may send again."""

    def __init__(self, fleet: Fleet, rng: random.Random, seen: list[WireRecord]) -> None:
        self._fleet, self._rng, self._seen = fleet, rng, seen
        self._next_seq = 0
        self._has_a_clock = rng.random() < 0.3
        self._sent: list[WireRecord] = []
        self._attacks: dict[str, Callable[[], WireRecord]] = {
            "payload_reference": self._reference,
            "broken_picture": self._broken_picture,
            "header_block": self._header_block,
            "class_name": lambda: self._record(predictions=said(self._odd_text(), 1.0, (1.0, 2.0))),
            "embedding": self._embedding,
            "clock": lambda: self._record(capture_time_ns=10**9 - self._rng.randrange(10**6)),
            "clock_extreme": lambda: self._record(capture_time_ns=self._rng.choice((0, -(2**62), 2**62))),
            "drive_and_track_of_another": self._drive_of_another,
            "odd_names": lambda: self._record(drive_id=self._odd_text(), track_id=self._odd_text()),
            "near_copy": lambda: self._copy(self._rng.choice((0.98, 1.02))),
            "exact_copy": lambda: self._copy(1.0),
            "dense_scene": self._dense,
            "highest_scores": lambda: self._record(),
            "replay_of_its_own": lambda: self._rng.choice(self._sent),
            "replay_of_another": lambda: self._rng.choice(self._seen),
            "name_of_another": self._name_of_another,
            "conflict": self._conflict,
            "garbage": self._garbage,
        }

    def records(self, count: int) -> list[tuple[str, WireRecord]]:
        """Return (attack, record): of half of the attacks, each once before any comes twice.

        A vehicle whose clock is wrong is in quarantine, and one with a right clock can do what that cannot.
        """
        found = []
        names = self._rng.sample(list(self._attacks), len(self._attacks) // 2)
        if not self._has_a_clock:
            names = [name for name in names if not name.startswith("clock")]
        order = [name for _ in range(-(-count // len(names))) for name in self._rng.sample(names, len(names))]
        for name in order[:count]:
            if name == "replay_of_its_own" and not self._sent:
                name = "highest_scores"
            record = self._attacks[name]()
            self._sent.append(record)
            found.append((name, record))
        return found

    def _record(self, **fields: Any) -> WireRecord:
        seq, self._next_seq = self._next_seq, self._next_seq + 1
        says: dict[str, Any] = {
            "payload": picture(FAR + self._rng.randrange(10**6)),
            "content_type": "image/png",
            "drive_id": f"e{self._rng.randrange(8)}",
            "track_id": None,
            "predictions": said(self._rng.choice(CLASSES), 1.0, (1.0, 1.0, 1.0)),
            "capture_time_ns": 1_000 + seq,
        }
        return self._fleet.record(HOSTILE, seq, **(says | fields))

    def _odd_text(self) -> str:
        return f"{self._rng.choice(_ODD_TEXTS)}{self._rng.randrange(1000)}"

    def _reference(self) -> WireRecord:
        uri = self._rng.choice(("file:///etc/passwd", "s3://other/x", "../../x", "http://127.0.0.1:1/x"))
        return self._record(payload=b"", payload_uri=uri, payload_sha256="0" * 64, payload_bytes=10**9)

    def _broken_picture(self) -> WireRecord:
        png = picture(FAR)
        kinds = (
            b"",
            b"x" * 50,
            png[: self._rng.randrange(8, len(png))],
            _png(8, 8, 3, (b"tRNS", b"\0\1"), (b"IDAT", zlib.compress(b"\0" * 72))),  # a palette without PLTE
            _png(9_999, 9_999, 2, (b"acTL", struct.pack(">II", 2, 0)), (b"IDAT", zlib.compress(b"\0"))),
            bytes(self._rng.randrange(256) for _ in range(300)),
            b"RIFF\x20\0\0\0WEBPVP8 " + bytes(24),
        )
        return self._record(payload=self._rng.choice(kinds))

    def _header_block(self) -> WireRecord:
        more = self._rng.choice(
            ([("h", b"x" * 70_000)], [(f"h{n}", b"") for n in range(3_000)], [("\x1b[31m", b"\0")])
        )
        record = self._record()
        return dataclasses.replace(record, headers=(*record.headers, *more))

    def _embedding(self) -> WireRecord:
        one = self._rng.choice((0.0, 1.0, -1e30, 3e38))
        return self._record(predictions=said("red", 1.0, (one,) * self._rng.randrange(1, 2_000)))

    def _drive_of_another(self) -> WireRecord:
        n = self._rng.randrange(DRIVES * FRAMES)
        return self._record(drive_id=f"d{n // FRAMES}", track_id=f"t{n // 2}")

    def _copy(self, light: float) -> WireRecord:
        of = seed_of(self._rng.choice(HONEST), self._rng.randrange(DRIVES * FRAMES // 2))
        return self._record(payload=picture(of, light=light))

    def _dense(self) -> WireRecord:
        return self._record(payload=picture(FAR, light=0.9 + self._rng.random() / 10), drive_id="parked")

    def _name_of_another(self) -> WireRecord:
        """A record in the name of an honest vehicle, which this one's key signed."""
        vehicle, n = self._rng.choice(HONEST), self._rng.randrange(DRIVES * FRAMES)
        return self._fleet.record(
            vehicle, n, signer=HOSTILE, payload=picture(FAR + n), content_type="image/png"
        )

    def _conflict(self) -> WireRecord:
        seq = self._rng.randrange(self._next_seq + 1)
        return self._fleet.record(HOSTILE, seq, payload=picture(FAR - seq), content_type="image/png")

    def _garbage(self) -> WireRecord:
        seq, self._next_seq = self._next_seq, self._next_seq + 1
        value = bytes(self._rng.randrange(256) for _ in range(self._rng.randrange(1, 200)))
        return self._fleet.signed(Identity(HOSTILE, EPOCH, seq), value)


def _png(width: int, height: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    every = ((b"IHDR", header), *chunks, (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in every
    )

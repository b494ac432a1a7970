"""One vehicle of two real processes, to which bad models are offered one after the other while it answers frames."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.checker.model_books import Answer, answer_violations, events_of, folder_violations, read_answers
from tests.torture.models_bad import NEVER_TAKEN, REFUSED, ROLLED_BACK, TAKEN, Bad
from tests.torture.models_vehicle import Child

LIMIT_S = 60.0
FRAMES_AFTER = 8


class OutsideTouchedError(AssertionError):
    """A file outside the vehicle's folder was written through a link."""


class Vehicle:
    """A repository over HTTP, an enrolled vehicle, its two processes. What it ends with is judged from its files."""

    def __init__(self, folder: Path, *, serve_kill: str = "never", fetch_kill: str = "never") -> None:
        from devservers.static_server import StaticServer
        from foundation.clock import SystemClock
        from tests.edge_agent.models.model_bench import Bench

        self.bench = Bench(folder, SystemClock())  # type: ignore[arg-type]
        self.state = self.bench.state
        self.answers = folder / "answers.jsonl"
        self.server = StaticServer(self.bench.repository.path)
        self.factory = self.old = self.bench.slots.read_factory().digest
        self.outside = folder / "outside.bin"
        self._children = [
            Child("serve", self.state, str(self.answers), serve_kill),
            Child("fetch", self.state, self.server.url, fetch_kill),
        ]

    def __enter__(self) -> Self:
        self.server.start()
        self.wait(lambda: bool(read_answers(self.answers)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            child.end()
        self.server.close()

    @property
    def deaths(self) -> int:
        """How often either process died and was started again."""
        return sum(child.deaths for child in self._children)

    def wait(self, done: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
        """Keep both processes up until it is done. False: it never was."""
        end_s = time.monotonic() + limit_s
        while not done():
            if time.monotonic() > end_s:
                return False
            for child in self._children:
                child.keep_up()
            time.sleep(0.02)
        return True

    def frames(self) -> list[Answer]:
        """What was answered so far."""
        return read_answers(self.answers)

    def answer_some(self) -> bool:
        """Let it answer a few more frames."""
        until = len(self.frames()) + FRAMES_AFTER
        return self.wait(lambda: len(self.frames()) >= until)

    def document(self, name: str) -> dict[str, object]:
        """One of the files of the vehicle's role serving; empty while there is none."""
        path = self.state / "models" / "roles" / "serving" / name
        return json.loads(path.read_text()) if path.exists() else {}

    def record(self, light: tuple[int, ...]) -> None:
        """Pictures that the vehicle is said to have seen lately: its trials use them."""
        import numpy as np
        from PIL import Image

        folder = self.state / "models" / "trial_frames"
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        for number, level in enumerate(light):
            buffer = io.BytesIO()
            Image.fromarray(np.full((32, 32, 3), level, dtype=np.uint8)).save(buffer, "PNG")
            (folder / f"{number:04d}.frame").write_bytes(buffer.getvalue())

    def offer(self, bad: Bad, release_id: str) -> str:
        """Sign, publish and plan it; then tamper with the file, as the kind says. Returns the model's digest."""
        from foundation.errors import FleetLoopError
        from modelkit.digest import sha256_hex
        from schemas.documents import Gate, Release
        from tests.edge_agent.models.model_bench import RELEASES_KEY, contract_digest

        bench = self.bench
        data = bad.make(release_id)
        digest = sha256_hex(data)
        try:
            contract = contract_digest(data)
        except FleetLoopError:
            contract = "0" * 64
        release = Release(
            release_id=release_id,
            model_name=release_id,
            model_digest=digest,
            model_target=f"models/{release_id}.onnx",
            model_bytes=max(1, len(data)),
            contract_digest=contract,
            gate=Gate(passed=True),
            created_time_ns=bench.clock.now_ns(),
        )
        rows = [json.loads(each.to_json()) for each in [*bench.releases, release]]
        rows[-1]["model_bytes"] = len(data)
        index = json.dumps({"format": 2, RELEASES_KEY: rows}).encode()
        bench.repository.publish("models", {f"{release_id}.onnx": data, "index-2.json": index})
        if bad.end == TAKEN:
            bench.releases.append(release)
        self._tamper(bad.tamper, release_id, digest, data)
        bench.plan(release_id)
        return digest

    def _tamper(self, how: str, release_id: str, digest: str, data: bytes) -> None:
        path = self.bench.repository.path / "targets" / "models" / f"{digest}.{release_id}.onnx"
        staged = self.state / "models" / "staging" / f"{digest}.part"
        self.outside.write_bytes(b"a file of somebody else" * 40)
        if how.startswith("staged"):
            staged.parent.mkdir(exist_ok=True)
            staged.unlink(missing_ok=True)
            if how == "staged symlink":
                staged.symlink_to(self.outside)
            else:
                os.link(self.outside, staged)
        elif how == "symlink":
            path.unlink()
            path.symlink_to(self.outside)
        elif how == "missing":
            path.unlink()
        elif how:
            path.write_bytes(
                {"other bytes": bytes(len(data)), "cut": data[:-500], "longer": data + b"more"}[how]
            )

    def attempt(self, bad: Bad, number: int) -> tuple[list[str], float]:
        """Offer one kind, and say what was violated and after how many seconds it had ended."""
        release_id = f"n{number}-{bad.name}"
        self.record(bad.trial_light)
        first = len(self.frames())
        failures = self._fetch_failures()
        began_s = time.monotonic()
        with self._children[1].paused():  # so that what is put into its staging is there when it looks
            digest = self.offer(bad, release_id)

        def is_over() -> bool:
            if bad.end == REFUSED:
                return release_id in self.document("fetch.json").get("refused", {})  # type: ignore[operator]
            if bad.end == ROLLED_BACK:
                return release_id in self.document("active.json").get("blocked", {})  # type: ignore[operator]
            if bad.end == NEVER_TAKEN:
                return self._fetch_failures() > failures
            active = self.document("active.json")
            return active["active"]["release_id"] == release_id and bool(active["confirmed"])  # type: ignore[index]

        wrong = [] if self.wait(is_over) else [f"it was not {bad.end} within {LIMIT_S:.0f} s"]
        took_s = time.monotonic() - began_s
        if not self.answer_some():
            wrong.append("no frame was answered after it")
        may_serve = {self.old, digest} if bad.end in (ROLLED_BACK, TAKEN) else {self.old}
        if bad.end == TAKEN:
            self.old = digest
        gap_s = LIMIT_S if bad.end == ROLLED_BACK else 30.0
        wrong += answer_violations(self.frames()[first:], may_serve, self.old, gap_s)
        wrong += folder_violations(self.state, {self.old, self.factory})
        if bad.end in (REFUSED, NEVER_TAKEN) and digest in events_of(self.state, "activated"):
            wrong.append("it was activated for a while")
        if self.outside.read_bytes() != b"a file of somebody else" * 40:
            wrong.append("a file outside the vehicle's folder was written")
        return wrong, took_s

    def _fetch_failures(self) -> int:
        log = self.state.parent / "deliver.events"
        return log.read_bytes().count(b'"model_fetch_failed"') if log.exists() else 0


def sound(name: str = "sound") -> Bad:
    """A good model, which must come to serve."""
    from tests.torture.models_bad import KINDS

    return replace(KINDS[0], name=name, end=TAKEN, make=_sound_bytes, tamper="", trial_light=(90, 0))


def _sound_bytes(name: str) -> bytes:
    from tests.fakes.models import tiny_contract, tiny_model

    return tiny_model(tiny_contract(name=name), seed=9)

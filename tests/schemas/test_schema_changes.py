"""A change of a schema that would break a reader is refused; the golden vectors hold."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foundation.errors import CorruptError
from schemas import registry
from scripts import golden_vectors as golden
from scripts import schema_compatibility as compatibility

SAMPLE: dict[str, Any] = dict(registry.newest("sample").raw)


def changed(**fields: Any) -> dict[str, Any]:
    """The newest sample with some fields' types replaced, or removed (None)."""
    schema = copy.deepcopy(SAMPLE)
    schema["fields"] = [
        {**field, "type": fields.get(field["name"], field["type"])}
        for field in schema["fields"]
        if fields.get(field["name"], "") is not None
    ]
    return schema


def added(**field: Any) -> dict[str, Any]:
    schema = copy.deepcopy(SAMPLE)
    schema["fields"].append(field)
    return schema


def test_the_schemas_of_this_tree_are_compatible_and_frozen() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.schema_compatibility"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_golden_vectors_hold() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.golden_vectors"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


BREAKING = {
    "a field without a default": (added(name="speed_mps", type="double"), "backward: speed_mps"),
    "a field removed": (changed(seq=None), "forward: seq"),
    "a number made text": (changed(seq="string"), "seq: long cannot be read as string"),
    "text made a number": (changed(drive_id="long"), "drive_id: string cannot be read as long"),
    "a number widened one way only": (changed(payload_bytes="double"), "forward: payload_bytes"),
    "null allowed": (changed(drive_id=["null", "string"]), "forward: drive_id: null"),
    "null forbidden": (changed(track_id="string"), "backward: track_id: null"),
    "an enum with another word": (
        changed(provenance={"type": "enum", "name": "Provenance", "symbols": ["recorded", "dreamt"]}),
        "backward: provenance: the reader does not know replayed",
    ),
    "an enum renamed": (
        changed(provenance={"type": "enum", "name": "Origin", "symbols": ["recorded"]}),
        "Provenance cannot be read as Origin",
    ),
    "a list of something else": (
        changed(embedding={"type": "array", "items": "double"}),
        "forward: embedding[]: double cannot be read as float",
    ),
    "the record renamed": ({**SAMPLE, "name": "Frame"}, "Sample cannot be read as Frame"),
}


@pytest.mark.parametrize("what", sorted(BREAKING))
def test_a_breaking_change_is_refused(what: str) -> None:
    new, words = BREAKING[what]
    problems = compatibility.check(SAMPLE, new)
    assert any(words in problem for problem in problems), problems


def test_a_nested_record_is_compared_too() -> None:
    new = copy.deepcopy(SAMPLE)
    (scores,) = (field["type"] for field in new["fields"] if field["name"] == "scores")
    scores["fields"] = [field for field in scores["fields"] if field["name"] != "margin"]
    assert compatibility.check(SAMPLE, new) == []  # margin has a default: either side does without
    scores["fields"].append({"name": "spread", "type": "double"})
    assert compatibility.check(SAMPLE, new) == [
        "backward: scores.spread: the reader needs it, the writer has none, and there is no default"
    ]


def test_changes_that_break_nobody_pass() -> None:
    optional = added(name="speed_mps", type=["null", "double"], default=None)
    reordered = {**SAMPLE, "fields": list(reversed(SAMPLE["fields"]))}
    for new in (SAMPLE, optional, reordered):
        assert compatibility.check(SAMPLE, new) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copied = tmp_path / "avro"
    shutil.copytree(compatibility.FOLDER, copied)
    return copied


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_edited_version_is_refused_even_when_it_would_be_compatible(folder: Path) -> None:
    edit(folder / "sample.v1.avsc", doc="other words")
    assert compatibility.check_folder(folder) == [
        "sample version 1 is frozen but was changed; add version 5 instead"
    ]
    assert compatibility.main(["--folder", str(folder)]) == 1


def test_an_edit_of_a_version_and_of_its_frozen_copy_is_refused_by_git_history(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def git(*words: str) -> None:
        name = ("-c", "user.name=x", "-c", "user.email=x@localhost")
        subprocess.run(["git", *name, *words], cwd=tmp_path, check=True, capture_output=True)

    def both(**changes: Any) -> None:
        for path in (folder / "sample.v1.avsc", folder / "frozen" / "sample.v1.avsc"):
            edit(path, **changes)

    assert compatibility.check_history(folder) is None, "outside a checkout git is not asked for"
    assert compatibility.main(["--folder", str(folder)]) == 0
    assert "no git history" in capsys.readouterr().out
    git("init", "--quiet")
    git("add", "avro")
    git("commit", "--quiet", "-m", "freeze")
    assert compatibility.check_history(folder) == []
    both(doc="other words")
    assert compatibility.check_folder(folder) == [], "why history is needed"
    for is_committed in (False, True):
        if is_committed:
            git("commit", "--quiet", "-a", "-m", "edit both")
        (problem,) = compatibility.check_history(folder) or []
        assert problem.startswith("frozen/sample.v1.avsc differs from commit ")
        assert compatibility.main(["--folder", str(folder)]) == 1
    git("rm", "--quiet", "avro/sample.v1.avsc", "avro/frozen/sample.v1.avsc")
    assert "was removed" in (compatibility.check_history(folder) or [""])[0]
    (folder / "frozen" / "sample.v9.avsc").write_text("{}")
    assert len(compatibility.check_history(folder) or []) == 1, "what is not committed yet may still change"


def test_a_removed_version_is_refused(folder: Path) -> None:
    (folder / "sample.v1.avsc").unlink()
    assert "sample version 1 was removed" in compatibility.check_folder(folder)[0]


def test_a_new_version_is_frozen_once_and_only_when_compatible(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "sample.v5.avsc").write_text(
        json.dumps(added(name="speed_mps", type=["null", "double"], default=None))
    )
    assert compatibility.check_folder(folder) == [
        "sample version 5 is not frozen (python -m scripts.schema_compatibility --freeze)"
    ]
    assert compatibility.main(["--folder", str(folder), "--freeze"]) == 0
    assert "frozen: sample.v5.avsc" in capsys.readouterr().out
    assert compatibility.freeze(folder) == []
    (folder / "sample.v5.avsc").write_text(json.dumps(changed(seq="string")))
    assert compatibility.main(["--folder", str(folder), "--freeze"]) == 1
    assert "sample version 2 and 5: backward: seq" in capsys.readouterr().err


def test_two_versions_that_no_reader_could_tell_apart_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fingerprint leaves out defaults and docs, so such a version looks like the one before."""
    package = tmp_path / "package"
    shutil.copytree(compatibility.FOLDER, package / "avro")
    twin = json.loads((package / "avro" / "sample.v2.avsc").read_text())
    (package / "avro" / "sample.v5.avsc").write_text(json.dumps({**twin, "doc": "another"}))
    monkeypatch.setattr(registry.resources, "files", lambda _: package)
    registry.schemas.cache_clear()
    try:
        with pytest.raises(CorruptError, match="same fingerprint as sample version 2"):
            registry.schemas()
    finally:
        registry.schemas.cache_clear()


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    copied = tmp_path / "vectors"
    shutil.copytree(golden.FOLDER, copied)
    return copied


def test_a_changed_vector_is_noticed(vectors: Path) -> None:
    assert golden.check(vectors) == []
    path = vectors / "sample-full.avro"
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    edit(vectors / "notice.json", version=9)
    edit(vectors / "signed.json", identity="v/0000000000000000/0")
    problems = "\n".join(golden.check(vectors))
    for name in ("sample-full.avro", "notice.avro", "signed.json"):
        assert name in problems


def test_missing_vectors_are_a_problem_and_are_written_the_same_again(vectors: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert golden.check(empty) == [f"{empty} lacks vectors"]
    assert golden.main(["--folder", str(empty), "--write"]) == 0
    written = {path.name for path in empty.iterdir()}
    old = {path.name for path in vectors.iterdir()} - written  # of versions that nobody writes any more
    assert {"sample-version-1.avro", "sample-full.avro", "telemetry-full.avro"} <= old
    assert golden.check(empty) == []
    for path in (vectors / name for name in written - {"signed.json"}):  # the kept one signs an old version
        assert (empty / path.name).read_bytes() == path.read_bytes()

"""A model is released with a passed gate, or with a name and a reason that the signed document keeps."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foundation.errors import MisconfiguredError, RejectedError, RetryLaterError
from rollout.keys import ONLINE_ROLES, PASSPHRASE_VARIABLE
from rollout.release import NO_GATE, GateReport, publish_release, read_releases, with_override
from rollout.repository import Repository, init_repository
from schemas.documents import Override, Release
from tests.fakes.models import tiny_contract, tiny_model, tiny_proto
from tests.modelkit.bundle_rig import write_bundle
from tests.rollout.rollout_lab import PASSED, Lab

REFUSED = GateReport(False, "worse on class:yellow")
MODEL = tiny_model(tiny_contract(name="v2"), seed=2)


def test_a_refused_gate_releases_nothing(lab: Lab) -> None:
    for gate in (REFUSED, NO_GATE):
        with pytest.raises(RejectedError) as caught:
            publish_release(lab.repository, MODEL, gate, lab.clock)
        assert caught.value.reason == "gate_refused"
        assert gate.reason in str(caught.value)
    assert read_releases(lab.repository) == []


def test_an_override_is_kept_in_the_signed_document(lab: Lab) -> None:
    override = with_override(REFUSED, "ana", "track test only", lab.clock)
    publish_release(lab.repository, MODEL, REFUSED, lab.clock, override=override)
    (release,) = read_releases(lab.repository)
    assert release.gate.passed is False
    assert release.gate.override == Override("ana", "track test only", lab.clock.now_ns())
    assert release.gate.reason == "worse on class:yellow"


def test_an_override_needs_both_name_and_reason(lab: Lab) -> None:
    for by, why in (("ana", ""), ("", "because"), ("ana", "  ")):
        with pytest.raises(MisconfiguredError, match="both a name and a reason"):
            with_override(REFUSED, by, why, lab.clock)
    assert with_override(REFUSED, "", "", lab.clock) is None
    assert with_override(PASSED, "ana", "not needed", lab.clock) is None


def test_the_gate_of_another_model_does_not_count(lab: Lab) -> None:
    with pytest.raises(RejectedError, match="the gate evaluated") as caught:
        publish_release(lab.repository, MODEL, GateReport(True, "", "0" * 64), lab.clock)
    assert caught.value.reason == "gate_of_another_model"


def test_releasing_twice_is_one_release_and_another_model_under_the_same_id_is_a_conflict(lab: Lab) -> None:
    first = publish_release(lab.repository, MODEL, PASSED, lab.clock)
    lab.clock.advance(5)
    assert publish_release(lab.repository, MODEL, PASSED, lab.clock) == first
    assert read_releases(lab.repository) == [first]
    assert first.release_id == f"v2-{first.model_digest[:12]}"
    other = tiny_model(tiny_contract(name="v3"), seed=3)
    with pytest.raises(RejectedError, match="is already model"):
        publish_release(lab.repository, other, PASSED, lab.clock, release_id=first.release_id)


def test_bytes_that_are_no_acceptable_model_are_not_released(lab: Lab) -> None:
    with pytest.raises(RejectedError) as caught:
        publish_release(lab.repository, tiny_proto(tiny_contract()).SerializeToString(), PASSED, lab.clock)
    assert caught.value.reason == "no_contract"


def test_a_malformed_release_id_is_refused_before_anything_is_written(lab: Lab) -> None:
    for wrong in ("../evil", "a/b", "UPPER", ""):
        if not wrong:
            continue
        with pytest.raises(RejectedError):
            publish_release(lab.repository, MODEL, PASSED, lab.clock, release_id=wrong)
    assert not (lab.repository.path / "targets" / "models").exists()


@pytest.mark.parametrize("step", ["targets", "role", "snapshot", "timestamp"])
def test_a_crash_at_any_step_of_a_release_is_mended_by_doing_it_again(lab: Lab, step: str) -> None:
    class KilledError(BaseException):
        pass

    def kill(at: str) -> None:
        if at == step:
            raise KilledError

    broken = Repository(lab.repository.path, lab.repository.keys._path, clock=lab.clock, on_step=kill)
    with pytest.raises(KilledError):
        publish_release(broken, MODEL, PASSED, lab.clock, release_id="r2")
    assert len(read_releases(lab.repository)) == (1 if step == "timestamp" else 0)
    publish_release(lab.repository, MODEL, PASSED, lab.clock, release_id="r2")
    assert len(read_releases(lab.repository)) == 1


def test_a_release_signed_by_the_wrong_role_is_no_release_and_refreshing_takes_it_out(lab: Lab) -> None:
    publish_release(lab.repository, MODEL, PASSED, lab.clock, release_id="evil", signing_role="rollouts")
    assert read_releases(lab.repository) == []
    assert lab.repository.refresh() == ["timestamp", "models", "snapshot"]
    assert (
        lab.repository.load("models").signed.version
        == lab.repository.load("snapshot").signed.meta["models.json"].version
    )


def test_two_writers_at_once_one_is_refused_clearly(lab: Lab) -> None:
    other = Repository(lab.repository.path, lab.repository.keys._path, clock=lab.clock)
    with lab.repository.lock(), pytest.raises(RetryLaterError, match="held by process"):
        publish_release(other, MODEL, PASSED, lab.clock)


def test_a_repository_is_never_made_over_another(lab: Lab) -> None:
    with pytest.raises(MisconfiguredError, match="already holds a repository"):
        init_repository(lab.repository.path, lab.repository.keys._path, clock=lab.clock)


def test_an_interrupted_init_is_simply_done_again(tmp_path: Path, lab: Lab) -> None:
    first = Repository(tmp_path / "t", tmp_path / "k", clock=lab.clock)
    first.path.mkdir()
    first.bootstrap(1, 1)
    (first.path / "metadata" / "timestamp.json").unlink()
    keys = sorted(path.name for path in (tmp_path / "k").rglob("*.pem"))
    again = init_repository(tmp_path / "t", tmp_path / "k", clock=lab.clock)
    assert sorted(path.name for path in (tmp_path / "k").rglob("*.pem")) == keys
    again.publish("models", {"x": b"1"})


def test_every_role_has_a_key_of_its_own_that_only_its_owner_can_read(lab: Lab) -> None:
    files = lab.repository.keys.list()
    assert sorted(each.role for each in files) == sorted(("root", *ONLINE_ROLES))
    assert len({each.key_id for each in files}) == len(files)
    assert {each.mode for each in files} == {0o600}
    assert [each.path.parent.name for each in files if each.role == "root"] == ["offline"]
    folder = lab.repository.keys.folder("models")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (path,) = folder.glob("models-*.pem")
    path.chmod(0o640)
    with pytest.raises(MisconfiguredError, match="must be 0600"):
        lab.repository.publish("models", {"x": b"1"})


def test_keys_can_be_encrypted_and_then_need_their_passphrase(
    tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")
    repository = init_repository(tmp_path / "t", tmp_path / "k", clock=lab.clock)
    repository.publish("models", {"x": b"1"})
    assert all(each.is_encrypted for each in repository.keys.list())
    assert not any(b"correct horse" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for wrong in ("", "wrong"):
        monkeypatch.setenv(PASSPHRASE_VARIABLE, wrong)
        with pytest.raises(MisconfiguredError, match="cannot be loaded"):
            Repository(tmp_path / "t", tmp_path / "k", clock=lab.clock).publish("models", {"x": b"1"})


def test_a_missing_offline_key_is_named(lab: Lab) -> None:
    for path in lab.repository.keys.folder("root").glob("*.pem"):
        path.unlink()
    with pytest.raises(MisconfiguredError, match=r"role root needs 1 signature"):
        lab.repository.rotate_root()
    lab.repository.publish("models", {"x": b"1"})


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 201])
def test_a_target_name_that_is_not_flat_is_refused(lab: Lab, name: str) -> None:
    with pytest.raises(RejectedError, match="must match"):
        lab.repository.publish("models", {name: b"1"})


def test_only_delegated_roles_publish_targets(lab: Lab) -> None:
    with pytest.raises(RejectedError, match="is not one of"):
        lab.repository.publish("targets", {"x": b"1"})
    with pytest.raises(MisconfiguredError, match="no repository"):
        Repository(lab.folder / "nowhere", lab.folder / "keys", clock=lab.clock).load("models")


def test_a_bundle_is_one_release_and_a_file_that_two_releases_share_lies_there_once(
    lab: Lab, tmp_path: Path
) -> None:
    first = write_bundle(tmp_path / "first", "b1", 3)
    done = publish_release(lab.repository, first, PASSED, lab.clock, release_id="b1")
    assert done.files == first.files
    assert (done.model_digest, done.model_bytes) == (
        first.digest,
        sum(file.length_bytes for file in first.files),
    )
    assert publish_release(lab.repository, first, PASSED, lab.clock, release_id="b1") == done
    second = write_bundle(tmp_path / "second", "b2", 3)
    publish_release(lab.repository, second, PASSED, lab.clock, release_id="b2")
    shared = {file.sha256 for file in first.files} & {file.sha256 for file in second.files}
    assert len(shared) == 2, "the tensors and the tokenizer; the graph holds its name"
    held = sorted(path.name for path in (lab.repository.path / "targets" / "models").glob("*.bin"))
    assert held == sorted(f"{d}.{d}.bin" for d in {f.sha256 for f in (*first.files, *second.files)})
    for bundle in (first, second):
        for file in bundle.files:
            signed = lab.repository.read_target("models", f"{file.sha256}.bin")
            assert signed == (bundle.folder / file.path).read_bytes()
    wrong = replace(second, files=first.files)
    with pytest.raises(RejectedError, match="sha256"):
        publish_release(lab.repository, wrong, PASSED, lab.clock, release_id="b3")


@pytest.mark.parametrize(
    "change",
    [
        {"model_digest": "a" * 64},
        {"model_bytes": 1},
        {"model_target": "models/other.onnx"},
        {"files": ()},
        {"files": "first"},
        {"files": "reversed"},
    ],
)
def test_a_release_whose_facts_are_not_those_of_its_files_is_no_release(
    lab: Lab, tmp_path: Path, change: dict[str, Any]
) -> None:
    done = publish_release(lab.repository, write_bundle(tmp_path / "b1"), PASSED, lab.clock, release_id="b1")
    files = {"first": done.files[:1], "reversed": done.files[::-1]}.get(str(change.get("files")))
    changed = replace(done, **({"files": files} if files else change))
    if change == {"files": ()}:
        assert Release.from_json(changed.to_json()).bundle[0].sha256 == done.model_digest, "another model"
        return
    with pytest.raises(RejectedError):
        changed.to_json()

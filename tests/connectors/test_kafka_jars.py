"""The jars of `make kafka` are found from any working folder; where there are none the message says where to run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from devservers import apache_kafka


def test_jars_of_the_clone_are_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone, elsewhere = tmp_path / "clone", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(apache_kafka, "_CLONE", clone)
    monkeypatch.setattr(apache_kafka.shutil, "which", lambda _name: "/usr/bin/java")
    monkeypatch.chdir(elsewhere)
    assert f"{clone}/.cache/kafka/libs: run `make kafka` in a clone" in apache_kafka.missing()
    libs = clone / ".cache" / "kafka" / "libs"
    libs.mkdir(parents=True)
    (libs / ".complete").touch()
    assert apache_kafka.missing() == ""
    assert apache_kafka.usual_home() == clone / ".cache" / "kafka"

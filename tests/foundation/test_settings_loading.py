"""What does not fit the settings is refused with key, value, bound and file; secrets never show."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import MisconfiguredError
from foundation.settings import MASK, Secret, load_settings, print_config, setting


class Mode(StrEnum):
    REFUSE = "refuse"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class Broker:
    bootstrap: str = setting("127.0.0.1:9092", min=3)
    password: Secret = setting(Secret(""), secret=True)
    timeout_s: float = setting(5.0, min=0.1, max=60)


@dataclass(frozen=True, slots=True)
class Rule:
    share_ratio: float = setting(0.5, min=0, max=1)


@dataclass(frozen=True, slots=True)
class Agent:
    vehicle_id: str
    quota_bytes: int = setting(1000, min=1, max=10**12)
    is_metered: bool = False
    mode: Mode = Mode.REFUSE
    state: Path = Path("state")
    note: str | None = None
    sensors: tuple[str, ...] = setting((), max=3)
    size: tuple[int, float] = (1, 2.0)
    broker: Broker = field(default_factory=Broker)
    rules: dict[str, Rule] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.is_metered and self.quota_bytes > 10**6:
            raise MisconfiguredError(f"quota_bytes {self.quota_bytes} is over 1000000 on a metered line")


FULL: dict[str, Any] = {
    "vehicle_id": "car-1",
    "quota_bytes": 5,
    "is_metered": True,
    "mode": "allow",
    "state": "/var/lib/x",
    "note": 'a "quoted" \\ line\nand more\x07',
    "sensors": ["front", "rear"],
    "size": [3, 4],
    "broker": {"bootstrap": "host:1", "timeout_s": 7},
    "rules": {"entropy": {"share_ratio": 0.25}, "with space": {}},
    "limits": {"a": 1},
}


def test_a_file_becomes_typed_settings(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(
        'vehicle_id = "car-1"\nsize = [2, 3]\n[broker]\ntimeout_s = 7\n[rules.x]\nshare_ratio = 1\n'
    )
    loaded = load_settings(Agent, path, env={})
    assert loaded == Agent("car-1", size=(2, 3.0), broker=Broker(timeout_s=7.0), rules={"x": Rule(1.0)})
    assert isinstance(loaded.broker.timeout_s, float)


def test_what_is_printed_is_read_back(tmp_path: Path) -> None:
    loaded = load_settings(Agent, FULL, env={})
    path = tmp_path / "again.toml"
    path.write_text(print_config(loaded), "utf-8")
    assert load_settings(Agent, path, env={}) == loaded


@given(st.text(), st.integers(1, 10**6), st.floats(0.1, 60), st.lists(st.text(), max_size=3))
def test_any_value_is_printed_so_that_it_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, note: str, quota: int, timeout: float, sensors: list[str]
) -> None:
    path = tmp_path_factory.mktemp("toml") / "f.toml"
    given_settings = Agent(
        "v", quota, note=note, sensors=tuple(sensors), broker=Broker(timeout_s=timeout), limits={note: 3}
    )
    text = print_config(given_settings)
    try:
        path.write_text(text, "utf-8")
    except UnicodeEncodeError:
        return
    assert load_settings(Agent, path, env={}) == given_settings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quota": 1}, ["quota", "no such key", "quota_bytes"]),
        ({"broker": {"pasword": "x"}}, ["broker.pasword", "no such key"]),
        ({"quota_bytes": 0}, ["quota_bytes", "0", "[1, 1000000000000]"]),
        ({"quota_bytes": "5"}, ["quota_bytes", "'5'", "whole number"]),
        ({"quota_bytes": True}, ["quota_bytes", "True", "whole number"]),
        ({"quota_bytes": 1.0}, ["quota_bytes", "1.0", "whole number"]),
        ({"is_metered": 1}, ["is_metered", "true or false"]),
        ({"mode": "maybe"}, ["mode", "maybe", "refuse, allow"]),
        ({"state": 3}, ["state", "a path"]),
        ({"note": 3}, ["note", "text"]),
        ({"sensors": ["a", 2]}, ["sensors[1]", "2", "text"]),
        ({"sensors": list("abcd")}, ["sensors", "0 to 3 items"]),
        ({"size": [1]}, ["size", "list of 2"]),
        ({"size": 1}, ["size", "a list"]),
        ({"broker": 3}, ["broker", "3", "a table"]),
        ({"broker": {"timeout_s": 0.01}}, ["broker.timeout_s", "0.01", "[0.1, 60]"]),
        ({"broker": {"timeout_s": float("nan")}}, ["broker.timeout_s", "nan", "finite"]),
        ({"broker": {"bootstrap": "x"}}, ["broker.bootstrap", "at least 3 characters"]),
        ({"rules": {"r": {"share_ratio": 2}}}, ["rules.r.share_ratio", "2", "[0, 1]"]),
        ({"limits": {"a": "b"}}, ["limits.a", "whole number"]),
        ({"limits": [1]}, ["limits", "a table"]),
        ({"is_metered": True, "quota_bytes": 2 * 10**6}, ["2000000", "metered"]),
    ],
)
def test_a_wrong_value_is_named_with_key_value_bound_and_file(
    tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(MisconfiguredError) as caught:
        load_settings(Agent, {"vehicle_id": "v", **change}, env={})
    for word in ["settings", *words]:
        assert word in str(caught.value)


def test_the_file_is_named_whatever_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    for content, words in {
        b"quota_bytes = 5": "vehicle_id is missing",
        b"x = ": "is not TOML",
        b"\xff": "is not TOML",
        b'vehicle_id = "v"\nquota_bytes = -3': "quota_bytes is -3",
    }.items():
        path.write_bytes(content)
        with pytest.raises(MisconfiguredError, match=words) as caught:
            load_settings(Agent, path, env={})
        assert "agent.toml" in str(caught.value)
    with pytest.raises(MisconfiguredError, match=r"absent\.toml"):
        load_settings(Agent, tmp_path / "absent.toml")


def test_secrets_come_from_the_environment_only_and_never_show() -> None:
    env = {"FLEETLOOP_BROKER_PASSWORD": "hunter2"}
    loaded = load_settings(Agent, {"vehicle_id": "v"}, env=env)
    assert loaded.broker.password.reveal() == "hunter2"
    shown = [repr(loaded), str(loaded.broker.password), f"{loaded.broker.password}", print_config(loaded)]
    for text in shown:
        assert "hunter2" not in text
        assert MASK in text
    with pytest.raises(MisconfiguredError, match="FLEETLOOP_BROKER_PASSWORD") as caught:
        load_settings(Agent, {"vehicle_id": "v", "broker": {"password": "hunter2"}}, env={})
    assert "hunter2" not in str(caught.value)


def test_a_secret_that_is_needed_and_absent_is_named() -> None:
    @dataclass(frozen=True)
    class Needs:
        token: Secret = setting(secret=True)

    with pytest.raises(MisconfiguredError, match="FLEETLOOP_TOKEN"):
        load_settings(Needs, {}, env={})
    assert load_settings(Needs, {}, env={"FLEETLOOP_TOKEN": "t"}).token.reveal() == "t"


def test_a_value_of_zero_or_false_is_not_taken_for_a_missing_one() -> None:
    loaded = load_settings(
        Agent, {"vehicle_id": "", "is_metered": False, "rules": {"r": {"share_ratio": 0}}}, env={}
    )
    assert loaded.rules["r"].share_ratio == 0
    assert loaded.vehicle_id == ""


@given(
    st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
)
def test_no_mapping_raises_anything_but_the_one_error(table: dict[str, Any]) -> None:
    try:
        load_settings(Agent, table, env={})
    except MisconfiguredError:
        pass


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a number of 5,000 digits", "9" * 5000),
        ("a number of 5,000 hexadecimal digits", "0x" + "f" * 5000),
        ("10,000 lists in one another", "[" * 10_000 + "]" * 10_000),
    ],
)
def test_toml_beyond_all_bounds_is_a_clear_error(tmp_path: Path, name: str, value: str) -> None:
    from edge_agent.config import AgentSettings

    path = tmp_path / "agent.toml"
    path.write_text(f"vehicle_id = {value}\n[source]\nrate_hz = {value}\n")
    with pytest.raises(MisconfiguredError) as found:
        load_settings(AgentSettings, path)
    assert len(str(found.value)) < 2000, name


def test_a_number_too_large_for_a_fraction_is_named(tmp_path: Path) -> None:
    from edge_agent.config import AgentSettings

    path = tmp_path / "agent.toml"
    path.write_text(
        f'vehicle_id = "car-1"\nstate_folder = "s"\n[source]\nkind = "image_folder"\npath = "."\nrate_hz = {"9" * 400}\n'
    )
    with pytest.raises(MisconfiguredError, match=r"source\.rate_hz.*finite"):
        load_settings(AgentSettings, path)


def test_a_key_of_thousands_of_parts_is_refused_before_it_takes_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(".".join(["a"] * 10_000) + " = 1\n")
    with pytest.raises(MisconfiguredError, match="more than 64 parts"):
        load_settings(Agent, path)

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edge_agent import AGENT_VERSION
from edge_agent.config import load_agent_settings
from foundation.errors import MisconfiguredError
from foundation.settings import print_config

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "agent.toml"
HEAVY = ("apache_beam", "torch", "dvc", "pandas", "polars", "deltalake", "great_expectations", "pyarrow")


def write(folder: Path, text: str) -> Path:
    path = folder / "agent.toml"
    path.write_text('vehicle_id = "car-1"\nstate_folder = "state"\n' + text)
    return path


SOURCE = '[source]\nkind = "image_folder"\npath = "images"\n'


def test_the_example_is_valid_and_prints_what_reads_back_the_same(tmp_path):
    settings = load_agent_settings(EXAMPLE)
    assert settings.state_folder == EXAMPLE.parent / "car-1"
    again = tmp_path / "again.toml"
    again.write_text(print_config(settings))
    assert load_agent_settings(again) == settings


def test_paths_are_relative_to_the_file_and_addresses_are_not(tmp_path):
    settings = load_agent_settings(write(tmp_path, SOURCE + '[updates]\nbase_url = "tuf"\n'))
    assert settings.source.path == tmp_path / "images"
    assert settings.updates.base_url == str(tmp_path / "tuf")
    web = write(tmp_path, SOURCE + '[updates]\nbase_url = "http://127.0.0.1:1/tuf"\n')
    assert load_agent_settings(web).updates.base_url == "http://127.0.0.1:1/tuf"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            SOURCE + "[selection.random]\nprobability = 1.5\n",
            ("selection.random.probability", "1.5", "[0, 1]"),
        ),
        (SOURCE + "[selection]\nmax_per_track = 0\n", ("selection.max_per_track", "0", "[1, ")),
        (
            SOURCE + "[selection]\nmax_per_trak = 1\n",
            ("selection.max_per_trak", "no such key", "max_per_track"),
        ),
        (SOURCE + "[capture]\npre_frames = 301\n", ("capture.pre_frames", "301", "[0, 300]")),
        (SOURCE + '[selection.uncertainty]\nmeasure = "guess"\n', ("measure", "'guess'", "entropy, margin")),
        (SOURCE + '[health]\nport = "80"\n', ("health.port", "'80'", "whole number")),
        ('[source]\nkind = "camera"\npath = "x"\n', ("source.kind", "'camera'", "image_folder, parquet")),
        ('[source]\nkind = "parquet"\n', ("source.path", "missing")),
        (SOURCE + '[upload.kafka]\nbootstrap = "nowhere"\n', ("bootstrap", "'nowhere'", "host:port")),
        ("source = 3\n", ("source", "3", "a table")),
        ("[source\n", ("not TOML",)),
    ],
)
def test_a_mistake_is_named_with_key_value_bound_and_file(tmp_path, text, named):
    path = write(tmp_path, text)
    with pytest.raises(MisconfiguredError) as caught:
        load_agent_settings(path)
    for part in (*named, str(path)):
        assert part in str(caught.value)


def test_a_vehicle_id_of_the_wrong_form_is_named(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text('vehicle_id = "Car 1"\nstate_folder = "state"\n' + SOURCE)
    with pytest.raises(MisconfiguredError, match="vehicle_id is 'Car 1'"):
        load_agent_settings(path)


def test_a_missing_file_is_a_clear_error(tmp_path):
    with pytest.raises(MisconfiguredError, match="cannot read the settings"):
        load_agent_settings(tmp_path / "none.toml")


def test_importing_all_of_the_agent_loads_nothing_that_a_vehicle_lacks():
    code = f"""
import importlib, pkgutil, sys
import edge_agent
names = [m.name for m in pkgutil.walk_packages(edge_agent.__path__, "edge_agent.")]
for name in names:
    importlib.import_module(name)
import fleetloop.commands.agent
assert len(names) > 30, names
print(sorted(set(m.split(".")[0] for m in sys.modules) & set({HEAVY!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_agent_extra_installs_nothing_that_a_vehicle_lacks(tmp_path):
    metadata = wheel_metadata()
    assert "Version: " + AGENT_VERSION in metadata
    unwanted = {name.replace("_", "-") for name in HEAVY}
    installed = set()
    for line in metadata.splitlines():
        if line.startswith("Requires-Dist: "):
            requirement = Requirement(line.removeprefix("Requires-Dist: "))
            if requirement.marker is None or requirement.marker.evaluate({"extra": "agent"}):
                installed.add(requirement.name.lower().replace("_", "-"))
    assert {"onnxruntime", "kafka-python", "tuf"} <= installed
    assert not installed & unwanted


def wheel_metadata() -> str:
    """The METADATA that the wheel of this source tree will carry, as its build back end writes it."""
    from hatchling.metadata.core import ProjectMetadata
    from hatchling.metadata.spec import construct_metadata_file_2_4
    from hatchling.plugin.manager import PluginManager

    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    document["project"].pop("readme")  # its text is no matter here
    project = ProjectMetadata(str(ROOT), PluginManager(), document)
    return str(construct_metadata_file_2_4(project))

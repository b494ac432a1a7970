"""A first model from a folder of pictures with its own labels, or a clear word of what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from foundation.errors import MisconfiguredError
from schemas.reasons import Split
from services.drives import split_by_params
from services.training import FirstModelRequest, train_first
from tests.e2e.own_pictures import draw
from workspace.layout import Workspace

pytest.importorskip("torch")


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    root = tmp_path / "ws"
    root.mkdir()
    (root / "fleetloop.toml").write_text('name = "test fleet"\n')
    (root / "params.yaml").write_text(yaml.safe_dump({"classes": ["cone", "sign"], "train": {"epochs": 1}}))
    return Workspace.open(root)


def drives(place: Workspace, split: Split, count: int) -> list[str]:
    split_of = split_by_params(place.params_path)
    return [name for name in (f"day-{number}" for number in range(200)) if split_of(name) is split][:count]


def archive(folder: Path, names: list[str], each: int = 6) -> FirstModelRequest:
    rows = ["file,class"]
    for number in range(len(names) * each):
        picture, name, _ = draw(number)
        path = folder / "archive" / names[number // each] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        rows.append(f"{path.relative_to(folder / 'archive')},{name}")
    (folder / "archive" / names[0] / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "labels.csv").write_text("\n".join([*rows, f"{names[0]}/cut.png,cone"]) + "\n")
    return FirstModelRequest(folder / "archive", labels=folder / "labels.csv")


def test_a_folder_with_labels_trains_a_first_model_without_its_test_drives(
    place: Workspace, tmp_path: Path
) -> None:
    names = [*drives(place, Split.TRAIN, 4), *drives(place, Split.TEST, 1)]
    first = train_first(place, archive(tmp_path, names))
    assert (first.rows, first.is_serving, set(first.trained_classes)) == (24, True, {"cone", "sign"})
    assert first.left_out == {"of test drives": 6, "unreadable picture": 1}


def test_a_table_alone_means_the_pictures_in_its_folder(place: Workspace, tmp_path: Path) -> None:
    request = archive(tmp_path, drives(place, Split.TRAIN, 2))
    table = request.source / "labels.csv"
    table.write_text((tmp_path / "labels.csv").read_text())
    assert train_first(place, FirstModelRequest(table)).rows == 12


def test_drives_that_are_all_of_the_test_split_are_named_with_the_way_out(
    place: Workspace, tmp_path: Path
) -> None:
    names = drives(place, Split.TEST, 2)
    with pytest.raises(MisconfiguredError, match=rf"all 2 drives .*{names[0]}.*sub-folder.*dataset drives"):
        train_first(place, archive(tmp_path, names))


def test_a_class_that_is_none_is_named_with_its_row_before_anything_is_trained(
    place: Workspace, tmp_path: Path
) -> None:
    request = archive(tmp_path, drives(place, Split.TRAIN, 2))
    table = tmp_path / "labels.csv"
    table.write_text(table.read_text().replace(",cone\n", ",tree\n"))
    first = train_first(place, request)
    assert first.untrained_classes == ("cone",) and "unknown class 'tree'" in first.left_out

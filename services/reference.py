"""Add labelled pictures of other origin, from a Parquet file, or from a folder and its labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from connectors.labels.label_set import Refusal
from connectors.labels.labelled_pictures import LabelledPicture, labelled_files, read_labelled_parquet
from connectors.labels.picture_sets import FolderPictures
from foundation.errors import MisconfiguredError
from pipelines.curate.params import load_params
from pipelines.dataset import reference
from pipelines.dataset.reference import Added
from services.own_labels import LabelForm, looking, read_labels
from workspace.layout import Workspace

LABEL_ENDINGS = (".csv", ".tsv", ".json", ".jsonl")


@dataclass(frozen=True, slots=True)
class AddedReference:
    """What was added, and the rows that were refused."""

    added: Added
    refused: tuple[Refusal, ...]


def add_reference(
    place: Workspace, source: Path, *, labels: Path | None = None, form: LabelForm = LabelForm.AUTO
) -> AddedReference:
    """Append the pictures that the lake does not have yet; the id of their drive decides their split.

    Raises:
        MisconfiguredError: the source or its labels cannot be read. RejectedError: a class is not in params.yaml, or
            a picture has two labels; nothing is appended then.
    """
    refused: list[Refusal] = []
    pictures = labelled_pictures(place, source, refused, labels=labels, form=form)
    added = reference.add_reference(place, source.name, pictures, load_params(place.params_path))
    return AddedReference(added, tuple(refused))


def labelled_pictures(
    place: Workspace,
    source: Path,
    refused: list[Refusal],
    *,
    labels: Path | None = None,
    form: LabelForm = LabelForm.AUTO,
) -> Iterator[LabelledPicture]:
    """Yield the pictures of a source with their label and drive; refused rows are added to `refused`.

    A picture's drive is its sub-folder, or else the name of the folder. A source that is a table or COCO's JSON stands
    for the pictures in its folder.

    Raises:
        MisconfiguredError: a folder without `labels`, a Parquet file with them, or an error of reading.
    """
    params = load_params(place.params_path)
    column = params.task.label_column
    if labels is None and source.is_file() and source.suffix.lower() in LABEL_ENDINGS:
        source, labels = source.resolve().parent, source
    if not source.is_dir():
        if labels is not None:
            raise MisconfiguredError(f"{source} is a file that holds its labels; --labels is for a folder")
        return read_labelled_parquet(source, refused, column)
    if labels is None:
        raise MisconfiguredError(
            f"{source} is a folder of pictures: name the file of their labels with --labels"
        )
    with looking() as look:
        pictures = FolderPictures(source, look)
        found, _ = read_labels(labels, pictures, params.classes, form)
        values = found.values(column)
    refused += found.refused
    return labelled_files(pictures, values, source.resolve().name)

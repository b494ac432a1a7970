"""`fleetloop model`: import a model exported elsewhere with its contract, and show the contract of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleetloop.options import HERE, AsJson, Place, record, words
from fleetloop.terminal import print_json, say
from foundation.errors import MisconfiguredError

if TYPE_CHECKING:
    from modelkit.contract import ModelContract

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Import a model of your own; show its contract."
)
ListOption = Annotated[list[str] | None, typer.Option("--output", help="ROLE=NAME of an output; repeat it.")]


@app.callback()
def model() -> None:
    """Import a model of your own; show its contract."""


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="The ONNX file; weights beside it are packed in.")],
    classes: Annotated[
        Path | None,
        typer.Option(
            help="File with the class names in the model's order, one per line; none for an embedding."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Name in the registry; the file's name by default.")] = "",
    task: Annotated[
        str, typer.Option(help="classification, detection, segmentation, embedding or regression.")
    ] = "classification",
    head: Annotated[
        str,
        typer.Option(
            help="How outputs are read. classification: softmax, probabilities, sigmoid, sigmoid-inside. detection: "
            "yolo-anchor-free, yolo-anchor-free-rows, yolov5, yolox-decoded, yolox-grid, rows, parts, selected, detr-softmax, "
            "ssd-priors, yunet, centerface, centre-heatmap. segmentation: mask-logits, mask-probabilities, mask-logits-nhwc, "
            "mask-classes, mask-layers. embedding: normalised. regression: values, values-each."
        ),
    ] = "",
    pictures: Annotated[
        Path | None, typer.Option(help="A picture or a folder, to show the model's answers.")
    ] = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT, where the file leaves it free.")] = "",
    layout: Annotated[str, typer.Option(help="nchw or nhwc, where the file does not say.")] = "",
    colors: Annotated[str, typer.Option("--colors", help="Order of the channels: rgb or bgr.")] = "",
    values: Annotated[str, typer.Option(help="Range of the input: 0-1, 0-255, -1-1 or imagenet.")] = "",
    mean: Annotated[
        str, typer.Option(help="Three numbers in units of 0 to 1, per channel of the input.")
    ] = "",
    std: Annotated[str, typer.Option(help="Three numbers, as --mean.")] = "",
    fit: Annotated[
        str, typer.Option(help="stretch, letterbox-centre, letterbox-topleft or crop-centre.")
    ] = "",
    pad: Annotated[int, typer.Option(min=0, max=255, help="Grey of a letterbox.")] = 114,
    crop_from: Annotated[int, typer.Option(min=0, help="Short side before crop-centre, in pixels.")] = 0,
    resample: Annotated[str, typer.Option(help="averaged, or two-point as OpenCV's INTER_LINEAR.")] = "",
    input_name: Annotated[str, typer.Option("--input", help="The input of the picture, of several.")] = "",
    output: ListOption = None,
    size_input: Annotated[
        str,
        typer.Option(help="NAME=width-height or NAME=height-width: an input that takes the picture's size."),
    ] = "",
    scale_input: Annotated[
        str,
        typer.Option(
            help="NAME=height-width or NAME=width-height: an input that takes how much a picture was enlarged."
        ),
    ] = "",
    constant: Annotated[
        list[str] | None,
        typer.Option(
            "--constant", help="NAME=NUMBERS (with commas) of an input that always gets them; repeat it."
        ),
    ] = None,
    boxes: Annotated[
        str, typer.Option(help="xyxy, cxcywh, xywh or yxyx, then -px, -norm or -original.")
    ] = "",
    first_class: Annotated[int, typer.Option(min=0, help="Number of the first class.")] = 0,
    min_score: Annotated[
        float, typer.Option(min=0.0, max=0.999, help="Boxes at or below it do not count.")
    ] = 0.25,
    suppression: Annotated[str, typer.Option(help="Of overlapping boxes: none, per-class or agnostic.")] = "",
    max_overlap: Annotated[float, typer.Option(min=0.0, max=1.0, help="Intersection over union.")] = 0.5,
    max_boxes: Annotated[int, typer.Option(min=1, max=10_000)] = 300,
    strides: Annotated[str, typer.Option(help="Of heads with a grid, with commas.")] = "",
    columns: Annotated[
        str, typer.Option(help="Of the head rows, with commas: b0,b1,b2,b3,score,class.")
    ] = "",
    priors: Annotated[
        str,
        typer.Option(
            help="Of the head ssd-priors: per stride the sizes of one cell, as 10,16,24/32x48,64 (one number: a square)."
        ),
    ] = "",
    variances: Annotated[str, typer.Option(help="Of the head ssd-priors: x, y, width, height.")] = "",
    activation: Annotated[
        str, typer.Option(help="Of ssd-priors and centre-heatmap, if not in the file: sigmoid or softmax.")
    ] = "",
    any_size: Annotated[
        bool,
        typer.Option("--any-size", help="The sizes in the file are only the export's: give it --size."),
    ] = False,
    max_mebibytes: Annotated[int, typer.Option(min=1, max=2047, help="Largest file.")] = 64,
    target: Annotated[str, typer.Option(help="Processor that it is meant for.")] = "cpu",
    allow_chance: Annotated[
        bool, typer.Option("--allow-chance", help="Accept a model whose answers vary from run to run.")
    ] = False,
    place: Place = HERE,
    as_json: AsJson = False,
) -> None:
    """Verify and run a foreign model, show its answers, and register it with its contract.

    Options that are not given follow from the file or a default, and are reported; check the answers before you trust it.
    """
    from modelkit.contract import to_document
    from services.foreign_contract import MEBIBYTE, ImportRequest
    from services.model_import import import_model

    size_name, _, size_order = size_input.partition("=")
    scale_name, _, scale_order = scale_input.partition("=")
    request = ImportRequest(
        file=file,
        classes=_classes(classes) if classes is not None else (),
        name=name or file.stem.lower(),
        task=task,
        head=head,
        size=_size(size),
        layout=layout,
        color=colors,
        values=values,
        mean=_numbers(mean, "--mean"),
        std=_numbers(std, "--std"),
        fit=fit,
        pad=pad,
        crop_from=crop_from,
        resample=resample,
        input=input_name,
        outputs=_roles(output or []),
        size_input=size_name,
        size_order=size_order or "height-width",
        scale_input=scale_name,
        scale_order=scale_order or "height-width",
        constants={
            name: _numbers(text, f"--constant {name}", 0)
            for name, text in _pairs(constant or [], "--constant")
        },
        boxes=boxes,
        first_class=first_class,
        min_score=min_score,
        suppression=suppression,
        max_overlap=max_overlap,
        max_boxes=max_boxes,
        strides=tuple(int(each) for each in _numbers(strides, "--strides", 0)),
        columns=tuple(words(columns)),
        priors=_priors(priors),
        variances=_numbers(variances, "--variances", 4),
        activation=activation,
        any_size=any_size,
        max_bytes=max_mebibytes * MEBIBYTE,
        target=target,
        allows_chance=allow_chance,
    )
    found = import_model(place, request, pictures)
    record(place, f"Import {found.name}")
    if as_json:
        document = {
            "name": found.name,
            "digest": found.digest,
            "model_path": str(found.path),
            "contract": to_document(found.contract),
            "taken": list(found.taken),
            "warnings": list(found.warnings),
            "seen": dict(found.seen),
        }
        print_json(document)
        return
    for line in found.taken:
        say(f"taken: {line}")
    for line in found.warnings:
        say(f"warning: {line}")
    for picture, told in found.seen:
        say(f"{picture}: {told}")
    say(
        f"registered {found.name} ({found.digest[:12]}) as {found.path}; enrol a vehicle with --model {found.path}"
    )


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="A model file, or a name in the registry.")],
    place: Place = HERE,
    as_json: AsJson = False,
) -> None:
    """Verify a model and show its contract."""
    from modelkit.contract import to_document
    from services.model_import import read_model

    found = read_model(place, model)
    if as_json:
        print_json({"digest": found.digest, "contract": to_document(found.contract)})
        return
    for line in lines(found.contract):
        say(line)
    say(f"{len(found.data):,} bytes, sha256 {found.digest}")


def lines(contract: ModelContract) -> list[str]:
    """Return a contract in a few readable lines."""
    from modelkit.tasks import TASKS

    spec, how, head = contract.input, contract.preprocessing, contract.head
    batch = f"{spec.batch} per run" if spec.batch else "any number per run"
    told = [
        f"{contract.name}: {contract.task}, head {head.kind}, made for {contract.target} by {contract.created_by or 'unknown'}",
        f"classes: {', '.join(contract.classes) or 'none'}",
        f"input {spec.name}: {spec.width} x {spec.height} pixels, {how.color}, {spec.dtype}, {spec.layout}, {batch}",
        *(
            f"input {each.name}: {'the scale of each picture, ' + each.order if each.kind == 'scale' else _listed(each.values)}"
            for each in contract.extra_inputs
        ),
        f"pictures: {how.fit}, {how.resample}; value = (pixel * {how.scale:g} - {_listed(how.mean)}) / {_listed(how.std)}",
        f"outputs: {', '.join(f'{role} = {name}' for role, name in contract.outputs.items())}",
    ]
    told += TASKS[contract.task].facts(contract)
    if contract.untrained_classes:
        told.append(f"not trained on: {', '.join(contract.untrained_classes)}")
    return told


def _listed(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)


def _classes(file: Path) -> tuple[str, ...]:
    from connectors.labels.label_tables import read_text

    names = [line.strip() for line in read_text(file).rstrip().splitlines()]
    if not all(names):
        raise MisconfiguredError(f"{file} has an empty line among its {len(names)} class names")
    return tuple(names)


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise MisconfiguredError(f"--size is {text[:40]!r}; it must be WIDTHxHEIGHT, such as 640x384")
    return int(parts[0]), int(parts[1])


def _numbers(text: str, option: str, count: int = 3) -> tuple[float, ...]:
    try:
        found = tuple(float(word) for word in words(text))
    except ValueError as error:
        raise MisconfiguredError(f"{option} is {text[:60]!r}; it must be numbers with commas") from error
    if found and count and len(found) != count:
        what = "channels" if count == 3 else "of them"
        raise MisconfiguredError(f"{option} has {len(found)} numbers; there are {count} {what}")
    return found


def _priors(text: str) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Return sizes (width, height) per stride from text such as 10,16/32x24."""
    try:
        return tuple(
            tuple((float(one.partition("x")[0]), float(one.partition("x")[2] or one)) for one in words(part))
            for part in (text.split("/") if text else ())
        )
    except ValueError as error:
        raise MisconfiguredError(
            f"--priors is {text[:60]!r}; it must be sizes such as 10,16/32x24, a slash between strides"
        ) from error


def _pairs(texts: list[str], option: str) -> list[tuple[str, str]]:
    found = [(text.partition("=")[0], text.partition("=")[2]) for text in texts]
    if not all(name and value for name, value in found):
        raise MisconfiguredError(
            f"{option} is {', '.join(texts)!r}; it must be NAME=VALUE, such as boxes=dets"
        )
    return found


def _roles(pairs: list[str]) -> dict[str, str]:
    return dict(_pairs(pairs, "--output"))

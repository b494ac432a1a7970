"""Import a model exported elsewhere: add its contract, after running it on pictures and showing its answers.

Nothing is registered before the model was verified, ran, and gave the same answer to the same picture twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from connectors.labels.picture_sets import FolderPictures
from foundation.errors import MisconfiguredError, RejectedError
from foundation.files import write_atomic
from modelkit.contract import ModelContract
from modelkit.embed import embed_contract, read_contract
from modelkit.foreign import ForeignModel, nodes_of, random_nodes, read_foreign, resized, scale_faults
from modelkit.images import Pixels, decode_image
from modelkit.prepare import feeds, place_all
from modelkit.runtimes import open_predictor
from modelkit.tasks import TASKS
from modelkit.verify import ModelLimits, VerifiedModel, verify_model
from schemas.reasons import RefuseReason
from services.foreign_contract import DEFAULT_MAX_BYTES, ImportRequest, contract_for, picture_port
from services.own_labels import looking
from workspace.layout import Workspace

MAX_PICTURES: Final = 20
_SAME: Final = 1e-4


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """The artefact and the results of its first run. `taken` are the defaults used, `seen` the answer per picture."""

    name: str
    digest: str
    path: Path
    contract: ModelContract
    taken: tuple[str, ...]
    warnings: tuple[str, ...]
    seen: tuple[tuple[str, str], ...]


def import_model(place: Workspace, request: ImportRequest, pictures: Path | None = None) -> ImportedModel:
    """Verify, run and register a foreign model as registry/models/<name>/model.onnx.

    Args:
        pictures: a picture, or a folder of them (the first 20 are used); synthetic pictures without it.

    Raises:
        MisconfiguredError: a file is missing, or an option is needed because the file does not say.
        RejectedError: the model can never be served as it is; the message names the cause and the remedy.
    """
    foreign = read_foreign(request.file, request.max_bytes)
    if request.any_size:
        if request.size is None:
            raise MisconfiguredError(
                "--any-size needs the size that the graph is to have: --size WIDTHxHEIGHT"
            )
        foreign = resized(foreign, picture_port(foreign, request).name, request.layout, request.size)
    _refuse_operators(foreign)
    _refuse_target(request)
    taken: list[str] = [f"the weights in {name} were packed into the model" for name in foreign.packed]
    faults, warnings = scale_faults(foreign.proto)
    if faults:
        raise RejectedError(f"{request.file}: {'; '.join(faults[:5])}", reason=RefuseReason.BAD_TENSOR)
    warnings += _half_precision(foreign)
    contract = contract_for(foreign, request, taken)
    images = _pictures(pictures)
    model = _verified(foreign, contract, request)
    trial = _Trial(foreign, model, images)
    if trial.is_mixed():
        warnings.append("two pictures together give other answers than each alone: batch 1 is used")
        contract = dataclasses.replace(contract, input=dataclasses.replace(contract.input, batch=1))
        model = _verified(foreign, contract, request)
        trial = _Trial(foreign, model, images)
    warnings += trial.repeatability(request.allows_chance)
    seen = trial.seen(warnings)
    path = _register(place, request.name, model)
    return ImportedModel(
        request.name, model.digest, path, contract, tuple(taken), tuple(dict.fromkeys(warnings)), tuple(seen)
    )


def read_model(place: Workspace, name_or_file: str, max_bytes: int = DEFAULT_MAX_BYTES) -> VerifiedModel:
    """Read the model of a file, or of a name in the registry. Raises MisconfiguredError, RejectedError."""
    file = Path(name_or_file)
    path = file if file.is_file() else place.models_path / name_or_file / "model.onnx"
    if not path.is_file():
        raise MisconfiguredError(
            f"there is neither a file {name_or_file!r} nor a model of that name in {place.models_path}"
        )
    data = path.read_bytes()
    read_contract(data)
    return verify_model(data, None, ModelLimits(max_bytes=max_bytes))


def _refuse_operators(foreign: ForeignModel) -> None:
    allowed = {"", "ai.onnx", *ModelLimits().allowed_domains}
    for node in nodes_of(foreign.proto.graph):
        if node.domain not in allowed:
            raise RejectedError(
                f"the operator {node.domain}:{node.op_type} is a custom one, which no vehicle has; export the model with "
                "standard operators, or leave that part out of the file",
                reason=RefuseReason.FOREIGN_DOMAIN,
            )


def _refuse_target(request: ImportRequest) -> None:
    if request.target != "cpu" and request.file.stem.endswith("_ctx"):
        raise RejectedError(
            f"{request.file.name} is named as a compiled model for {request.target}, but no EPContext node is in it: it would "
            "run on the CPU",
            reason=RefuseReason.CPU_FALLBACK,
        )


def _half_precision(foreign: ForeignModel) -> list[str]:
    halves = any(port.dtype == "float16" for port in (*foreign.inputs, *foreign.outputs))
    halves |= any(tensor.data_type == 10 for tensor in foreign.proto.graph.initializer)
    sums = sorted(
        {
            node.op_type
            for node in nodes_of(foreign.proto.graph)
            if node.op_type in ("ReduceSum", "ReduceMean")
        }
    )
    if not halves or not sums:
        return []
    return [
        f"{' and '.join(sums)} in float16: a sum may pass 65504 on a device that really computes in float16; this CPU does "
        "not show it"
    ]


def _verified(foreign: ForeignModel, contract: ModelContract, request: ImportRequest) -> VerifiedModel:
    data = embed_contract(foreign.proto.SerializeToString(deterministic=True), contract)
    return verify_model(data, None, ModelLimits(max_bytes=request.max_bytes))


class _Trial:
    """Runs the model on example pictures, one by one and as a batch."""

    def __init__(self, foreign: ForeignModel, model: VerifiedModel, images: Mapping[str, Pixels]) -> None:
        self._foreign = foreign
        self._contract = model.contract
        self._predictor = open_predictor(model)
        self._images = images

    def _raw(self, images: Sequence[Pixels]) -> Mapping[str, Any]:
        return self._predictor.loaded.run(feeds(images, place_all(images, self._contract), self._contract))

    def is_mixed(self) -> bool:
        """Return whether two pictures in a batch get other answers than one by one."""
        images = list(_made_pictures().values())[1:]
        if self._contract.input.batch:
            return False
        try:
            together = self._raw(images)
        except RejectedError:
            return True
        for number, image in enumerate(images):
            alone = self._raw([image])
            for role, values in alone.items():
                if values.shape[:1] != (1,):
                    continue
                both = together[role]
                if both.shape[:1] != (2,) or not _alike(both[number], values[0]):
                    return True
        return False

    def repeatability(self, allows_chance: bool) -> list[str]:
        """Return warnings of answers that differ from run to run. Raises RejectedError above a difference of 1e-4."""
        chance = random_nodes(self._foreign.proto)
        worst = 0.0
        for image in self._images.values():
            one, two = self._raw([image]), self._raw([image])
            for role, values in one.items():
                if values.shape != two[role].shape:
                    worst = np.inf
                elif values.size:
                    with np.errstate(invalid="ignore"):
                        gap = np.abs(values.astype(np.float64) - two[role].astype(np.float64))
                    worst = max(worst, float(np.nan_to_num(gap, nan=0.0).max()))
        named = ", ".join(chance) or "no node that draws by chance was found"
        told = f"two runs on one picture differ by up to {worst:g} ({named})"
        if worst > _SAME and not allows_chance:
            raise RejectedError(
                f"{told}; export it for inference, or allow it with --allow-chance",
                reason=RefuseReason.RUN_FAILED,
            )
        return [told] if worst > 0 or chance else []

    def seen(self, warnings: list[str]) -> list[tuple[str, str]]:
        """Return the answer for each picture; likely mistakes in the contract are added to `warnings`."""
        task, contract = TASKS[self._contract.task], self._contract
        last = self._foreign.last_operators()
        producers = {role: last.get(name, "") for role, name in contract.outputs.items()}
        found = []
        for name, image in self._images.items():
            placed = place_all([image], contract)
            (prediction,) = self._predictor.predict([image])
            warnings += task.warnings(self._raw([image]), contract, placed, producers)
            if prediction.is_finite:
                found.append((name, task.describe(prediction.output)))
            else:
                found.append((name, "no answer: what comes out is not finite"))
                warnings.append(f"no answer for {name}: what comes out is not finite")
        return found


def _alike(one: Any, other: Any) -> bool:
    return one.shape == other.shape and bool(
        np.allclose(one.astype(np.float64), other.astype(np.float64), rtol=1e-3, atol=1e-4, equal_nan=True)
    )


def _pictures(path: Path | None) -> dict[str, Pixels]:
    if path is None:
        return _made_pictures()
    if path.is_file():
        return {path.name: decode_image(path.read_bytes())}
    with looking() as look:
        folder = FolderPictures(path, look)
        readable = [name for name in folder.names[:MAX_PICTURES] if folder.shape(name) is not None]
    if not readable:
        raise MisconfiguredError(f"none of the first {MAX_PICTURES} pictures of {path} can be read")
    return {name: decode_image(folder.payload(name)) for name in readable}


def _made_pictures() -> dict[str, Pixels]:
    ramp = np.linspace(0, 255, 160, dtype=np.uint8)
    grey = np.repeat(np.tile(ramp, (120, 1))[:, :, None], 3, axis=2)
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    return {"a grey ramp": grey, "noise": noise, "black": np.zeros((120, 160, 3), np.uint8)}


def _register(place: Workspace, name: str, model: VerifiedModel) -> Path:
    path = place.models_path / name / "model.onnx"
    if path.exists() and path.read_bytes() != model.data:
        raise RejectedError(
            f"another model is registered as {name!r}; choose another --name", reason="name_taken"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, model.data)
    return path

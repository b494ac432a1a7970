"""Choose devices for a model and check what it is fed: what every runtime does the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from foundation.errors import MisconfiguredError, RejectedError
from modelkit.contract import ModelContract
from modelkit.placement import CPU_DEVICES, work_on_cpu
from modelkit.runtime import NodePlacement, RuntimeOptions
from modelkit.tasks.task import wrong_io
from modelkit.verify import shape_of
from schemas.reasons import RefuseReason

Port = tuple[str, str, tuple[int, ...]]
"""Name, element type as in numpy, and shape with -1 where a size is free."""


def choose_devices(
    contract: ModelContract, options: RuntimeOptions, available: Sequence[str], cpu: str
) -> tuple[list[str], bool]:
    """Return providers to ask for, best first, and whether one of higher preference is missing.

    `cpu` is the runtime's own name of the processor.
    """
    wanted = options.providers or contract.allowed_providers
    foreign = [name for name in wanted if name not in contract.allowed_providers]
    if foreign:
        raise MisconfiguredError(
            f"providers {foreign} are not in the contract's {contract.allowed_providers}"
        )
    chosen = [name for name in wanted if name in available]
    is_missing = not chosen or chosen[0] != wanted[0]
    is_cpu_allowed = contract.cpu_fallback == "allow" or options.off_vehicle
    if not chosen and not is_cpu_allowed:
        raise RejectedError(
            f"none of the providers {list(wanted)} is installed, only {list(available)}, and the contract refuses a "
            "fall-back to the CPU",
            reason=RefuseReason.CPU_FALLBACK,
        )
    if cpu not in chosen and is_cpu_allowed:
        chosen.append(cpu)
    return chosen, is_missing


def is_fallen_back(
    contract: ModelContract, provider: str, placement: Sequence[NodePlacement], *, is_missing: bool
) -> bool:
    """Return whether a part of the work runs on the CPU although another provider was requested first.

    `provider` is the first one that was asked for.
    """
    is_cpu_fine = contract.allowed_providers[0] in CPU_DEVICES or contract.cpu_fallback == "allow"
    if provider in CPU_DEVICES and is_cpu_fine and not is_missing:
        return False  # the CPU was asked for first
    return is_missing or bool(work_on_cpu(placement))


def check_ports(contract: ModelContract, inputs: Sequence[Port], outputs: Sequence[str]) -> None:
    """Compare what a runtime says of a model's inputs and outputs with its contract.

    Raises:
        RejectedError: reason `wrong_io`.
    """
    spec, size = contract.input, contract.size_input
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {spec.name: (spec.dtype, shape_of(spec))}
    if size is not None:
        wanted[size.name] = (size.dtype, (2,))
    constants = {each.name for each in contract.extra_inputs if each.kind == "constant"}
    for extra in contract.extra_inputs:
        wanted[extra.name] = (extra.dtype, extra.shape if extra.name in constants else (2,))
    if {name for name, _, _ in inputs} != set(wanted):
        raise wrong_io(f"inputs {sorted(name for name, _, _ in inputs)}, the contract says {sorted(wanted)}")
    for name, dtype, shape in inputs:
        said_dtype, said = wanted[name]
        if dtype != said_dtype:
            raise wrong_io(f"{name!r} has element type {dtype}, the contract says {said_dtype}")
        if name in constants:
            if len(shape) != len(said) or any(f not in (-1, one) for f, one in zip(shape, said, strict=True)):
                raise wrong_io(f"{name!r} has shape {shape}, the contract says {said}")
            continue
        if len(shape) != len(said) + 1 or shape[0] not in (-1, spec.batch):
            raise wrong_io(f"{name!r} has shape {shape}: its batch dimension is not {spec.batch or 'free'}")
        if any(found not in (-1, one) for found, one in zip(shape[1:], said, strict=True)):
            raise wrong_io(f"{name!r} has shape {shape[1:]} per row, the contract says {said}")
    missing = set(contract.outputs.values()) - set(outputs)
    if missing:
        raise wrong_io(f"outputs {sorted(outputs)}, the contract says {sorted(contract.outputs.values())}")


def check_batch(contract: ModelContract, inputs: Mapping[str, NDArray[Any]]) -> None:
    """Check what the model is to be run on. Raises RejectedError (wrong_io)."""
    spec = contract.input
    batch = inputs.get(spec.name)
    if batch is None or batch.dtype != spec.dtype or batch.ndim != 4 or batch.shape[0] < 1:
        found = "no batch" if batch is None else f"batch of {batch.dtype} {batch.shape}"
        raise wrong_io(f"{found}, not {spec.dtype} {spec.layout}")
    if batch.shape[1:] != shape_of(spec):
        raise wrong_io(f"batch of rows {batch.shape[1:]}, the contract says {shape_of(spec)}")

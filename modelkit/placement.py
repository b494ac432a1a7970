"""Summarise which nodes of a loaded model run where, and refuse a fall-back that the contract forbids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from foundation.errors import RejectedError
from modelkit.contract import ModelContract
from modelkit.runtime import LoadedModel, NodePlacement
from schemas.reasons import RefuseReason

CPU: Final = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class PlacementStatement:
    """For a status page. `wanted` is the order of preference; `nodes` counts the optimised graph's nodes by
    provider.
    """

    wanted: tuple[str, ...]
    nodes: Mapping[str, int]
    is_fallen_back: bool
    cpu_fallback: str
    """What the contract says of a fall-back: allow or refuse."""

    def __str__(self) -> str:
        counts = ", ".join(f"{provider} {count}" for provider, count in self.nodes.items())
        return f"nodes on {counts or 'nothing'}" + (" (fallen back)" if self.is_fallen_back else "")


def state_placement(loaded: LoadedModel, wanted: Sequence[str]) -> PlacementStatement:
    """Return the statement on a loaded model; `wanted` is what the one who runs it asked for, best first.

    A model whose contract allows only the CPU is fallen back, too, where another provider was wanted first.
    """
    nodes = dict(sorted(Counter(node.provider for node in loaded.placement()).items()))
    has_missed = bool(wanted) and wanted[0] != CPU and CPU in nodes
    return PlacementStatement(
        tuple(wanted), nodes, loaded.is_fallen_back or has_missed, loaded.contract.cpu_fallback
    )


def refuse_fallback(contract: ModelContract, placement: Sequence[NodePlacement]) -> RejectedError:
    """Return the refusal of a model that would run on the CPU against its contract."""
    on_cpu = [node.node or node.op for node in placement if node.provider == CPU]
    return RejectedError(
        f"{len(on_cpu)} of {len(placement)} nodes would run on the CPU (first: {on_cpu[:3]}), the contract "
        f"allows only {contract.allowed_providers}",
        reason=RefuseReason.CPU_FALLBACK,
    )

"""Say which nodes of a loaded model, and how much of its work, run where; refuse a fall-back that is not allowed.

Work is counted in multiply-accumulate operations (MACs). What cannot be told is counted as the CPU's, so that no
statement about an accelerator is too good.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from foundation.errors import MisconfiguredError, RejectedError
from modelkit.contract import ModelContract
from modelkit.runtime import LoadedModel, NodePlacement
from modelkit.work import NodeWork
from schemas.reasons import RefuseReason

CPU: Final = "CPUExecutionProvider"
OPENVINO_CPU: Final = "openvino-cpu"
LITERT_CPU: Final = "litert-cpu"
XNNPACK: Final = "executorch-xnnpack"
PORTABLE: Final = "executorch-portable"
CPU_DEVICES: Final = frozenset({CPU, OPENVINO_CPU, LITERT_CPU, XNNPACK, PORTABLE})
"""Names of the processor in the runtimes: an execution provider of ONNX Runtime, else RUNTIME-DEVICE."""
_CONVERSIONS: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
_CHANGED: Final = re.compile(r"(/MatMulAddFusion)?(_token_\d+)?$")
"""What ONNX Runtime adds to the name of a node that it fused or changed."""
MIN_CLAIMED_RATIO: Final = 0.95
"""Of a model's work, what a device must have run for a figure to be called that device's."""


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
    work: Mapping[str, float] = field(default_factory=dict)
    """Share of the model's MACs by provider; empty when it cannot be told."""

    @property
    def cpu_ratio(self) -> float:
        """Share of the work on the CPU; all of it where the shares cannot be told."""
        return 1.0 - sum(share for name, share in self.work.items() if name not in CPU_DEVICES)

    def __str__(self) -> str:
        counts = ", ".join(
            f"{provider} {count}"
            + (f" ({self.work[provider]:.1%} of the MACs)" if len(self.nodes) > 1 and self.work else "")
            for provider, count in self.nodes.items()
        )
        return f"nodes on {counts or 'nothing'}" + (" (fallen back)" if self.is_fallen_back else "")


def state_placement(loaded: LoadedModel, wanted: Sequence[str]) -> PlacementStatement:
    """Return the statement on a loaded model; `wanted` is what the one who runs it asked for, best first.

    A model whose contract allows only the CPU is fallen back, too, where another provider was wanted first.
    """
    nodes = dict(sorted(Counter(node.provider for node in loaded.placement()).items()))
    has_missed = bool(wanted) and wanted[0] not in CPU_DEVICES and bool(work_on_cpu(loaded.placement()))
    return PlacementStatement(
        tuple(wanted),
        nodes,
        loaded.is_fallen_back or has_missed,
        loaded.contract.cpu_fallback,
        {provider: share for provider, share in sorted(loaded.work().items()) if provider in nodes},
    )


def work_on_cpu(placement: Sequence[NodePlacement]) -> tuple[NodePlacement, ...]:
    """Return the nodes on the CPU, without those that only convert numbers at the edges of what an accelerator runs."""
    on_cpu = tuple(node for node in placement if node.provider in CPU_DEVICES)
    return on_cpu if len(on_cpu) == len(placement) else tuple(n for n in on_cpu if n.op not in _CONVERSIONS)


def share_of_work(placement: Sequence[NodePlacement], work: Sequence[NodeWork]) -> Mapping[str, float]:
    """Return the share of the MACs by provider, of nodes that the runtime placed; empty when it cannot be told.

    A node that the runtime fused has its old name before a slash, or is counted where all nodes of its operator are.
    Work that is found nowhere counts as the CPU's. A model without any work is counted by its nodes.
    """
    providers = {node.provider for node in placement}
    if len(providers) <= 1:
        return dict.fromkeys(providers, 1.0)
    if any(one.macs is None for one in work):
        return {}
    by_name = {name: node.provider for node in placement if (name := _CHANGED.sub("", node.node))}
    by_op: dict[str, set[str]] = {}
    for node in placement:
        by_op.setdefault(_plain(node.op), set()).add(node.provider)
    macs: Counter[str] = Counter(dict.fromkeys(providers | {CPU}, 0))
    for one in work:
        homes = {by_name[one.node]} if one.node in by_name else by_op.get(_plain(one.op), set())
        macs[homes.pop() if len(homes) == 1 else CPU] += one.macs or 0
    total = sum(macs.values())
    if not total:
        counts = Counter(node.provider for node in placement)
        return {provider: count / len(placement) for provider, count in counts.items()}
    return {provider: count / total for provider, count in macs.items() if provider in providers or count}


def require_claim(statement: PlacementStatement, device: str) -> None:
    """Check that a figure of this model may be called the device's: it ran at least 95 % of the work there.

    Raises:
        MisconfiguredError: it ran less, or that cannot be told.
    """
    share = statement.work.get(device, 0.0)
    if share < MIN_CLAIMED_RATIO:
        raise MisconfiguredError(
            f"{device} ran {share:.1%} of the work (MACs), a figure for it needs {MIN_CLAIMED_RATIO:.0%}: {statement}"
        )


def refuse_fallback(contract: ModelContract, placement: Sequence[NodePlacement]) -> RejectedError:
    """Return the refusal of a model that would run on the CPU against its contract."""
    on_cpu = [node.node or node.op for node in work_on_cpu(placement)]
    return RejectedError(
        f"{len(on_cpu)} of {len(placement)} nodes would run on the CPU (first: {on_cpu[:3]}), the contract "
        f"allows only {contract.allowed_providers}",
        reason=RefuseReason.CPU_FALLBACK,
    )


def _plain(op: str) -> str:
    """Return the operator before fusion and quantisation, as far as names tell."""
    return {"FusedConv": "Conv", "QLinearConv": "Conv", "Gemm": "MatMul", "FusedMatMul": "MatMul"}.get(op, op)

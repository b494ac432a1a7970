"""The interface of model runtimes. A backend loads verified bytes only, and reports where each node runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from modelkit.contract import ModelContract
from modelkit.tasks.task import Raw
from modelkit.verify import VerifiedModel

_NO_OPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """How to run a model.

    `providers` narrows the contract's allowed providers, in order of preference; empty means the contract's
    own. `allow_spinning` lowers latency on an idle machine but starves other processes: off on a vehicle.
    `off_vehicle` is for training and evaluation, where only the numbers matter: a fall-back to the CPU is never
    refused. Never set on a vehicle.
    """

    threads: int = 1
    allow_spinning: bool = False
    graph_optimisation: Literal["none", "basic", "extended", "all"] = "all"
    providers: tuple[str, ...] = ()
    off_vehicle: bool = False
    provider_options: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: _NO_OPTIONS)


@dataclass(frozen=True, slots=True)
class NodePlacement:
    """One node of the optimised graph and the execution provider that the runtime gave it to."""

    node: str
    op: str
    provider: str


class LoadedModel(Protocol):
    """A model that is ready to run in this process."""

    @property
    def contract(self) -> ModelContract:
        """The contract of the verified bytes."""

    @property
    def digest(self) -> str:
        """SHA-256 of the verified bytes."""

    @property
    def provider(self) -> str:
        """The first requested provider; `placement` has the providers in use."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Raw:
        """Run the graph on its inputs by name; returns its outputs by role.

        Raises:
            RejectedError: reason `run_failed` (the runtime refused) or `wrong_io` (inputs are not the
            contract's).
        """

    def placement(self) -> tuple[NodePlacement, ...]:
        """Return which node runs where, as reported by the runtime."""

    def work(self) -> Mapping[str, float]:
        """Return the share of the model's MACs by provider; empty when it cannot be told."""

    @property
    def is_fallen_back(self) -> bool:
        """Whether a node runs on the CPU although another provider was requested first."""


class Backend(Protocol):
    """Loads verified models; one per runtime library."""

    def load(self, model: VerifiedModel, options: RuntimeOptions) -> LoadedModel:
        """Load a model, ready to run.

        Raises:
            RejectedError: reason `load_failed` (the runtime refuses the graph) or `cpu_fallback` (a node
                would run on the CPU, or no allowed provider is installed, and the contract forbids it).
            MisconfiguredError: the runtime library is missing, or `options.providers` names what the contract
                does not.
        """

"""Export the trained network as one ONNX file with its contract, and without traces of this machine."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import Any

import torch

from modelkit.contract import ModelContract
from modelkit.embed import embed_contract
from modelkit.verify import verify_model
from training.network import Network


def export_onnx(network: Network, contract: ModelContract) -> bytes:
    """Return ONNX bytes with a free batch dimension, verified as a vehicle would verify them.

    Raises:
        RejectedError: the exported graph does not fit the contract.
    """
    network = network.eval()
    spec = contract.input
    example = torch.zeros(2, spec.channels, spec.height, spec.width)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=[spec.name],
                output_names=[contract.outputs[role] for role in network.roles],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65_536)},),
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    data = embed_contract(_without_traces(program.model_proto), contract)
    return verify_model(data, None).data


def _without_traces(model: Any) -> bytes:
    """Remove the stack traces with this machine's paths that the exporter writes beside every node."""
    graph = model.graph
    for part in (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.initializer,
        *graph.value_info,
    ):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    return bytes(model.SerializeToString(deterministic=True))

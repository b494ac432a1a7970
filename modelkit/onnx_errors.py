"""The errors of ONNX Runtime, which share no root of their own."""

from __future__ import annotations


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return every error that the runtime raises."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "EPFail EngineError Fail InvalidArgument InvalidGraph InvalidProtobuf ModelLoaded NoModel NoSuchFile "
        "NotImplemented RuntimeException"
    )
    return (*(getattr(state, name) for name in names.split()), RuntimeError, ValueError)

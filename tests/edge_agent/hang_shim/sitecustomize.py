"""Python starts with this when its folder is on the path: in perceive, one model stops answering for good.

`HANGING_MODEL` is a text that only this model's bytes hold; `HANGS_AT` is the answer that never comes, counted from 1.
"""

import os
import sys
import time

if "HANGING_MODEL" in os.environ and "edge_agent.perceive" in sys.orig_argv:
    import onnxruntime

    _init, _run = onnxruntime.InferenceSession.__init__, onnxruntime.InferenceSession.run
    _hanging = set()
    _answers = [0]

    def _begin(session, model, *arguments, **options):  # type: ignore[no-untyped-def]
        _init(session, model, *arguments, **options)
        if os.environ["HANGING_MODEL"].encode() in bytes(model):
            _hanging.add(id(session))

    def _answer(session, *arguments, **options):  # type: ignore[no-untyped-def]
        if id(session) in _hanging:
            _answers[0] += 1
            while _answers[0] >= int(os.environ["HANGS_AT"]):
                time.sleep(60.0)
        return _run(session, *arguments, **options)

    onnxruntime.InferenceSession.__init__ = _begin
    onnxruntime.InferenceSession.run = _answer

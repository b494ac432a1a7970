"""The model's contract and the one path from pixels to scores that vehicle and training share.

This layer refuses to open a model file, to load bytes that were not verified, to follow a model's
references to other files, to run a model outside its contract, and to import torch. What decides trust
(signatures) lives above.
"""

import os

# ONNX Runtime (1.31, Linux) otherwise writes a device id into the home folder and sends events to its maker, from every
# vehicle. It looks once, when it is loaded; whoever wants that sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

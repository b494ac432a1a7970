"""The contract of a model, and the one path from pixels to scores that vehicle and training share.

This layer refuses to open a model file, to load bytes that were not verified, to follow a model's
references to other files, to run a model outside its contract, and to import torch. Signatures are checked in the
layers above.
"""

import os

# ONNX Runtime (1.31, Linux) otherwise writes a device id into the home folder and sends events to its maker, from every
# vehicle. It reads the variable once, when it is loaded; set it to 0 to allow that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

"""Training: turns a dataset version into a model with evidence: fine-tune, export, quantise, evaluate, gate, package.

This layer refuses to start from a model that was trained on a test drive or does not record what it was trained on
(guarantee 5), to train or calibrate on test rows, to evaluate any artefact but the one that would be shipped, and to
read or write a pickle. It signs and releases nothing. Only the modules that need torch import it.
"""

import os
import tempfile

# torch's compiler creates an empty cache folder in the temporary folder and never removes it, so it is given an
# existing one.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.gettempdir())

"""From a dataset version to a proven model: fine-tune, export, quantise, evaluate, gate, package.

This layer refuses to start from a model that saw a test drive or does not say what it saw (guarantee 5), to
tune or calibrate on test rows, to judge any artefact but the one that would be shipped, and to read or
write a pickle. It signs and releases nothing. Only the modules that need torch import it.
"""

import os
import tempfile

# torch's compiler makes a cache folder in the temporary folder when torch is used, leaves it empty, and nobody removes
# it: so it is given one that is there.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.gettempdir())

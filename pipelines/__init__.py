"""The Beam jobs: what arrives becomes a lake, and a lake becomes datasets.

Elements of a pipeline are offset ranges, batches and file paths, never single rows. Nothing here starts a
runner that was not named, reads an endless source on a runner that would lose it, or changes what was
committed once.
"""

import logging

# Beam says at its import, on the root logger, that Google's clients are missing. They are, on purpose.
logging.getLogger().addFilter(lambda record: not str(record.msg).startswith("apitools not found"))

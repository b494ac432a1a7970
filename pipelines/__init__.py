"""The batch pipelines on Apache Beam: ingest from Kafka into the lake, and curation from the lake into datasets.

Elements of a pipeline are offset ranges, batches and file paths, never single rows. This layer never starts a runner
that was not named, never reads an unbounded source on a runner that would lose records, and never changes a commit.
"""

import logging

# At import Beam warns on the root logger that Google's clients are missing. They are left out on purpose.
logging.getLogger().addFilter(lambda record: not str(record.msg).startswith("apitools not found"))

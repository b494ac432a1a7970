"""The columns of what is decided about rows of the log before they are committed: which do not land, and why."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from connectors.lake.seen import SEEN

IDENTITY: Final = ["vehicle_id", "epoch", "seq"]
PLACE: Final = ["topic_id", "partition", "offset"]
INDEX: Final = SEEN.append(pa.field("payload_bytes", pa.int64())).append(pa.field("path", pa.string()))
"""One row per record that was decoded: its identity, hash, place and size, and the staged file that holds it."""
VERDICTS: Final = pa.schema(
    [
        pa.field("topic_id", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("path", pa.string()),
        pa.field("outcome", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("resend_of", pa.string()),
    ]
)
"""One row per record that does not land."""

"""Ingest: every offset of the log becomes exactly one row of the lake, whatever is resent, replayed or crashes.

One step a file, in this order; `pipeline.py` holds the graph and `run.py` the loop around it.

    plan    where the lake ends, and where the log ends: ranges of offsets between them
    read    a range becomes batches of records; what retention took becomes a counted loss
    decode  a batch becomes rows: verified and decoded, or rejected with reason, detail and bytes
    write   rows become one staged Parquet file that is synced but not yet part of the lake
    mark    of several rows with one identity the first lands; the others are resent, or in conflict
    seal    the marks are applied to the few files that have any
    rename  sealed files get their final names
    commit  one commit of all files and of the new ends, on the very version that was planned on

The layer refuses to move an end without the rows before it, to commit on a version that it did not plan on,
to drop a record that it cannot read, and to skip an offset without counting it.
"""

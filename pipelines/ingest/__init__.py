"""Ingest: each Kafka offset becomes exactly one row of the lake, whatever is resent, replayed or crashes.

One file per step, in this order; `pipeline.py` holds the graph and `run.py` the loop around it.

    plan            the offsets between the end of the lake and the end of the log, cut into ranges
    read            a range becomes batches of records; offsets that retention removed become a counted loss
    decode          a batch becomes rows: verified and decoded, or rejected with reason, detail and bytes
    write           rows become one staged Parquet file, synced but not yet part of the lake
    deduplicate     of several rows with one identity the first lands; the others are resends or conflicts
    apply_verdicts  the few files that hold resends or conflicts are written again with those verdicts
    rename          staged files get their final names
    commit          one commit of all files and of the new end offsets, on the version that was planned on

The layer never advances an end offset without the rows before it, never commits on a version that it did not plan
on, never drops a record that it cannot read, and never skips an offset without counting it.
"""

"""The spool: samples on disk that the vehicle accepted and has not delivered yet, in files with telling names.

    spool/
      ledger.journal        written by the writer (perceive process): epochs, commits, removals, refusals
      delivery.journal      written by the reader (deliver process): leases, acknowledgements, damage
      *.reserve             reserved bytes, so that both journals can be written on a full disk
      segments/2-high-000000000041.segment      records, in order, of one value class

Each file is written by one process only; the two share nothing else. The spool refuses to count a record as
accepted before its fsync returned, to retry a failed fsync, to lose an accepted record without a ledger entry, to
decode or change the bytes that go on the wire, and to write outside its folder.
"""

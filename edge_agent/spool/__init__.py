"""The spool: what the vehicle accepted and could not deliver yet, on disk, in a form that `ls` explains.

    spool/
      ledger.journal        written by the writer (perceive process): epochs, commits, removals, refusals
      delivery.journal      written by the reader (deliver process): leases, acknowledgements, damage
      *.reserve             bytes set aside so that both journals can be written on a full disk
      segments/2-high-000000000041.segment      records, in order, of one value class

Each file is written by one process only; the two meet nowhere else. The spool refuses to count a record as
accepted before its fsync returned, to try a failed fsync again, to lose an accepted record without a ledger
entry, to decode or change the bytes that go on the wire, and to write outside its folder.
"""

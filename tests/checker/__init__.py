"""A checker that believes nothing the product says of itself, and imports none of it.

It is told what was offered (by a load generator) and what was accepted (by receipts printed after each
commit of a spool). It reads the broker's log and the lake's files with the clients of others, and the
exported ledgers as the claim to be checked. Its verdict is a list of violations, each with examples; it
repairs and excuses nothing.

    python -m tests.checker --help
"""

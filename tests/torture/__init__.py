"""The fault campaign: tries hard to break what docs/guarantees.md claims, and counts how often it failed to.

    make torture [SECONDS=600] [SEED=7]     round the faults, time-boxed
    make torture-full [SEED=7]              every fault to its count; goes on where it was stopped
    make torture-broken                     every fault on its broken builds: each must be noticed

A fault is a module in `tests/torture/faults` with `FAULTS`; see `tests/torture/fault.py`. Verdicts are of checkers
that import nothing of the product. Nothing here is part of the product.
"""

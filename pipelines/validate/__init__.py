"""Validation: one table of rules, evaluated by polars and by Great Expectations; the two verdicts must agree.

The layer refuses to repair data: a failing row goes to quarantine unchanged, with the names of the rules it breaks.
"""

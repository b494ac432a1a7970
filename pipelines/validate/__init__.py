"""Validation: one table of rules, judged twice (polars, Great Expectations), and the two verdicts must agree.

The layer refuses to mend data: a failing row goes to quarantine with the names of its rules, whole.
"""

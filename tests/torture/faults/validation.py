"""The two judges of a dataset beside a third that knows neither: row counts, rule by rule, on mutated batches."""

from __future__ import annotations

import logging

from tests.torture.fault import Batch, BrokenBuild, Fault, Tally

RULES = "pipelines/curate/rules.py"
EXPECTATIONS = "pipelines/validate/expectations.py"


def run(batch: Batch) -> Tally:
    """Each try: one batch with up to ten faults; fast rules, Great Expectations and the checker must count the same."""

    from pipelines.curate.rules import failing_counts, prepare
    from pipelines.validate.expectations import judge_with_expectations
    from tests.checker.row_rules import failing_rows
    from tests.pipelines import mutated_batches as made

    logging.disable(logging.WARNING)
    tally = Tally()
    for number in batch.in_time():
        rows, near = made.mutated(batch.rng(number))
        known = failing_rows(rows, made.CLASSES, near, made.MAX_BITS)
        prepared = prepare(made.frame(rows), made.distances_frame(near))
        fast = failing_counts(prepared.lazy(), made.RULES)
        verdicts = judge_with_expectations(prepared, made.RULES, allowed_ratio=0.0, docs=None)
        second = {verdict.rule: verdict.failing_rows for verdict in verdicts}
        violations = [
            f"{rule}: {count} rows break it, the fast rules count {fast[rule]}, Great Expectations {second[rule]}"
            for rule, count in known.items()
            if not count == fast[rule] == second[rule]
        ]
        violations += [
            f"{verdict.rule}: success {verdict.success} with {known[verdict.rule]} failing rows"
            for verdict in verdicts
            if verdict.success != (known[verdict.rule] == 0)
        ]
        if len(known) != len(made.RULES):
            violations.append(f"the checker knows {len(known)} rules, the product {len(made.RULES)}")
        tally.judge(violations, f"batch {number}")
        tally.count("rows_judged", len(rows))
        tally.count("rule_verdicts_compared", len(known))
        tally.count("rule_verdicts_that_fail", sum(1 for count in known.values() if count))
    return tally


FAULTS = (
    Fault(
        name="validation-parity",
        group=8,
        guarantees=("G4", "G5"),
        what="A batch is mutated; the fast rules, Great Expectations and a checker that knows neither count the same rows.",
        one_try="one mutated batch",
        full=1000,
        turn=10,
        full_turn=50,
        run=run,
        real="all three judges are real; the rows are made from a seed",
        turn_limit_s=900.0,
        broken=(
            BrokenBuild(
                "a line feed after a hash passes",
                RULES,
                'r"^[0-9a-f]{64}\\Z"',
                'r"^[0-9a-f]{64}$"',
                tries=3,
                first=40,
            ),
            BrokenBuild(
                "an unknown clock breaks the order of time",
                RULES,
                'pl.col("vehicle_id").is_not_null() & (pl.col("time_quality") == "ok").fill_null(False)',
                'pl.col("vehicle_id").is_not_null()',
                tries=2,
                first=46,
            ),
            BrokenBuild(
                "a score that is no number passes as missing",
                EXPECTATIONS,
                'pl.col(name).fill_nan(float("inf")) for name in floats',
                "pl.col(name).fill_nan(None) for name in floats",
                tries=2,
                first=39,
            ),
        ),
    ),
)

"""Breaks each guarantee on purpose, in a copy of the tree, and says whether the test that is named for it fails.

    .venv/bin/python scripts/break_on_purpose.py [G1 G2 ...]

A change is one replacement in one file; its text must be there exactly once. The test must pass in the unbroken copy and
fail in the broken one. With no names given, writes docs/broken-on-purpose.md. Exit status 1 when a test did not notice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "broken-on-purpose.md"
GUARANTEES = ROOT / "docs" / "guarantees.md"
SECONDS_A_TEST = 300
SLIPS = ("NameError", "SyntaxError", "ImportError", "IndentationError", "UnboundLocalError")
PASSED, FAILED = 0, 1
"""Exit status of pytest; any other means that the test never came to a verdict."""


@dataclass(frozen=True, slots=True)
class Break:
    """One change, in words and in text, and the test that must notice it."""

    guarantee: str
    change: str
    path: str
    old: str
    new: str
    test: str


BREAKS = (
    Break(
        "G1",
        "a receipt is printed without waiting for the fsync of its segment",
        "edge_agent/spool/segment_file.py",
        "        syscalls.fsync(self._fd)\n",
        "",
        "tests/edge_agent/spool/test_spool_guarantees.py::test_a_receipt_is_printed_after_the_fsync_never_before",
    ),
    Break(
        "G1",
        "a failed fsync seals nothing: the segment is written on",
        "edge_agent/spool/writer.py",
        "                self._open.pop(value_class, None)\n                segment.abandon()\n",
        "                segment.end_bytes += len(data)\n                self._open[value_class] = segment\n",
        "tests/edge_agent/spool/test_spool_guarantees.py::test_a_failed_fsync_is_not_tried_again_on_the_same_file",
    ),
    Break(
        "G2",
        "the ledger does not say what was evicted with a segment",
        "edge_agent/spool/evict.py",
        "        self._log.record(LedgerKind.REMOVED, removal)\n",
        '        self._log.record(LedgerKind.REMOVED, removal | {"evicted": {}})\n',
        "tests/edge_agent/spool/test_spool_ledger.py::test_the_quota_takes_the_oldest_segment_of_the_lowest_class_and_says_so",
    ),
    Break(
        "G2",
        "what was sent and then evicted is called never sent",
        "edge_agent/spool/evict.py",
        "        removal = self._account.removal(segment, state, reason)\n",
        "        removal = self._account.removal(segment, DeliveryState(), reason)\n",
        "tests/edge_agent/spool/test_spool_ledger.py::test_what_was_sent_and_not_acknowledged_is_in_doubt_when_evicted",
    ),
    Break(
        "G2",
        "steps that only the ledger has are not taken along by the next segment",
        "edge_agent/spool/writer.py",
        "list(self._loose.steps), 0",
        "list[Step](), 0",
        "tests/edge_agent/test_place_in_the_spool.py::test_no_loss_of_power_at_any_system_call_repeats_or_loses_an_observation",
    ),
    Break(
        "G3",
        "a resend is not detected: it lands again",
        "pipelines/ingest/deduplicate.py",
        '    is_same = pl.col("value_sha256") == pl.col("value_sha256_won")\n',
        '    is_same = pl.col("value_sha256") == pl.col("value_sha256_won")\n    beaten = beaten.filter(~is_same)\n',
        "tests/pipelines/ingest/test_resend_deduplication.py::test_any_cut_into_runs_lands_the_same_identities_once",
    ),
    Break(
        "G3",
        "which of two equal records lands is decided by the order of arrival",
        "pipelines/ingest/deduplicate.py",
        "    first = rows.sort(PLACE).unique(",
        "    first = rows.unique(",
        "tests/pipelines/ingest/test_resend_deduplication.py::test_the_order_in_which_rows_are_looked_at_changes_no_verdict",
    ),
    Break(
        "G4",
        "the digest is over rows in the order in which they came",
        "pipelines/dataset/digest.py",
        '    ordered = table.sort_by([(name, "ascending") for name in key])\n',
        "    ordered = table\n",
        "tests/pipelines/dataset/test_rows_digest.py::test_order_chunks_and_large_types_change_nothing",
    ),
    Break(
        "G4",
        "the digest does not look into boxes",
        "pipelines/dataset/digest.py",
        "            _feed(digest, pc.struct_field(column, number))\n",
        "            _feed(digest, pc.struct_field(column, 0))\n",
        "tests/pipelines/dataset/test_rows_digest.py::test_every_number_of_a_box_counts_and_how_the_boxes_are_chunked_does_not",
    ),
    Break(
        "G5",
        "the rule on near-duplicates of a test frame is off",
        "pipelines/curate/rules.py",
        "            max_distance_bits + 1.0,\n",
        "            0.0,\n",
        "tests/pipelines/validate/test_rules.py::test_a_near_duplicate_of_test_in_training_fails_and_in_test_does_not",
    ),
    Break(
        "G5",
        "the split of a drive hangs on which other drives are there",
        "pipelines/curate/split.py",
        "    splits = [str(split_of(drive, params)) for drive in drives]\n",
        "    splits = [str(list(Split)[number % 3]) for number in range(len(drives))]\n",
        "tests/pipelines/curate/test_split.py::test_the_split_of_a_drive_depends_on_nothing_but_its_id",
    ),
    Break(
        "G6",
        "signatures on fetched metadata are not checked",
        "edge_agent/models/trust_folder.py",
        "_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)\n",
        "_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)\n"
        "from tuf.api.metadata import Root, Targets\n\n"
        "Root.verify_delegate = Targets.verify_delegate = lambda *_: None\n",
        "tests/edge_agent/models/test_tuf_wrong_keys.py::test_a_model_signed_by_a_wrong_key_is_refused",
    ),
    Break(
        "G6",
        "the wall clock alone says what time it is: no floor",
        "edge_agent/models/trust_folder.py",
        "        return max(clock.now_ns(), floor_ns)\n",
        "        return clock.now_ns()\n",
        "tests/edge_agent/models/test_tuf_time.py::test_freeze_is_noticed_with_the_clock_set_to_1970",
    ),
    Break(
        "G6",
        "`targets` delegates a role to any key whose id the root names, whatever the key",
        "edge_agent/models/trust.py",
        "        wanted.keys.get(key_id) != key for key_id, key in found.items()\n",
        "        key_id not in wanted.keys for key_id in found\n",
        "tests/edge_agent/models/test_tuf_wrong_keys.py::test_the_key_of_targets_alone_exchanges_no_key_behind_its_id",
    ),
    Break(
        "G6",
        "`targets` delegates a role to any key",
        "edge_agent/models/trust.py",
        "    if delegation.threshold < wanted.threshold or any(\n",
        "    if delegation.threshold < wanted.threshold and any(\n",
        "tests/edge_agent/models/test_tuf_wrong_keys.py::test_the_key_of_targets_alone_puts_no_other_key_in_the_place_of_a_role",
    ),
    Break(
        "G6",
        "a process is started again without knowing that the one before it hung",
        "edge_agent/daemon.py",
        "        if child.crashed_in is not None:\n            arguments",
        "        if child.crashed_in is None:\n            arguments += ()\n        elif False:\n            arguments",
        "tests/edge_agent/test_supervisor.py::test_a_hung_perceive_is_ended_and_started_again_and_told_what_it_was_doing",
    ),
    Break(
        "G6",
        "a hung process is left alone",
        "edge_agent/daemon.py",
        "        elif child.silent_s >= limit_s:\n",
        "        elif child.silent_s >= 10**9:\n",
        "tests/edge_agent/test_hung_model_processes.py::test_a_model_under_which_perceive_hangs_is_rolled_back_told_and_never_taken_again",
    ),
    Break(
        "G6",
        "a vehicle that reports and never swaps is waited for without a deadline",
        "rollout/health.py",
        "open_s > gate.settle_within_s",
        "open_s < 0",
        "tests/rollout/test_rollout_health.py::test_a_canary_that_reports_and_never_swaps_fails_its_wave_by_a_deadline",
    ),
    Break(
        "G6",
        "the observed share of failing vehicles is compared, without its confidence",
        "rollout/health.py",
        "_at_most(failing, vehicles, tolerated_ratio) <= _DOUBT",
        "failing <= tolerated_ratio * vehicles",
        "tests/rollout/test_rollout_health.py::test_a_small_rollout_halts_at_the_first_vehicle_that_fails",
    ),
    Break(
        "G6",
        "one failing vehicle halts a rollout of any size",
        "rollout/health.py",
        "    if not is_tolerable(failing, exposed, tolerated_ratio):\n",
        "    if failing:\n",
        "tests/rollout/test_rollout_health.py::test_one_vehicle_that_lies_halts_no_large_rollout_whenever_it_speaks",
    ),
    Break(
        "G6",
        "a large rollout halts only when its undecided vehicles cannot save it",
        "rollout/health.py",
        "    return failing >= _FEWEST_TO_HALT_EARLY and",
        "    return failing >= exposed and",
        "tests/rollout/test_rollout_health.py::test_a_release_that_fails_everywhere_halts_a_large_rollout_at_its_first_vehicles",
    ),
    Break(
        "G8",
        "a rejected record is kept without its bytes",
        "pipelines/ingest/decode.py",
        '        "raw_value": [r.value for r in records],\n',
        '        "raw_value": [None for _ in records],\n',
        "tests/pipelines/ingest/test_ingest_outcomes.py::test_poison_is_rejected_with_its_reason_and_bytes_and_stops_nothing",
    ),
    Break(
        "G9",
        "a document is read although it lists a key that must be understood",
        "foundation/documents.py",
        "            if is_free or not isinstance(name, str) or name not in known:\n",
        "            if is_free:\n",
        "tests/released/test_every_document.py::test_a_key_of_tomorrow_is_skipped_unless_it_must_be_understood",
    ),
    Break(
        "G9",
        "one event that cannot be read takes the whole history with it",
        "foundation/row_file.py",
        "                if self._is_strict:\n",
        "                if True:\n",
        "tests/released/test_every_document.py::test_one_row_that_cannot_be_read_spoils_no_other",
    ),
    Break(
        "G9",
        "a migration changes a workspace in which a document cannot be read",
        "services/migrate.py",
        "            if not is_dry_run and not broken:\n",
        "            if not is_dry_run:\n",
        "tests/services/test_migrate.py::test_nothing_is_changed_while_a_document_cannot_be_read",
    ),
    Break(
        "G9",
        "settings are not held to their bounds",
        "foundation/settings.py",
        "        if low is None and high is None:\n",
        "        if True:\n",
        "tests/foundation/test_settings_loading.py::test_a_wrong_value_is_named_with_key_value_bound_and_file",
    ),
    Break(
        "G9",
        "a record that cannot be read stops the reading of telemetry",
        "rollout/reports.py",
        "            self._not_believed[error.reason] += 1\n            return 0\n",
        "            raise\n",
        "tests/rollout/test_fleet_reports.py::test_a_garbled_record_is_counted_and_stops_nothing",
    ),
    Break(
        "G9",
        "an item that ends the confined process ends its whole batch",
        "modelkit/confined.py",
        '                results += alone or [Failed(f"the process that decoded it {how}, also alone")]\n',
        '                why = f"the process that decoded it {how}, also alone"\n'
        "                results += alone or [Failed(why)] * (len(batch) - len(results))\n",
        "tests/modelkit/test_confined.py::test_an_item_that_breaks_the_process_has_its_reason_and_its_neighbours_their_results",
    ),
    Break(
        "G9",
        "a confined process may open files and sockets and start programs",
        "modelkit/confined_worker.py",
        "    sys.addaudithook(_refuse)\n",
        "",
        "tests/modelkit/test_confined.py::test_the_process_reaches_no_network_writes_no_file_and_starts_no_program",
    ),
    Break(
        "G10",
        "a model is verified without looking at its digest",
        "modelkit/verify.py",
        "    if expected_digest is not None and digest != expected_digest:\n",
        "    if False:\n",
        "tests/modelkit/test_model_verify.py::test_a_wrong_hash_is_refused_before_anything_is_parsed",
    ),
    Break(
        "G10",
        "a tensor may keep its data in another file",
        "modelkit/tensor_checks.py",
        "    is_outside = tensor.data_location == _EXTERNAL or bool(tensor.external_data)\n",
        "    is_outside = False\n",
        "tests/modelkit/test_model_verify.py::test_data_outside_the_file_is_refused_wherever_it_hides",
    ),
    Break(
        "G10",
        "a tensor of a bundle may lie in any file",
        "modelkit/tensor_checks.py",
        "        _check_outside(tensor, claimed_bytes, external)\n",
        "",
        "tests/modelkit/test_model_bundle.py::"
        "test_a_tensor_that_lies_elsewhere_than_in_external_data_of_its_bundle_is_refused",
    ),
    Break(
        "G10",
        "only loops that are known by name are refused, not every node that carries a part of the graph",
        "modelkit/control_flow.py",
        '                if node.op_type != "If":\n',
        "                if node.op_type in REPEATING:\n",
        "tests/modelkit/test_model_control_flow.py::test_no_part_of_a_graph_is_run_again_and_again_wherever_it_hides",
    ),
    Break(
        "G10",
        "an operator takes the size of its output from the values of a picture",
        "modelkit/control_flow.py",
        '    "Resize": (2, 3),\n',
        "",
        "tests/modelkit/test_model_control_flow.py::test_no_size_is_taken_from_the_values_of_a_picture",
    ),
    Break(
        "G11",
        "a labelled frame takes one of another vehicle out that the lake had before it",
        "pipelines/curate/near_duplicates.py",
        '        pl.col("place_match") < pl.col("place"),\n',
        "",
        "tests/pipelines/curate/test_near_duplicates.py::test_what_a_vehicle_sends_later_removes_nothing_of_another_labelled_or_not",
    ),
    Break(
        "G11",
        "a frame that left keeps others out",
        "pipelines/curate/near_duplicates.py",
        "        if sha not in left and match not in left:\n",
        "        if sha not in left:\n",
        "tests/pipelines/curate/test_near_duplicates.py::test_what_left_keeps_no_frame_of_another_vehicle_out",
    ),
    Break(
        "G11",
        "a vehicle gets as many labels as its scores claim",
        "pipelines/curate/fair_shares.py",
        '            ordered = ordered.filter(place < pl.col("share").fill_null(0)).drop("share")\n',
        '            ordered = ordered.filter(place < 10**9).drop("share")\n',
        "tests/pipelines/curate/test_fair_shares.py::test_a_vehicle_that_claims_everything_gets_its_share_of_the_labels_in_every_arm",
    ),
    Break(
        "G11",
        "a drive is its name, whatever vehicle says it",
        "pipelines/curate/selection.py",
        '    drive = pl.concat_str(vehicle, pl.lit("\\0"), pl.col("drive_id").fill_null(""))\n',
        '    drive = pl.col("drive_id").fill_null("")\n',
        "tests/pipelines/curate/test_fair_shares.py::test_a_vehicle_that_names_anothers_drive_and_track_spends_none_of_its_labels",
    ),
    Break(
        "G11",
        "what vehicles claim is believed although our model scored the shortlist",
        "pipelines/curate/own_scores.py",
        "    return joined.with_columns(own).select(shortlist.columns), told\n",
        "    return joined.select(shortlist.columns), told\n",
        "tests/pipelines/curate/test_own_scores.py::test_claimed_scores_choose_no_frame_that_our_own_model_finds_worthless",
    ),
    Break(
        "G11",
        "only a decoder's documented errors are a verdict on a picture that is scored",
        "pipelines/curate/own_scores.py",
        "            except Exception:  # noqa: BLE001, S112 - a decoder may raise anything; the caller counts the None\n",
        "            except RejectedError:\n",
        "tests/pipelines/curate/test_own_scores.py::test_a_picture_whose_decoder_fails_in_any_way_costs_no_other_its_score",
    ),
    Break(
        "G11",
        "dense scenes are compared pair by pair",
        "pipelines/curate/dense_scenes.py",
        "    if free.height <= DENSE_FRAMES:\n",
        "    if free.height <= 10**9:\n",
        "tests/pipelines/curate/test_dense_scenes.py::test_the_pairs_of_a_parked_car_grow_with_its_frames_and_not_with_their_square",
    ),
    Break(
        "G11",
        "of a vehicle in quarantine only the failing rows stay out",
        "pipelines/curate/resolve.py",
        '    is_out = (pl.col("state") == KEPT) & pl.col("vehicle_id").is_in(untrusted)\n',
        '    is_out = pl.col("rules").list.len() > 0\n',
        "tests/pipelines/validate/test_hostile_vehicle.py::test_no_row_of_a_vehicle_in_quarantine_is_trained_on_and_each_is_counted_with_the_reason",
    ),
    Break(
        "G11",
        "a vehicle in quarantine keeps frames of others out",
        "pipelines/curate/resolve.py",
        'frames.with_columns((pl.col("is_labelled") & is_believed).alias("is_labelled")), pairs\n',
        "frames, pairs\n",
        "tests/pipelines/validate/test_hostile_vehicle.py::test_a_labelled_frame_of_a_vehicle_in_quarantine_keeps_no_later_frame_of_another_out",
    ),
    Break(
        "G11",
        "a flood lands whole",
        "pipelines/ingest/quota.py",
        "    over = landing.filter(is_over)\n",
        "    over = landing.filter(is_over).clear()\n",
        "tests/pipelines/ingest/test_quota.py::test_a_flood_lands_its_quota_and_each_other_offset_of_it_is_a_dead_letter_with_its_bytes",
    ),
    Break(
        "G11",
        "what is beyond a quota is decoded before it is rejected",
        "pipelines/ingest/decode.py",
        "            if quota is not None:\n",
        "            if quota is not None and not _decoded(record, identity, blobs):\n",
        "tests/pipelines/ingest/test_quota.py::test_a_vehicle_beyond_its_quota_has_nothing_decoded",
    ),
    Break(
        "G3",
        "a record waits for enough others, however long",
        "pipelines/ingest/backlog.py",
        "        return monotonic_ns - self._since_ns >= self._settings.fresh_s * 1e9\n",
        "        return False\n",
        "tests/pipelines/ingest/test_following.py::test_a_record_waits_until_there_are_enough_or_the_stated_time_is_over",
    ),
    Break(
        "G4",
        "compaction removes the files that it merged, which a dataset may name",
        "pipelines/ingest/compact.py",
        '        steps.reached("compact.commit")\n',
        '        steps.reached("compact.commit")\n        for path in paths:\n            (table.folder / path).unlink()\n',
        "tests/pipelines/ingest/test_compaction.py::test_a_version_that_a_dataset_names_is_whole_after_compaction_and_vacuum_and_the_rest_is_given_back",
    ),
    Break(
        "G9",
        "a process that hangs is left alone",
        "edge_agent/daemon.py",
        "        elif child.silent_s >= limit_s:\n",
        "        elif limit_s < 0:\n",
        "tests/edge_agent/test_supervisor.py::test_a_hung_perceive_is_ended_and_started_again_and_told_what_it_was_doing",
    ),
    Break(
        "G6",
        "which states of the release repository are recent is read from the times of files",
        "rollout/trim.py",
        '    while issued_ns(_read(files, "snapshot", version)) >= oldest_ns:\n',
        '    while files.metadata_path(f"{version}.snapshot").stat().st_mtime_ns >= oldest_ns:\n',
        "tests/edge_agent/models/test_tuf_trimmed.py::test_a_restored_backup_whose_files_have_other_times_is_trimmed_as_the_original",
    ),
    Break(
        "G9",
        "an error of a native library on a full disk passes as it is",
        "foundation/full_disk.py",
        "        if told := _told(error, folder):\n",
        "        if told := '':\n",
        "tests/foundation/test_full_disk_named.py::test_what_a_native_library_says_of_a_full_disk_names_the_folder_and_what_is_free",
    ),
    Break(
        "G10",
        "a Parquet file is unpacked whatever its footer says",
        "connectors/sensors/parquet_columns.py",
        "    if size > group.num_rows * row_bytes:\n",
        "    if size < 0:\n",
        "tests/connectors/test_parquet_kinds.py::test_small_files_that_unpack_to_hundreds_of_megabytes_are_refused_from_their_footer",
    ),
    Break(
        "G10",
        "a download waits for a name server as long as that likes",
        "edge_agent/models/deadline.py",
        "            for waiting in self._waiting:\n                waiting.set()\n",
        "",
        "tests/edge_agent/models/test_slow_servers.py::test_a_resolver_that_does_not_answer_ends_at_the_deadline_and_is_asked_once_meanwhile",
    ),
)


def main(wanted: list[str]) -> int:
    """Break what is wanted (all of it by default) and report. Returns the exit status."""
    chosen = [each for each in BREAKS if not wanted or each.guarantee in wanted]
    if not chosen:
        print(f"no such guarantee: {' '.join(wanted)}", file=sys.stderr)
        return 2
    promised = GUARANTEES.read_text()
    for each in chosen:
        if f"`{each.test}`" not in promised:
            print(f"{each.test} is not named in {GUARANTEES.name}", file=sys.stderr)
            return 2
    noticed = {}
    with tempfile.TemporaryDirectory(prefix="broken-on-purpose-") as folder:
        copy = copy_of_the_tree(Path(folder) / "tree")
        for each in chosen:
            noticed[each] = is_noticed(each, copy)
            print(
                f"{'noticed' if noticed[each] else 'NOT NOTICED'}  {each.guarantee}  {each.change}",
                flush=True,
            )
    if not wanted:
        PAGE.write_text(page(noticed))
        print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0 if all(noticed.values()) else 1


def copy_of_the_tree(to: Path) -> Path:
    """The tracked files as they are in the working tree, in a folder of their own."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)
    return to


def is_noticed(each: Break, copy: Path) -> bool:
    """Whether the test passes in the copy as it is, and fails once the copy is broken.

    Raises RuntimeError when the text to replace is not there exactly once, or a run of the test comes to no verdict.
    """
    file = copy / each.path
    whole = file.read_text()
    if whole.count(each.old) != 1:
        raise RuntimeError(f"{each.path} holds {whole.count(each.old)} times, not once: {each.old!r}")
    if run_test(each.test, copy) != PASSED:
        raise RuntimeError(f"{each.test} does not pass in the unbroken copy")
    try:
        file.write_text(whole.replace(each.old, each.new))
        return run_test(each.test, copy) == FAILED
    finally:
        file.write_text(whole)


def run_test(test: str, copy: Path) -> int:
    """PASSED or FAILED. Imports come from the copy, not from where the tree is installed."""
    command = [sys.executable, "-B", "-m", "pytest", test, "-q", "-x", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command,
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS_A_TEST,
        check=False,
    )
    if done.returncode not in (PASSED, FAILED) or " skipped" in done.stdout.splitlines()[-1]:
        raise RuntimeError(
            f"{test} came to no verdict (exit status {done.returncode}):\n{done.stdout[-3000:]}"
        )
    for slip in SLIPS:  # a change that is no Python proves nothing about the test
        if slip in done.stdout:
            raise RuntimeError(
                f"{test} ended with {slip}, so the change itself is wrong:\n{done.stdout[-3000:]}"
            )
    return done.returncode


def page(noticed: dict[Break, bool]) -> str:
    """The table, as Markdown."""
    today = datetime.now(UTC).date().isoformat()
    lines = [
        "# Broken on purpose",
        "",
        "A test that cannot fail holds nothing. `scripts/break_on_purpose.py` makes each change below in a copy of the tree, one at a time, and runs the",
        "test beside it: it passes before the change, and must fail after it. The script wrote this page; G7 is not built, so there is nothing to break.",
        "",
        "| guarantee | change | where | test | failed | date |",
        "|---|---|---|---|---|---|",
    ]
    for each, is_seen in noticed.items():
        file, _, name = each.test.partition("::")
        lines.append(
            f"| {each.guarantee} | {each.change} | `{each.path}` | `{file}::{name}` | {'yes' if is_seen else '**no**'} | {today} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Closed lists of reasons and outcomes, so that everything is counted and the counts add up."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class NotAcceptedReason(StrEnum):
    """Why an observation was not accepted into the spool."""

    NOT_SELECTED = "not_selected"
    OVER_BUDGET = "over_budget"
    TRACK_LIMIT = "track_limit"
    UNREADABLE_IMAGE = "unreadable_image"
    OVERSIZE = "oversize"
    QUOTA_FULL = "quota_full"
    DISK_ERROR = "disk_error"
    ENCODE_ERROR = "encode_error"
    MODEL_ERROR = "model_error"
    EMPTY_DRIVE = "empty_drive"
    CRASHED = "crashed"


class EvictReason(StrEnum):
    """Why an accepted sample left the spool without an acknowledgement.

    `age` is no longer written; journals and ledgers that contain it stay readable.
    """

    QUOTA = "quota"
    AGE = "age"
    DAMAGED = "damaged"
    POLICY = "policy"


class RejectReason(StrEnum):
    """Why ingest rejected a record, which became a dead letter."""

    MISSING_HEADER = "missing_header"
    MALFORMED_IDENTITY = "malformed_identity"
    UNKNOWN_VEHICLE = "unknown_vehicle"
    REVOKED_KEY = "revoked_key"
    BAD_SIGNATURE = "bad_signature"
    HASH_MISMATCH = "hash_mismatch"
    IDENTITY_MISMATCH = "identity_mismatch"
    NOT_SINGLE_OBJECT = "not_single_object"
    UNKNOWN_SCHEMA = "unknown_schema"
    TRUNCATED = "truncated"
    INVALID_VALUE = "invalid_value"
    PAYLOAD_HASH_MISMATCH = "payload_hash_mismatch"
    OVERSIZE = "oversize"
    CONFLICT = "conflict"
    UNREADABLE_BATCH = "unreadable_batch"
    OVER_QUOTA = "over_quota"
    """Its vehicle landed as much within a day as the workspace allows; a replay of this reason lands it."""
    FOREIGN_URI = "foreign_uri"
    """`payload_uri` is not the address at which the workspace's blob store would keep the payload."""


class RemovalReason(StrEnum):
    """Why a landed sample is not in a dataset version."""

    EXACT_DUPLICATE = "exact_duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    NEAR_DUPLICATE_OF_TEST = "near_duplicate_of_test"
    TOO_DARK = "too_dark"
    TOO_BRIGHT = "too_bright"
    BLURRED = "blurred"
    TOO_SMALL = "too_small"
    UNREADABLE = "unreadable"
    PAYLOAD_UNAVAILABLE = "payload_unavailable"
    """The blob store does not have the payload, or has other bytes."""
    NOT_LANDED = "not_landed"


class QuarantineReason(StrEnum):
    """Which rule a labelled row breaks, so that it is quarantined until a person reviews it.

    One member per rule of `pipelines.curate.rules`, and one for all rows of a vehicle that breaks a rule too often;
    quarantine, manifest, card and validation report use these values.
    """

    IDENTITY_PRESENT = "identity_present"
    IDENTITY_UNIQUE = "identity_unique"
    PAYLOAD_SHA256_PRESENT = "payload_sha256_present"
    HASH_WELL_FORMED = "hash_well_formed"
    CLASS_NAME_PRESENT = "class_name_present"
    CLASS_NAME_KNOWN = "class_name_known"
    BOXES_PRESENT = "boxes_present"
    BOXES_USABLE = "boxes_usable"
    SPLIT_KNOWN = "split_known"
    SCORE_ENTROPY_IN_RANGE = "score_entropy_in_range"
    SCORE_MARGIN_IN_RANGE = "score_margin_in_range"
    SCORE_LEAST_CONFIDENCE_IN_RANGE = "score_least_confidence_in_range"
    SCORE_NOVELTY_IN_RANGE = "score_novelty_in_range"
    SELECTION_PROBABILITY_IN_RANGE = "selection_probability_in_range"
    LUMA_IN_RANGE = "luma_in_range"
    TIME_RISES = "time_rises"
    DRIVE_SPLITS_IN_RANGE = "drive_splits_in_range"
    TEST_DISTANCE_BITS_IN_RANGE = "test_distance_bits_in_range"
    VEHICLE_IN_QUARANTINE = "vehicle_in_quarantine"
    """Not of the row: its vehicle breaks a rule on what it says of itself in too many of its rows."""


class LandOutcome(StrEnum):
    """The outcome of one Kafka offset in the lake."""

    LANDED = "landed"
    RESENT = "resent"
    REJECTED = "rejected"


class Split(StrEnum):
    """The split of a drive, which never changes."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class ValueClass(IntEnum):
    """The eviction priority of a sample: when the spool is full, the lowest class is evicted first."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3

    @property
    def label(self) -> str:
        """The lower-case name used on the wire, in file names and in tables."""
        return self.name.lower()

    @classmethod
    def from_label(cls, label: str) -> ValueClass:
        """Return the class with a lower-case name. Raises KeyError."""
        return _BY_LABEL[label]


_BY_LABEL = {member.name.lower(): member for member in ValueClass}


class Provenance(StrEnum):
    """Whether an observation was recorded live, replayed, altered or simulated."""

    RECORDED = "recorded"
    REPLAYED = "replayed"
    JITTERED = "jittered"
    SIMULATED = "simulated"


class TimeQuality(StrEnum):
    """How far the wall-clock times of a sample can be trusted."""

    OK = "ok"
    BEFORE_BUILD = "before_build"
    UNSYNCHRONISED = "unsynchronised"
    FAR_FUTURE = "far_future"


class Modality(StrEnum):
    """The kind of an observation. A record may name another kind, which readers preserve."""

    IMAGE = "image"
    VIDEO = "video"
    SIGNALS = "signals"
    POSE = "pose"
    EVENT = "event"


class WindowRole(StrEnum):
    """The position of an observation in a trigger window."""

    SINGLE = "single"
    PRE = "pre"
    TRIGGER = "trigger"
    POST = "post"


class ModelState(StrEnum):
    """The state of the model of a role.

    `serving` (in the role serving) and `shadow` (in any other role) have passed their probation. A role without a model is
    `refused` or `rolled_back`, whichever happened last.
    """

    SERVING = "serving"
    TRIAL = "trial"
    SHADOW = "shadow"
    ROLLED_BACK = "rolled_back"
    REFUSED = "refused"


class RefuseReason(StrEnum):
    """Why a vehicle refused a release permanently: its bytes, its placement on hardware, or its trial.

    The reason of an event begins with this value, followed by a colon and the details.
    """

    TOO_LARGE = "too_large"
    WRONG_HASH = "wrong_hash"
    BAD_BUNDLE = "bad_bundle"
    """Its list of files, or what lies there: a name, a link, a length, no graph."""
    NOT_ONNX = "not_onnx"
    NO_CONTRACT = "no_contract"
    BAD_CONTRACT = "bad_contract"
    BAD_ARTEFACT = "bad_artefact"
    """A graph of another kind than ONNX that is not of its form."""
    WRONG_TARGET = "wrong_target"
    """Compiled for another processor, or in a form that this processor computes wrong."""
    NO_RUNTIME = "no_runtime"
    """The runtime that the model asks for is not installed, or in a version that this agent does not know."""
    FOREIGN_DOMAIN = "foreign_domain"
    EXTERNAL_DATA = "external_data"
    BAD_TENSOR = "bad_tensor"
    TOO_COMPLEX = "too_complex"
    BAD_OPSET = "bad_opset"
    WRONG_IO = "wrong_io"
    WRONG_CLASSES = "wrong_classes"
    LOAD_FAILED = "load_failed"
    RUN_FAILED = "run_failed"
    CPU_FALLBACK = "cpu_fallback"
    NO_ALLOWED_PROVIDER = "no_allowed_provider"
    NOT_FINITE = "not_finite"
    TOO_SLOW = "too_slow"
    LEAKS_MEMORY = "leaks_memory"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    TRIAL_NEVER_ENDED = "trial_never_ended"
    MODEL_ERROR = "model_error"
    """Any other failure of its verification or its trial."""


class RollbackReason(StrEnum):
    """Why a serving model was rolled back to the previous one. The reason of an event begins with this value.

    Each blocks the release on this vehicle permanently, but for `plan_halted` (the rollout was halted) and `cannot_load` where
    the machine was the cause (no memory, no runtime, a slot that is missing, damaged or cannot be read).
    """

    NOT_FINITE = "not_finite"
    ERROR_RATIO = "error_ratio"
    TOO_SLOW = "too_slow"
    CRASHED_ON_PROBATION = "crashed_on_probation"
    CANNOT_LOAD = "cannot_load"
    PLAN_HALTED = "plan_halted"


class RolloutOutcome(StrEnum):
    """The outcome of a release on one vehicle, as far as the health gate of its wave knows."""

    WAITING = "waiting"
    ACTIVATED = "activated"
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"
    UNHEALTHY = "unhealthy"
    SILENT = "silent"
    LATE = "late"

"""Every reason is a word from a closed list, so that counts add up and nothing is lost "somehow"."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class NotAcceptedReason(StrEnum):
    """Why a frame that was seen never entered the spool."""

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


class EvictReason(StrEnum):
    """Why an accepted sample left the spool without an acknowledgement.

    `age` is written by nothing today; journals and ledgers that carry it stay readable.
    """

    QUOTA = "quota"
    AGE = "age"
    DAMAGED = "damaged"
    POLICY = "policy"


class RejectReason(StrEnum):
    """Why an arrived record became a dead letter."""

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
    FOREIGN_URI = "foreign_uri"
    """The payload is said to be where the workspace's blob store would not keep it."""


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
    """The blob store does not have the payload, or not these bytes."""
    NOT_LANDED = "not_landed"


class QuarantineReason(StrEnum):
    """Which rule a labelled row breaks, so that it is kept apart until a person looks at it.

    One member a rule of `pipelines.curate.rules`: quarantine, manifest, card and validation report use these words.
    """

    IDENTITY_PRESENT = "identity_present"
    IDENTITY_UNIQUE = "identity_unique"
    PAYLOAD_SHA256_PRESENT = "payload_sha256_present"
    HASH_WELL_FORMED = "hash_well_formed"
    CLASS_NAME_PRESENT = "class_name_present"
    CLASS_NAME_KNOWN = "class_name_known"
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


class LandOutcome(StrEnum):
    """What one Kafka offset became in the lake."""

    LANDED = "landed"
    RESENT = "resent"
    REJECTED = "rejected"


class Split(StrEnum):
    """Where a drive is, for ever."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class ValueClass(IntEnum):
    """How much a sample is worth keeping when the spool is full: the lowest class is evicted first."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3

    @property
    def label(self) -> str:
        """The lower-case word used on the wire, in file names and in tables."""
        return self.name.lower()

    @classmethod
    def from_label(cls, label: str) -> ValueClass:
        """The class of a lower-case word. Raises KeyError."""
        return _BY_LABEL[label]


_BY_LABEL = {member.name.lower(): member for member in ValueClass}


class Provenance(StrEnum):
    """Whether a frame was seen by a sensor just now, played back, altered, or made up."""

    RECORDED = "recorded"
    REPLAYED = "replayed"
    JITTERED = "jittered"
    SIMULATED = "simulated"


class TimeQuality(StrEnum):
    """How far the wall clock of a sample can be believed."""

    OK = "ok"
    BEFORE_BUILD = "before_build"
    UNSYNCHRONISED = "unsynchronised"
    FAR_FUTURE = "far_future"


class Modality(StrEnum):
    """What kind of observation a sensor gave. A record may name another kind, which readers carry along."""

    IMAGE = "image"
    VIDEO = "video"
    SIGNALS = "signals"
    POSE = "pose"
    EVENT = "event"


class WindowRole(StrEnum):
    """What part of a trigger window an observation is."""

    SINGLE = "single"
    PRE = "pre"
    TRIGGER = "trigger"
    POST = "post"


class ModelState(StrEnum):
    """How the model of a role stands.

    `serving` and `shadow` are past their probation, in the role serving and in any other. A role without a model is
    `refused` or `rolled_back`, by what happened to it last.
    """

    SERVING = "serving"
    TRIAL = "trial"
    SHADOW = "shadow"
    ROLLED_BACK = "rolled_back"
    REFUSED = "refused"


class RefuseReason(StrEnum):
    """Why a vehicle refused a release for good: its bytes, where it would run, or its trial.

    An event's reason begins with the word; what was found stands after a colon.
    """

    TOO_LARGE = "too_large"
    WRONG_HASH = "wrong_hash"
    NOT_ONNX = "not_onnx"
    NO_CONTRACT = "no_contract"
    BAD_CONTRACT = "bad_contract"
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
    """Anything else that its trial or its bytes ended with."""


class RollbackReason(StrEnum):
    """Why a serving model gave way to the one before it. An event's reason begins with the word.

    All but `plan_halted` (the fleet took the release back) block the release on this vehicle for good.
    """

    NOT_FINITE = "not_finite"
    ERROR_RATIO = "error_ratio"
    TOO_SLOW = "too_slow"
    CRASHED_ON_PROBATION = "crashed_on_probation"
    CANNOT_LOAD = "cannot_load"
    PLAN_HALTED = "plan_halted"


class RolloutOutcome(StrEnum):
    """What became of a release on one vehicle, as far as its wave's health gate knows."""

    WAITING = "waiting"
    ACTIVATED = "activated"
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"
    UNHEALTHY = "unhealthy"
    SILENT = "silent"

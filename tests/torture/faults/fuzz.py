"""Whatever the bytes, a parser answers with a record or a declared error, in bounded memory."""

from __future__ import annotations

import resource
from collections.abc import Callable

from tests.torture.fault import Batch, BrokenBuild, Fault, Tally

MAX_GROWTH_MB = 200
ADDRESS_SPACE_BYTES = 6 * 2**30


def _fuzz(name: str) -> Callable[[Batch], Tally]:
    def run(batch: Batch) -> Tally:
        from tests.torture import fuzz_cases

        tally = Tally()
        with getattr(fuzz_cases, name)(batch.folder) as parsers:
            names = sorted(parsers)
            before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            soft, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, hard))
            try:
                for number in batch.in_time():
                    parser = names[number % len(names)]
                    found = parsers[parser](batch.rng(number))
                    tally.judge(
                        [] if found in ("accepted", "refused") else [found], f"{parser}, case {number}"
                    )
                    tally.count(found if found in ("accepted", "refused") else "undeclared_errors")
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
            growth_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) // 1024
        tally.count("max_memory_growth_mb", growth_mb)
        if growth_mb > MAX_GROWTH_MB:
            tally.fail(f"memory grew by {growth_mb} MB, at most {MAX_GROWTH_MB} may be")
        return tally

    return run


def _fault(
    name: str, what: str, full: int, fixed: int, guarantees: tuple[str, ...], *broken: BrokenBuild
) -> Fault:
    return Fault(
        f"fuzz-{name}",
        12,
        guarantees,
        f"{what}: each is read or refused with a declared error, and memory grows by at most {MAX_GROWTH_MB} MB.",
        "one changed input",
        full=full,
        turn=min(500, full),
        full_turn=full // 5,
        run=_fuzz(name),
        fixed=fixed,
        broken=broken,
        real="the product's parsers in one process; inputs are real files and golden vectors changed by a seeded generator",
    )


FAULTS = (
    _fault(
        "codec",
        "Golden vectors (records of every kind and version, and the headers of a signed record) are changed and read",
        20_000,
        300,
        ("G8", "G9"),
        BrokenBuild(
            "a choice that does not exist ends the reader",
            "schemas/codec.py",
            "    except (EOFError, IndexError) as error:\n",
            "    except EOFError as error:\n",
            tries=2000,
        ),
    ),
    _fault(
        "spool",
        "Files of a spool (segments, ledger, deliveries) are changed; both sides open it, and a vehicle goes on with it",
        5_000,
        20,
        ("G1", "G9"),
        BrokenBuild(
            "a ledger with a number beyond all bounds, or without its fields, ends the start",
            "edge_agent/spool/ledger.py",
            "        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:\n",
            "        except AttributeError as error:\n",
        ),
    ),
    _fault(
        "config",
        "Settings of an agent and of a workspace (TOML), parameters (YAML) and enrolled keys (JSON) are changed and read",
        5_000,
        200,
        ("G9",),
        BrokenBuild(
            "a number beyond all bounds ends the reader of TOML",
            "foundation/documents.py",
            '    except (ValueError, RecursionError) as error:\n        raise family(f"{name} is not TOML',
            '    except tomllib.TOMLDecodeError as error:\n        raise family(f"{name} is not TOML',
            tries=2000,
        ),
    ),
    _fault(
        "plan",
        "Releases, rollout plans and their signed indices are changed and read as a vehicle does",
        5_000,
        200,
        ("G6", "G9"),
        BrokenBuild(
            "an index that is no JSON ends the reader",
            "foundation/documents.py",
            '    except (ValueError, RecursionError) as error:\n        raise family(f"{name} is not JSON',
            '    except RecursionError as error:\n        raise family(f"{name} is not JSON',
        ),
    ),
    _fault(
        "onnx",
        "Model files and the contracts inside are changed and verified; the first that pass are tried in the limited process",
        5_000,
        100,
        ("G9", "G10"),
        BrokenBuild(
            "bytes that are no protocol buffer end the verifier",
            "modelkit/embed.py",
            "    except DecodeError as error:\n",
            "    except RecursionError as error:\n",
        ),
    ),
)

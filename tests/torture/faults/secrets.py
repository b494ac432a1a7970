"""A secret is told nowhere: not in a log, event, status, wheel, card, --json output, printed setting or error."""

from __future__ import annotations

from tests.torture.fault import Batch, BrokenBuild, Fault, Tally

_LEAST_SAID = 17
"""So many commands speak; fewer would mean that the search had nothing to search."""


def _canaries(batch: Batch) -> Tally:
    from tests.checker.secrets_told import everything_in, tellings
    from tests.torture.secret_places import play

    place = play(batch.folder)
    inputs = {place.folder / "agent.toml", place.workspace / "fleetloop.toml"}
    texts = dict(place.said)
    texts.update(everything_in(place.folder, frozenset(place.secret_files | inputs)))
    tally = Tally()
    names = sorted(place.canaries)
    silent = [name for name, text in place.said.items() if not text]
    for number in batch.numbers():
        name = names[number % len(names)]
        wrong = [f"told in {where}" for where in tellings(place.canaries[name], texts)]
        if len(place.said) < _LEAST_SAID or place.said["number of wheels"] != b"1":
            wrong.append(f"only {len(place.said)} commands spoke, {place.said['number of wheels']!r} wheels")
        tally.judge(wrong, name)
    tally.count("places_of_secrets", len(names))
    tally.count("commands_run", len(place.said))
    tally.count("commands_that_said_nothing", len(silent))
    tally.count("files_and_outputs_searched", len(texts))
    tally.count("bytes_searched", sum(map(len, texts.values())))
    return tally


FAULTS = (
    Fault(
        "canary-secret",
        12,
        ("G9",),
        "A canary stands in every place of a secret (environment, key files and their passphrase, addresses with a password, "
        "passwords put into settings by mistake, keys that lie in the source tree); commands run, the agent drives, a dataset "
        "and a wheel are made: no output, log, event, status, page or wheel holds any of them in any usual spelling.",
        "one secret looked for everywhere",
        full=80,
        turn=40,
        turn_limit_s=1500.0,
        run=_canaries,
        real="the real commands and agent as processes without a broker, a real dataset with its card, a real wheel; telemetry "
        "that reached a broker is not looked at",
        broken=(
            BrokenBuild(
                "settings are printed with their secrets",
                "foundation/settings.py",
                'f"# {item.name} = {MASK!r}  (from {variable})"',
                'f"# {item.name} = {value.reveal()!r}  (from {variable})"',
            ),
            BrokenBuild(
                "keys that lie in the source tree are packed into the wheel",
                "pyproject.toml",
                'exclude = ["*.pem", "*.key", ',
                "exclude = [",
            ),
        ),
    ),
)

"""All that is stopped and damaged here, by name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial

from attrs import evolve, frozen
from damages import Damage, damages, long_log, short_log, torn_tails
from log_crashes import LogCrashes
from log_protocols import LOG_PROTOCOLS, LogProtocol
from member_crashes import MemberCrashes
from member_protocols import MEMBER_PROTOCOLS, MemberProtocol
from new_clusters import Recovery, Restore
from stopping import Tally, sample


@frozen
class Effort:
    """How much is tried.

    Args:
        limit: parts of what was not synced, at each stop.
        points: stops of a protocol, damages of a log; None: all.
        again: how many times in a row a recovery is stopped.
    """

    limit: int = 256
    points: int | None = None
    again: int = 2


@frozen
class Scenario:
    """``name``, and what counts what was tried."""

    name: str
    run: Callable[[Effort], Tally]


def _stop_log(protocol: LogProtocol, effort: Effort) -> Tally:
    return LogCrashes(effort.limit, effort.again, effort.points).run(protocol)


def _stop_member(protocol: MemberProtocol, victim: str, effort: Effort) -> Tally:
    return MemberCrashes(protocol, victim, effort.limit, effort.points).run()


def _salvage(make: Callable[[], Iterable[Damage]], effort: Effort) -> Tally:
    found = sample(make(), effort.points)
    tally = Tally(operations=len(found))
    for damage in found:
        LogCrashes(effort.limit, effort.again, tally=tally).explore(damage.ground)
    return tally


def _make_cluster(attempt: Recovery | Restore, effort: Effort) -> Tally:
    return attempt.run(effort.limit, effort.points and 8 * effort.points)


def _tear(effort: Effort) -> Tally:
    """There are thousands of them: the recovery is not stopped."""
    return _salvage(torn_tails, evolve(effort, again=0, points=effort.points and 64 * effort.points))


SCENARIOS = (
    *(Scenario(f"log, {protocol.__name__}", partial(_stop_log, protocol)) for protocol in LOG_PROTOCOLS),
    Scenario("salvaging a short log", partial(_salvage, lambda: damages(short_log()))),
    Scenario("salvaging a long log", partial(_salvage, lambda: damages(long_log()))),
    Scenario("tearing the last flush", _tear),
    *(
        Scenario(f"{protocol.name}, {victim} stops", partial(_stop_member, protocol, victim))
        for protocol in MEMBER_PROTOCOLS
        for victim in protocol.victims
    ),
    Scenario("restoring a backup", partial(_make_cluster, Restore())),
    *(
        Scenario(f"recovering a lost majority {where}", partial(_make_cluster, Recovery(snapshot, prepared)))
        for where, snapshot, prepared in (
            ("from a log", False, True),
            ("from a log, no segment is ready", False, False),
            ("from a snapshot and a log", True, True),
            ("from a snapshot and a log, no segment is ready", True, False),
        )
    ),
)


def try_everything(name: str) -> tuple[Tally, float]:
    """Run a scenario in a process of its own; return what it tried, and the seconds that took."""
    logging.disable(logging.CRITICAL)  # members warn of what is done to them
    (scenario,) = (scenario for scenario in SCENARIOS if scenario.name == name)
    began = time.monotonic()
    return scenario.run(Effort()), time.monotonic() - began

"""``Config``: this process's own choices.  ``Settings``: what all members must agree on, kept in the log."""

from __future__ import annotations

from types import NoneType
from typing import Any, Literal

from attrs import asdict, fields, frozen

from replkv.address import parse_address
from replkv.errors import Incompatible

MIB = 1 << 20

MAY_BE_OFF = ("compact_age", "compact_revisions", "compact_bytes")
"""Settings for which 0 is a choice."""


def _check_positive(owner: Config | Settings) -> None:
    """Check that every number is one, above 0 or where that turns something off 0, below 2**63, and whole where its default is."""
    for field in fields(type(owner)):
        if isinstance(field.default, (str, NoneType)):
            continue
        name, value = f"{type(owner).__name__}.{field.name}", getattr(owner, field.name)
        kind = type(field.default)
        if isinstance(value, bool) or not isinstance(value, (int, kind)):
            raise TypeError(f"{name} must be {'a number' if kind is float else 'an int'}, not {type(value).__name__}")
        may_be_0 = field.name == "priority" or field.name in MAY_BE_OFF
        if not 0 <= value < float("inf") or (value == 0 and not may_be_0):
            raise ValueError(f"{name} must be {'at least 0' if may_be_0 else 'above 0'} and finite, not {value!r}")
        if value >= 1 << 63:
            raise ValueError(f"{name} must be below 2**63, not {value!r}: the log could not hold it, or not what is reckoned with it")


@frozen(kw_only=True)
class Config:
    """What one process chooses for itself; members may differ.

    Args:
        timeout: seconds an operation may take when the call does not say.
        segment_bytes: size of a preallocated WAL segment; at most 1 GiB.
        snapshot_bytes: bytes of log after which a snapshot is taken and the log before it trimmed; up to as many are kept behind it for
            followers that need a little more.  Both are doubled while the last snapshot, if it has more than 4 MiB, is as large, up to
            256 MiB.
        trailing_entries: log entries that are kept behind it anyhow, within these bytes.
        block_bytes: how many bytes of commands the leader joins into one log entry; at most 4 MiB.
        max_commands_in_flight: commands of this process that may be under way.
        max_bytes_in_flight: bytes of them.
        overload: what becomes of a call beyond that: "block" lets it wait until its timeout, "raise" fails it with ``Overloaded``.
        progress_interval: seconds without an event after which a watch that was asked to do so tells how far it is.
        clients: address to serve clients of other machines at, such as ``"10.0.0.1:7421"``; a member with a data directory serves those
            of its own machine and user anyway.
        priority: how much this member is wanted as leader: one of a higher priority that has been well for some seconds is handed the
            leadership, and a leader that closes prefers it.  Elections don't ask for it: any voter may lead meanwhile.
    """

    timeout: float = 5.0
    segment_bytes: int = 8 * MIB
    snapshot_bytes: int = 48 * MIB
    trailing_entries: int = 256
    block_bytes: int = MIB // 2
    max_commands_in_flight: int = 100_000
    max_bytes_in_flight: int = 64 * MIB
    overload: Literal["block", "raise"] = "block"
    progress_interval: float = 60.0
    clients: str | None = None
    priority: int = 0

    def __attrs_post_init__(self) -> None:
        _check_positive(self)
        if self.overload not in ("block", "raise"):
            raise ValueError(f'Config.overload must be "block" or "raise", not {self.overload!r}')
        for name, largest in (("segment_bytes", 1024 * MIB), ("block_bytes", 4 * MIB)):
            if getattr(self, name) > largest:
                raise ValueError(f"Config.{name} is at most {largest}, not {getattr(self, name)}: what is larger could not be read back")
        if self.clients is not None and not parse_address(self.clients).startswith("tcp://"):
            raise ValueError(f"Config.clients must be host:port, not {self.clients!r}: clients of this machine need nothing else")


@frozen(kw_only=True)
class Settings:
    """What must be alike on all members: it counts at founding and then lives in the log.

    Args:
        election_timeout: seconds; a member that hears no leader stands for election after 2/3 to 3/3 of it.
        heartbeat: seconds between a leader's signs of life.
        promise: seconds for which an acknowledged leader is promised that no other gets this member's vote.
        session_ttl: seconds of silence, in cluster time, after which a session's results are forgotten.
        max_request_bytes: size of one call's keys and values.
        max_txn_ops: operations in one list of a transaction, its nested lists included.
        max_bytes: what keys, values, history and leases may take; each version counts 64 bytes more than its key and value, a lease 64.
        compact_age: seconds of history that are kept; 0 keeps it whatever its age.
        compact_revisions: revisions of history that are kept; 0 keeps it whatever their number.
        compact_bytes: bytes of history that are kept; 0 keeps it whatever its size.
    """

    election_timeout: float = 1.5
    heartbeat: float = 0.1
    promise: float = 0.15
    session_ttl: float = 600.0
    max_request_bytes: int = 3 * MIB // 2
    max_txn_ops: int = 128
    max_bytes: int = 2048 * MIB
    compact_age: float = 3600.0
    compact_revisions: int = 1_000_000
    compact_bytes: int = 256 * MIB

    def __attrs_post_init__(self) -> None:
        _check_positive(self)
        if not self.heartbeat < self.promise < self.election_timeout / 2:
            raise ValueError(
                "Settings need heartbeat < promise < election_timeout / 2, not "
                f"{self.heartbeat} < {self.promise} < {self.election_timeout} / 2: a leader's lease would have gaps, or outlive its term"
            )
        if self.max_request_bytes > 4 * MIB:
            raise ValueError(f"Settings.max_request_bytes is at most {4 * MIB}, not {self.max_request_bytes}: a frame holds 8 MiB")

    @property
    def min_ttl(self) -> float:
        """The shortest time to live of a lease, in seconds: a shorter one would end between two heartbeats."""
        return 2 * self.heartbeat

    def to_wire(self) -> dict[str, Any]:
        """Return a plain mapping that survives msgpack."""
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Settings:
        """Build Settings from ``to_wire``'s mapping.

        Raises:
            Incompatible: it names a setting that this version does not know, or a value it can't live by.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(wire) - known):
            raise Incompatible(f"the cluster uses settings this version does not know: {', '.join(unknown)}; upgrade this member")
        try:
            return cls(**wire)
        except (TypeError, ValueError) as error:
            raise Incompatible(f"the cluster uses settings this version refuses: {error}") from None

"""What clients ask for: operations of all kinds, drawn so that they meet each other and their limits often.

No two writes are alike, so that each can be found in the log: puts carry a value or a time to live of their own, counters a delta, deletes
an end that no key reaches, transactions a key nobody else asks for.  Only what compacts or is about leases may be asked for twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from attrs import define, field

from replkv.ops import KEEP, Add, Compact, Delete, Get, Guard, Key, Put, Scan, Txn

if TYPE_CHECKING:
    import random

    from replkv.ops import Operation, SortBy
    from replkv.testing.swarm import Scenario

REMEMBERED: Final = 12
"""How many leases clients know of."""

SORT_BY: Final[tuple[SortBy, ...]] = ("key", "version", "create", "mod", "value")

Kind = Literal["put", "delete", "clear", "add", "txn", "big", "leased", "passing", "touch", "expecting", "guarded", "compact"]
KINDS: Final[dict[Kind, int]] = {
    "put": 8,
    "delete": 2,
    "clear": 1,
    "add": 4,
    "txn": 4,
    "big": 3,
    "leased": 2,
    "passing": 2,
    "touch": 1,
    "expecting": 3,
    "guarded": 2,
    "compact": 1,
}
"""How often each kind of write is asked for."""


@define(eq=False, repr=False)
class Requests:
    """Draws operations.

    Args:
        scenario: what there is.
        rng: draws.
    """

    scenario: Scenario
    rng: random.Random
    seen: int = 1  # a revision somebody saw
    compacted: int = 0  # one that somebody asked to compact
    leases: list[int] = field(factory=list)  # that somebody was granted
    held: dict[bytes, int] = field(factory=dict)  # keys that somebody saw, and when they were created: what guards writes
    _drawn: int = 0
    _kinds: list[Kind] = field(init=False)

    def __attrs_post_init__(self) -> None:
        left_out = set() if self.scenario.compactions else {"compact"}
        if not self.scenario.holders:
            left_out |= {"leased", "passing", "touch"}
        self._kinds = [kind for kind, weight in KINDS.items() if kind not in left_out for _ in range(weight)]

    def saw(self, revision: int) -> None:
        """Remember that a revision exists."""
        self.seen = max(self.seen, revision)

    def granted(self, lease: int) -> None:
        """Remember a lease."""
        self.leases = [*self.leases, lease][-REMEMBERED:]

    def found(self, key: bytes, create_revision: int) -> None:
        """Remember a key that exists."""
        self.held[key] = create_revision

    def ttl(self) -> float:
        """Draw seconds that a lease lives, no two alike."""
        return self.rng.choice(self.scenario.ttls) + self._number() / 1e6

    def unique(self) -> bytes:
        """Return a text that no other write has."""
        return b"%d" % self._number()

    def key(self) -> bytes:
        """Draw a key."""
        return b"k%02d" % self.rng.randrange(self.scenario.keys)

    def write(self) -> Operation | Compact:
        """Draw an operation that changes something."""
        kind, key, unique = self.rng.choice(self._kinds), self.key(), self.unique()
        match kind:
            case "put":
                return Put(key, self._value(unique), prev_kv=self._chance(0.5))
            case "big":
                return Put(key, self._value(unique, 3000))
            case "delete":
                return Delete(start=key, end=key + b"\x00" + unique, prev_kv=self._chance(0.5))
            case "clear":
                return Delete(start=b"k", end=b"k~" + unique)
            case "add":
                return Add(key if self._chance(0.1) else b"n" + key, self._drawn)
            case "leased":
                return Put(key, self._value(unique), lease=self._lease(), prev_kv=self._chance(0.5))
            case "passing":
                return Put(key, KEEP if self._chance(0.2) else self._value(unique), ttl=self.ttl())
            case "compact":
                return self._compact()
            case _:
                return self._conditional(kind, key, unique)

    def _value(self, unique: bytes, most: int = 0) -> bytes:
        """Draw a value that no other write has, with up to ``most`` bytes that nothing can compress."""
        return b"v" + unique + self.rng.randbytes(self.rng.randrange(max(most, self.scenario.values) + 1))

    def _conditional(self, kind: Kind, key: bytes, unique: bytes) -> Operation:
        if kind == "touch":
            return self._once(unique, Put(key, KEEP, lease=KEEP if self._chance(0.5) else self._lease()))
        if kind == "guarded":
            return self._guarded(key, unique)
        if kind != "expecting":
            return self._txn(key, unique, nested=self._chance(0.3))
        expected = 0 if self._chance(0.2) else max(0, self.seen - self.rng.randrange(4))
        if self._chance(0.3):
            return self._once(unique, Delete(key, if_mod_revision=expected))
        lease = self._lease() if self.scenario.holders and self._chance(0.3) else None
        return Put(key, self._value(unique), lease=lease, prev_kv=self._chance(0.5), if_mod_revision=expected)

    def _guarded(self, key: bytes, unique: bytes) -> Operation:
        guard, expected = self._guard(), max(1, self.seen - self.rng.randrange(4)) if self._chance(0.2) else None
        match self.rng.randrange(4):
            case 0:
                return self._once(unique, Delete(key, if_mod_revision=expected, guard=guard))
            case 1:
                return Delete(start=key, end=key + b"\x00" + unique, guard=guard)
        ttl = self.ttl() if self.scenario.holders and self._chance(0.2) else None
        return Put(key, self._value(unique), ttl=ttl, prev_kv=self._chance(0.5), if_mod_revision=expected, guard=guard)

    def read(self) -> Get | Scan | Txn:
        """Draw an operation that only reads."""
        key = self.key()
        past = self.rng.randint(1, self.seen) if self._chance(0.2) else None
        match self.rng.randrange(5):
            case 0:
                return Scan(prefix=b"k", limit=self.rng.randrange(4), revision=past, keys_only=self._chance(0.2))
            case 1:
                return Txn(compare=[Key(key).exists], then=[Get(key), Scan(prefix=b"n")], otherwise=[Scan(prefix=b"t", count_only=True)])
            case 2:
                return self._sorted_scan(past)
        return Get(key, revision=past)

    def _sorted_scan(self, past: int | None) -> Scan:
        bounds: dict[str, Any] = {
            f"{bound}_{of}_revision": self.rng.randint(1, self.seen)
            for bound in ("min", "max")
            for of in ("mod", "create")
            if self._chance(0.2)
        }
        limit, sort_by = self.rng.randrange(6), self.rng.choice(SORT_BY)
        return Scan(start=b"a", limit=limit, revision=past, sort_by=sort_by, descending=self._chance(0.5), **bounds)

    # -- parts ------------------------------------------------------------------------------------------------------------------------

    def _chance(self, share: float) -> bool:
        return self.rng.random() < share

    def _number(self) -> int:
        self._drawn += 1
        return self._drawn

    def _lease(self) -> int:
        """Choose a lease; it may be over."""
        return self.rng.choice(self.leases) if self.leases else 1

    def _guard(self) -> Guard:
        """Choose a key that is held; it may be gone, or be another one by the same name."""
        key = self.rng.choice([*self.held]) if self.held else self.key()
        return Guard(key, self.held.get(key, 1))

    def _compact(self) -> Compact:
        """Mostly ask for what is possible, often for all there is."""
        least = 0 if self._chance(0.1) else self.seen if self._chance(0.4) else min(self.compacted + 1, self.seen)
        revision = self.rng.randint(least, self.seen + self._chance(0.1))
        self.compacted = max(self.compacted, min(revision, self.seen))
        return Compact(revision)

    def _once(self, unique: bytes, operation: Operation) -> Txn:
        """Make an operation differ from all others."""
        return Txn(compare=[Key(b"u" + unique).missing], then=[operation])

    def _txn(self, key: bytes, unique: bytes, *, nested: bool) -> Txn:
        conditions = [
            Key(key).version > self.rng.randrange(3),
            Key(key).mod_revision < self.seen + self.rng.randrange(5),
            Key(prefix=b"k").create_revision < self.seen,
            Key(key).missing,
            Key(key).value > b"v5",
            Key(key).lease == 0,
            self._guard(),
        ]
        chosen = [condition for condition in conditions if self._chance(0.3)]
        put = Put(key, self._value(unique), guard=self._guard() if self._chance(0.2) else None)
        then: list[Operation] = [Get(key), put, Scan(prefix=b"k", limit=3)]
        other = self.key()
        if other != key and self._chance(0.2):
            then.append(Add(other, 1))  # refused where that holds a text, and then nothing of it may remain
        elif other != key and self.scenario.holders and self._chance(0.2):
            then.append(Put(other, self._value(unique), ttl=self.ttl()))
        if nested:
            then.append(Txn(compare=[Key(key).exists], then=[Put(b"t" + key, b"w" + unique)], otherwise=[Delete(b"t" + key)]))
        otherwise = [Delete(key)] if self._chance(0.3) else [Get(key)]
        return Txn(compare=[Key(b"u" + unique).missing, *chosen], then=then, otherwise=otherwise)

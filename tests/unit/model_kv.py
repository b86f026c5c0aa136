"""An oracle for the store and its leases: every version ever written, copied whole before every command; and operations to try on both.

Nothing is done twice to save time, nothing is forgotten: what compaction hides is left out where somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from hypothesis import strategies as st

from replkv import errors, ops, wire
from replkv.kv import run
from replkv.refusals import STATUS
from replkv.txn import Writer
from replkv.values import INT64, Span
from replkv.wire import Raw

T = TypeVar("T")

KEY, VALUE, CREATE, MOD, VERSION, LEASE = range(6)
BYTES_EACH = 64
"""What a version or a lease takes besides its key and value."""


class Refused(Exception):
    """The model refuses a command; ``kind`` is the error it stands for."""

    def __init__(self, kind: type[errors.ReplkvError], *details: int | Raw | None) -> None:
        super().__init__(kind.__name__)
        self.kind = kind
        self.details = details


class Lease(NamedTuple):
    """A lease of the model; its keys are those whose newest version names it."""

    ttl: int
    keeper: int
    renewed: int
    passing: bool


class Model:
    """What etcd's rules make of the same commands, with no thought for speed."""

    def __init__(self, max_bytes: int = 1 << 60) -> None:
        self.revision = 1
        self.compacted = 0
        self.time = 0
        self.max_bytes = max_bytes
        self.versions: dict[bytes, tuple[Raw, ...]] = {}
        self.events: list[Raw] = []
        self.leases: dict[int, Lease] = {}  # least recently renewed first
        self.last_id = 0
        self.kept_alive: dict[int, int] = {}
        self.ended: list[int] = []
        self.changed = False
        self._before = self._state()

    # -- reading --

    def get(self, key: bytes, revision: int) -> Raw | None:
        for record in reversed(self.versions.get(key, ())):
            if record[MOD] <= revision:
                return None if record[VALUE] is None else record
        return None

    def span(self, start: bytes, end: bytes | None, revision: int) -> list[Raw]:
        inside = sorted(key for key in self.versions if key >= start and (end is None or key < end))
        return [record for key in inside if (record := self.get(key, revision)) is not None]

    def scan(self, span: tuple[bytes, bytes | None], revision: int, limit: int, *options: Any) -> tuple[tuple[Raw, ...], int, bool]:
        keys_only, count_only, sort_by, descending, *bounds = options
        found = self.span(*span, revision)
        wanted = [] if count_only else [record for record in found if _within(record, *bounds)]
        place = (KEY, VERSION, CREATE, MOD, VALUE)[sort_by]
        wanted.sort(key=lambda record: record[place], reverse=descending)  # stable: ties stay in the order of their keys
        shown = wanted[: limit or None]
        return tuple((r[KEY], b"", *r[CREATE:]) if keys_only else r for r in shown), len(found), len(shown) < len(wanted)

    def at(self, asked: int) -> int:
        """Return the revision that is read when one is asked for."""
        if asked > self.revision:
            raise Refused(errors.FutureRevision)
        if asked and asked < self.compacted:
            raise Refused(errors.Compacted, self.compacted)
        return asked or self.now

    @property
    def now(self) -> int:
        return self.revision + self.changed

    def as_of(self, revision: int) -> Model:
        """Return what somebody sees who may see no more than a revision."""
        past = Model()
        past.versions, past.revision, past.compacted = self.versions, revision, self.compacted
        past.commit()
        return past

    # -- what there is altogether --

    def size(self, compacted: int | None = None) -> int:
        """Return what all versions take that are left when the store is compacted so far."""
        return sum(map(bytes_of, self.kept(self.compacted if compacted is None else compacted)))

    def kept(self, compacted: int) -> Iterable[Raw]:
        for versions in self.versions.values():
            at = sum(record[MOD] <= compacted for record in versions)
            yield from versions[at:]
            if at and versions[at - 1][VALUE] is not None:
                yield versions[at - 1]

    @property
    def live(self) -> int:
        """What the newest versions take."""
        return sum(bytes_of(versions[-1]) for versions in self.versions.values() if versions and versions[-1][VALUE] is not None)

    @property
    def base(self) -> list[Raw]:
        """The pairs at the compaction revision that are older than it, in key order."""
        return [record for record in self.span(b"", None, self.compacted) if record[MOD] < self.compacted]

    @property
    def history(self) -> list[Raw]:
        """All versions from the compaction revision on, deletions included, in the order they were written."""
        return [record for record in self.events if record[MOD] >= self.compacted]

    def keys_of(self, lease: int) -> list[bytes]:
        newest = (versions[-1] for versions in self.versions.values() if versions)
        return sorted(record[KEY] for record in newest if record[VALUE] is not None and record[LEASE] == lease)

    def deadline(self, lease: Lease) -> int:
        return max(lease.renewed, self.kept_alive.get(lease.keeper, 0)) + lease.ttl

    # -- writing --

    def put(self, key: bytes, value: bytes, lease: int = 0) -> Raw | None:
        old = self.get(key, self.now)
        create, version = (self.revision + 1, 1) if old is None else (old[CREATE], old[VERSION] + 1)
        self._write((key, value, create, self.revision + 1, version, lease))
        return old

    def delete(self, records: Iterable[Raw], expired: int = 0) -> None:
        for record in records:
            self._write((record[KEY], None, 0, self.revision + 1, 0, expired))

    def _write(self, record: Raw) -> None:
        self.versions[record[KEY]] = (*self.versions.get(record[KEY], ()), record)
        self.events.append(record)
        self.changed = True

    def commit(self) -> None:
        self.revision, self.changed = self.now, False
        for number, lease in tuple(self.leases.items()):
            if lease.passing and not self.keys_of(number):
                self._drop(number)
                self.ended.append(number)
        self._before = self._state()

    def rollback(self) -> None:
        versions, leases, self.last_id, events = self._before
        self.versions, self.leases, self.changed = dict(versions), dict(leases), False
        del self.events[events:]

    def _state(self) -> tuple[dict[bytes, tuple[Raw, ...]], dict[int, Lease], int, int]:
        return dict(self.versions), dict(self.leases), self.last_id, len(self.events)

    def _drop(self, number: int) -> Lease:
        """Take a lease away; a keeper without leases has kept nothing alive."""
        lease = self.leases.pop(number)
        if all(other.keeper != lease.keeper for other in self.leases.values()):
            self.kept_alive.pop(lease.keeper, None)
        return lease

    def expire(self, time: int) -> None:
        """End what is over at a time."""
        self.time = time
        while due := [number for number, lease in self.leases.items() if self.deadline(lease) <= time]:
            first = min(due, key=lambda number: (self.deadline(self.leases[number]), self.leases[number].keeper, self.leases[number].ttl))
            self._end(first, expired=True)
            self.commit()

    def _end(self, number: int, *, expired: bool) -> int:
        keys = self.keys_of(number)
        self.delete(((key,) for key in keys), number if expired else 0)
        self._drop(number)
        self.ended.append(number)
        return len(keys)

    # -- commands --

    def execute(self, packed: Raw) -> Raw:
        """Carry out a command; a refusal is its status and details without the message."""
        try:
            answer = self._do(self._decided(packed))
        except Refused as refused:
            self.rollback()
            return (STATUS[refused.kind], *refused.details)
        self.commit()
        return answer

    def _decided(self, packed: Raw) -> Raw:
        if packed[0] != wire.TXN:
            return packed
        held = all(self._holds(*compare) for compare in packed[1])
        return (wire.TXN, held, tuple(self._decided(step) for step in (packed[2] if held else packed[3])))

    def _holds(self, start: bytes, end: bytes | None, target: int, relation: int, operand: Any) -> bool:
        relate: Callable[[Any], bool] = {
            wire.EQUAL: lambda found: found == operand,
            wire.NOT_EQUAL: lambda found: found != operand,
            wire.GREATER: lambda found: found > operand,
            wire.LESS: lambda found: found < operand,
        }[relation]
        places = {wire.VALUE: VALUE, wire.CREATE: CREATE, wire.MOD: MOD, wire.VERSION: VERSION, wire.LEASE: LEASE, wire.FENCE: CREATE}
        place = places[target]
        records = self.span(start, end, self.revision)
        if not records:
            return target != wire.VALUE and relate(0)
        return all(relate(record[place]) for record in records)

    def _do(self, packed: Raw) -> Raw:
        match packed:
            case (wire.PUT, key, value, prev_kv):
                return self._put(key, value, 0, prev_kv)
            case (wire.PUT_WITH, key, value, prev_kv, lease, ttl):
                return self._put_with(key, value, prev_kv, lease, ttl)
            case ((wire.EXPECT | wire.GUARD) as condition, key, revision, operation):
                self._check(condition, key, revision)
                return self._do(operation)
            case (wire.DELETE, start, end, prev_kv):
                old_ones = self.span(start, end, self.now)
                self.delete(old_ones)
                return (wire.OK, self.now, len(old_ones), tuple(old_ones) if prev_kv else ())
            case (wire.ADD, key, delta):
                return self._add(key, delta)
            case (wire.GET, key, revision):
                return (wire.OK, self.get(key, self.at(revision)))
            case (wire.SCAN, start, end, limit, revision, *options):
                return (wire.OK, self.now, *self.scan((start, end), self.at(revision), limit, *options))
            case (wire.TXN, held, steps):
                answers = tuple(self._do(step) for step in steps)
                return (wire.OK, self.now, held, answers)
        return self._do_outermost(packed)

    def _do_outermost(self, packed: Raw) -> Raw:
        match packed:
            case (wire.COMPACT, revision):
                return self._compact(revision)
            case (wire.GRANT, lease, ttl, keeper):
                self._check_room(BYTES_EACH)
                if lease in self.leases:
                    raise Refused(errors.LeaseExists)
                number = lease or self._chosen_id()
                self.leases[number] = Lease(ttl, keeper, self.time, passing=False)
                return (wire.OK, number, ttl)
            case (wire.RENEW, lease, keeper):
                self._check_lease(lease)
                old = self._drop(lease)
                self.leases[lease] = old._replace(keeper=keeper or old.keeper, renewed=self.time)
                return (wire.OK, old.ttl)
            case (wire.KEEP_ALIVE, keeper):
                count = sum(lease.keeper == keeper for lease in self.leases.values()) if keeper else 0
                if count:
                    self.kept_alive[keeper] = self.time
                return (wire.OK, count)
            case (wire.REVOKE, lease, keeper):
                self._check_lease(lease)
                if keeper and self.leases[lease].keeper != keeper:
                    raise Refused(errors.LeaseNotFound)
                deleted = self._end(lease, expired=False)
                return (wire.OK, self.now, deleted)
        raise AssertionError(packed)

    def _check(self, condition: int, key: bytes, revision: int) -> None:
        present = self.get(key, self.now)
        if condition == wire.EXPECT and revision != (present[MOD] if present else 0):
            raise Refused(errors.Conflict, present)
        if condition == wire.GUARD and (present is None or revision != present[CREATE]):
            raise Refused(errors.LockLost)

    def _put(self, key: bytes, value: bytes, lease: int, prev_kv: bool) -> Raw:
        self._check_room(len(key) + len(value) + BYTES_EACH)
        old = self.put(key, value, lease)
        return (wire.OK, self.now, old if prev_kv else None)

    def _put_with(self, key: bytes, value: bytes | None, prev_kv: bool, lease: int | None, ttl: int) -> Raw:
        old = self.get(key, self.now)
        if old is None and (value is None or lease is None):
            raise Refused(errors.KeyNotFound)
        value = old[VALUE] if value is None and old else value or b""
        lease = old[LEASE] if lease is None and old else lease or 0
        if lease:
            self._check_lease(lease)
        if ttl:
            lease = self._chosen_id()
            self.leases[lease] = Lease(ttl, 0, self.time, passing=True)
        return self._put(key, value, lease, prev_kv)

    def _chosen_id(self) -> int:
        self.last_id = next(number for number in range(self.last_id + 1, 1 << 63) if number not in self.leases)
        return self.last_id

    def _check_lease(self, number: int) -> None:
        if number not in self._before[1]:  # a lease that the command itself makes has no number yet
            raise Refused(errors.LeaseNotFound)

    def _check_room(self, more: int) -> None:
        if self.size() + BYTES_EACH * len(self.leases) + more > self.max_bytes:
            raise Refused(errors.QuotaExceeded)

    def _add(self, key: bytes, delta: int) -> Raw:
        old = self.get(key, self.now)
        text = "0" if old is None else old[VALUE].decode("latin-1")
        digits = text.removeprefix("-")
        if not (1 <= len(digits) <= 19 and set(digits) <= set("0123456789") and (digits == text == "0" or digits[0] != "0")):
            raise Refused(errors.NotACounter)
        total = int(text) + delta
        if int(text) not in INT64 or total not in INT64:
            raise Refused(errors.NotACounter)
        self._put(key, str(total).encode(), 0 if old is None else old[LEASE], prev_kv=False)
        return (wire.OK, self.now, total)

    def _compact(self, revision: int) -> Raw:
        if revision > self.revision:
            raise Refused(errors.FutureRevision)
        if revision <= self.compacted:
            raise Refused(errors.Compacted, self.compacted)
        self.compacted = revision
        return (wire.OK, self.revision)


def _within(record: Raw, min_mod: int, max_mod: int, min_create: int, max_create: int) -> bool:
    mod, create = record[MOD], record[CREATE]
    return min_mod <= mod and min_create <= create and (not max_mod or mod <= max_mod) and (not max_create or create <= max_create)


def bytes_of(record: Raw) -> int:
    """Return what a version takes."""
    return len(record[KEY]) + len(record[VALUE] or b"") + BYTES_EACH


def carry_out(writer: Writer, packed: Raw) -> Raw:
    """Have a writer carry out a command as a whole or not at all, as the machine does; return the answer."""
    try:
        answer = run(writer.execute(packed))
    except errors.Rejected as refused:
        run(writer.rollback())
        return wire.refused(refused)
    run(writer.commit())
    return answer


def same(answer: Raw, expected: Raw) -> bool:
    """Tell whether an answer is what the model expects; the message of a refusal may be any."""
    return answer == expected if expected[0] == wire.OK else (answer[0], *answer[2:]) == expected


# -- operations to try ----------------------------------------------------------------------------------------------------------------

KEYS = [b"a", b"a\x00", b"ab", b"b", b"c", b"d\xff", b"e", b"\xff\xff"]
VALUES = [b"", b"0", b"7", b"-3", b"x", b"9223372036854775807", b"-9223372036854775808", b"99999999999999999999", b"1_0", b"007", b"-0"]
PREFIXES = [b"a", b"d", b"\xff", b"b", b"nothing"]
LEASES = [1, 2, 3, 7]
TTLS = [3600.0, 4000.0]


class Dice:
    """Choices, taken from bytes that hypothesis draws in one go: much quicker than to draw each.  Behind their end all are the first.

    Hypothesis likes to throw the same again; so that this is another command then, the revision of the model has a part in it.
    """

    def __init__(self, thrown: bytes, model: Model | None = None) -> None:
        salt = 0 if model is None else model.revision - 1
        self._thrown = (number + salt * (7 * place + 3) for place, number in enumerate(thrown))
        self.revision = 6 if model is None else model.revision
        self.model = model

    def below(self, number: int) -> int:
        return next(self._thrown, 0) % number

    def of(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def span(self) -> dict[str, Any]:
        match self.below(6):
            case 0:
                return {"start": self.of(KEYS)}
            case 1:
                return {"start": self.of(KEYS[:2])}
            case 2:
                return {"start": self.of(KEYS), "end": self.of([*KEYS, b""])}
            case 3:
                return {"prefix": self.of(PREFIXES)}
        return {"key": self.of(KEYS)}

    def asked(self) -> int | None:
        """A revision to read: mostly the newest, else an old one, a compacted one, or one yet to come."""
        return max(1, self.revision + 1 - self.below(self.revision + 3)) if self.below(4) == 3 else None

    def expected(self, key: bytes) -> int | None:
        """What ``if_mod_revision`` is to be: mostly nothing, else the right one as a rule."""
        chance = self.below(8)
        if chance < 5:
            return None
        present = None if self.model is None else self.model.get(key, self.revision)
        return self.below(4) if chance == 5 else present[MOD] if present else 0

    def guard(self) -> ops.Guard | None:
        """What is to be held: mostly nothing, else a key that is there as a rule."""
        chance = self.below(8)
        return self.some_guard(right=chance == 6) if chance > 5 else None

    def some_guard(self, *, right: bool) -> ops.Guard:
        key = self.of(KEYS)
        present = self.model.get(key, self.revision) if self.model is not None and right else None
        return ops.Guard(key, present[CREATE] if present else 1 + self.below(self.revision))

    def selection(self) -> dict[str, Any]:
        """Options of a scan that are worth to be combined."""
        options: dict[str, Any] = {"limit": self.below(4)}
        flags = self.below(8)
        options["keys_only"], options["count_only"] = flags in (6, 7), flags in (5, 6)
        options["sort_by"] = self.of(["key", "version", "create", "mod", "value", "key"])
        options["descending"] = bool(self.below(2))
        if self.below(3) == 2:
            for name in ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"):
                options[name] = self.of([None, 1, 1 + self.below(self.revision + 1)])
        return options

    # -- operations --

    def put(self) -> ops.Put:
        key, value = self.of(KEYS), self.of(VALUES)
        options: dict[str, Any] = {"prev_kv": self.below(2) == 1, "if_mod_revision": self.expected(key), "guard": self.guard()}
        match self.below(8):
            case 5:
                options["lease"] = self.of(LEASES)
            case 6:
                options["ttl"] = self.of(TTLS)
            case 7:
                options["lease"] = ops.KEEP
        return ops.Put(key, ops.KEEP if self.below(8) == 7 else value, **options)

    def delete(self) -> ops.Delete:
        span = self.span()
        expected = self.expected(span["key"]) if "key" in span else None
        return ops.Delete(**span, prev_kv=self.below(2) == 1, if_mod_revision=expected, guard=self.guard())

    def add(self) -> ops.Add:
        return ops.Add(self.of(KEYS), self.of([1, 2, -1, 0, INT64[0], INT64[-1]]))

    def get(self) -> ops.Get:
        return ops.Get(self.of(KEYS), revision=self.asked())

    def scan(self) -> ops.Scan:
        return ops.Scan(**self.span(), revision=self.asked(), **self.selection())

    def read(self) -> ops.Get | ops.Scan:
        return self.get() if self.below(2) else self.scan()

    def simple(self) -> ops.Operation:
        """Anything but a transaction."""
        kinds: list[Callable[[], ops.Operation]] = [self.put, self.put, self.put, self.delete, self.add, self.get, self.scan]
        return self.of(kinds)()

    def compare(self) -> ops.Compare:
        target, relation = 1 + self.below(6), 1 + self.below(4)
        if target == wire.FENCE:
            return self.some_guard(right=relation > 1)
        right = self.below(8) if target in (wire.VERSION, wire.LEASE) else max(0, self.revision + 1 - self.below(self.revision + 2))
        return ops.Compare(Span.of(**self.span()), target, relation, self.of(VALUES) if target == wire.VALUE else right)

    def txn(self, leaf: Callable[[], ops.Operation], depth: int = 3) -> ops.Txn:
        """A transaction of such operations, nested up to so deep.  What would write a key twice is left out."""
        compares = [self.compare() for _ in range(self.of([0, 1, 1, 2]))]
        branches: list[list[ops.Operation]] = [[], []]
        for branch, length in zip(branches, (self.of([3, 2, 5, 1, 4, 0]), self.of([1, 3, 2, 4, 0])), strict=True):
            for _ in range(length):
                inner = self.txn(leaf, depth - 1) if depth > 1 and self.below(4) == 3 else leaf()
                try:
                    ops.Txn(then=[*branch, inner])
                except errors.DuplicateKey:
                    continue
                branch.append(inner)
        return ops.Txn(compare=compares, then=branches[0], otherwise=branches[1])

    def command(self) -> ops.Operation:
        """Something that goes through the log as a rule."""
        kind = self.below(6)
        return self.put() if kind < 2 else self.delete() if kind == 2 else self.add() if kind == 3 else self.txn(self.simple)


throws = st.binary(min_size=16, max_size=16)
"""For one operation."""

long_throws = st.binary(min_size=96, max_size=96)
"""For a transaction."""

keys = st.sampled_from(KEYS)
values = st.sampled_from(VALUES)
spans = throws.map(lambda thrown: Dice(thrown).span())
simple = throws.map(lambda thrown: Dice(thrown).simple())
reads = throws.map(lambda thrown: Dice(thrown).read())
commands = long_throws.map(lambda thrown: Dice(thrown).command())
txns = long_throws.map(lambda thrown: (dice := Dice(thrown)).txn(dice.simple))
reading_txns = long_throws.map(lambda thrown: (dice := Dice(thrown)).txn(dice.read))

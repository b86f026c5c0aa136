"""Who may do what, written by hand after etcd's rules: the rows of the rights matrix, and what it takes to try them.

What stands here is not taken from ``replkv.auth``: that is what is tried.  A row has an operation and the rights that it needs, each for a
span of keys; ``Root`` or ``Anybody`` where these are not rights on keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple, TypeAlias

from attrs import frozen

from replkv import codec, kv, wire
from replkv.auth_ops import ChangeAuth
from replkv.config import Settings
from replkv.kv import run
from replkv.machine import Machine, Outcome
from replkv.member_ops import ChangeMembers
from replkv.messages import Configuration, EntryKind, Founding
from replkv.ops import KEEP, Add, Compact, Delete, Get, Grant, Guard, KeepAlive, Key, Packable, Put, Renew, Revoke, Scan, Txn
from replkv.values import Span
from replkv.wire import READ, READWRITE, WRITE, Raw

SECRET: Final = b"SECRET"
"""Is in every value that there is, and must be in nothing that somebody without rights gets."""

OTHER: Final = {READ: WRITE, WRITE: READ}


class Need(NamedTuple):
    """A right that something needs: READ or WRITE, and the keys, from ``start`` on, up to but without ``end`` where there is one."""

    mode: int
    start: bytes
    end: bytes | None

    def __str__(self) -> str:
        return f"{'read' if self.mode == READ else 'write'} {self.start!r}..{self.end!r}"


def reads(key: bytes) -> Need:
    return Need(READ, key, key + b"\x00")


def writes(key: bytes) -> Need:
    return Need(WRITE, key, key + b"\x00")


def reads_all(start: bytes, end: bytes | None) -> Need:
    return Need(READ, start, end)


def writes_all(start: bytes, end: bytes | None) -> Need:
    return Need(WRITE, start, end)


Needs: TypeAlias = tuple[Need, ...]


@frozen
class Row:
    """An operation, and what it needs.

    Attributes:
        name: says what is special about it.
        operation: as a caller builds it.
        needs: rights on keys, all of them; none here nor in ``whole``: every user may.
        whole: rights on keys that are the same ones in every namespace: those of locks and leases.
        root: nobody but root may, whatever rights on keys it has.
        prefixable: it may stand in a namespace, and in a transaction.
    """

    name: str
    operation: Packable[Any]
    needs: Needs = ()
    whole: Needs = ()
    root: bool = False
    prefixable: bool = True

    @property
    def packed(self) -> Raw:
        return self.operation.to_wire()

    def __str__(self) -> str:
        return self.name


@frozen
class Level:
    """The command with which a leader raises the feature level; ``upgrading.py`` packs it."""

    def to_wire(self) -> Raw:
        return (wire.LEVEL, 1)

    def result(self, raw: Raw) -> None: ...


# -- the world ---------------------------------------------------------------------------------------------------------------------

FOUNDERS = Configuration(voters=("a", "b", "c"), members={"a": 1, "b": 2, "c": 3}, addresses={"a": "tcp://a:1"})

VALUES: Final = (
    b"key",
    b"key2",
    b"dir/a",
    b"dir/b",
    b"held/a",
    b"held/b",
    b"lock",
    b"cmp",
    b"z",
    b"\x00replkv/other",
    b"\x00replkv/clients/a",
)
HELD, EMPTY, OURS, PASSING, ANYBODYS, MISSING = 1, 2, 3, 4, 5, 99
"""Leases: with keys, without and a member's own, with a key of members, one that belongs to a key, without and nobody's, none."""
KEEPER = 7
HOUR = 3_600_000_000
"""Microseconds."""


class Log:
    """A machine, and what is applied to it."""

    def __init__(self, machine: Machine | None = None) -> None:
        self.machine = machine or Machine()
        self.time = self.machine.time
        self._sequence = 0
        if machine is None:
            founding = Founding(b"c" * 16, FOUNDERS, Settings().to_wire())
            self.apply(EntryKind.FOUNDING, codec.encode_founding(founding))

    def copy(self) -> Log:
        """Return another one that goes on from a dump of the machine."""
        log = Log(Machine.load(self.machine.dump()))
        log._sequence = self._sequence
        return log

    def apply(self, kind: EntryKind, payload: bytes) -> list[Outcome]:
        entry = codec.make_entry(self.machine.applied + 1, max(1, self.machine.term), kind, self.time, payload)
        return run(self.machine.apply(entry))

    def batch(self, session: int, sequence: int, commands: Iterable[Raw], guest: tuple[str, int] | None = None) -> Outcome:
        """Apply one batch, as a door or a member hands it over; what no member would take is an error."""
        data = codec.pack_batch(session, sequence, 0, [codec.pack(command) for command in commands], guest)
        codec.unpack_batch(data, wire.check_operation)
        (outcome,) = self.apply(EntryKind.BLOCK, codec.encode_block([data]))
        return outcome

    def do(self, *commands: Raw, guest: tuple[str, int] | None = None) -> tuple[Raw, ...]:
        """Apply commands in a session of their own; return the answers."""
        self._sequence += 1
        session = self.batch(0, self._sequence, (), guest).opened
        answers = self.batch(session, 1, commands, guest).answers
        assert answers is not None
        return answers

    def must(self, *commands: Raw) -> None:
        """Apply commands of the member itself, none of which is refused."""
        for answer in self.do(*commands):
            assert answer[0] == wire.OK, answer


def auth(what: int, *arguments: Any) -> Raw:
    return ChangeAuth(what, arguments).to_wire()


def stock() -> list[Raw]:
    """Return the commands that make what the rows are about."""
    made: tuple[Packable[Any], ...] = (
        *(Grant(lease, HOUR, KEEPER) for lease in (HELD, EMPTY, OURS)),
        *(Put(key, SECRET) for key in VALUES),
        *(Put(key, SECRET, lease=HELD) for key in (b"held/a", b"held/b")),
        Put(b"\x00replkv/clients/a", SECRET, lease=OURS),
        Put("number", b"5"),
        Put("ttl", SECRET, ttl=3600),
        Put("key", SECRET),
    )
    return [operation.to_wire() for operation in made]


def world() -> Log:
    """Return a log whose machine holds what the rows are about."""
    log = Log()
    log.must(*stock())
    log.do(Grant(ANYBODYS, HOUR, KEEPER).to_wire(), guest=("", 0))
    assert {PASSING, ANYBODYS} <= {lease.id for lease in log.machine.leases}
    return log


WORLD: Final = world()
_STORE = WORLD.machine.store


def created(key: bytes) -> int:
    record = _STORE.get(key, _STORE.revision)
    assert record is not None
    revision: int = record[kv.CREATE]
    return revision


def changed(key: bytes) -> int:
    record = _STORE.get(key, _STORE.revision)
    assert record is not None
    revision: int = record[kv.MOD]
    return revision


LOCK = Guard("lock", created(b"lock"))
LOST = Guard("lock", created(b"lock") + 1)

# -- the rows ----------------------------------------------------------------------------------------------------------------------

K, L = b"key", b"lock"
HELD_KEYS = (writes(b"held/a"), writes(b"held/b"))
DIR = (b"dir/", b"dir0")
"""The keys with the prefix ``dir/``."""

PUTS: Final = (
    Row("put", Put(K, b"new"), (writes(K),)),
    Row("put a new key", Put(b"key1", b"new"), (writes(b"key1"),)),
    Row("put, prev_kv", Put(K, b"new", prev_kv=True), (writes(K), reads(K))),
    Row("put, if_mod_revision", Put(K, b"new", if_mod_revision=changed(K)), (writes(K), reads(K))),
    Row("put, if_mod_revision, conflict", Put(K, b"new", if_mod_revision=1), (writes(K), reads(K))),
    Row("put, if it is missing", Put(K, b"new", if_mod_revision=0), (writes(K), reads(K))),
    Row("put, guard", Put(K, b"new", guard=LOCK), (writes(K),), (reads(L),)),
    Row("put, guard that is lost", Put(K, b"new", guard=LOST), (writes(K),), (reads(L),)),
    Row("put, all conditions", Put(K, b"new", prev_kv=True, if_mod_revision=1, guard=LOCK), (writes(K), reads(K)), (reads(L),)),
    Row("put, lease with keys", Put(K, b"new", lease=HELD), (writes(K),), HELD_KEYS),
    Row("put, lease of a member without keys", Put(K, b"new", lease=EMPTY), (writes(K),), root=True),
    Row("put, lease that is missing", Put(K, b"new", lease=MISSING), (writes(K),)),
    Row("put, lease of another key's ttl", Put(K, b"new", lease=PASSING), (writes(K),), (writes(b"ttl"),)),
    Row("put, lease with keys and prev_kv", Put(K, b"new", lease=HELD, prev_kv=True), (writes(K), reads(K)), HELD_KEYS),
    Row("put, ttl", Put(K, b"new", ttl=60), (writes(K),)),
    Row("put, keep the value", Put(K, KEEP), (writes(K),)),
    Row("put, keep the value that is missing", Put(b"key1", KEEP), (writes(b"key1"),)),
    Row("put, keep the value and tell it", Put(K, KEEP, prev_kv=True), (writes(K), reads(K))),
    Row("put, keep the value with a lease", Put(K, KEEP, lease=HELD), (writes(K),), HELD_KEYS),
    Row("put, keep the lease", Put(b"held/a", b"new", lease=KEEP), (writes(b"held/a"),)),
    Row("put, beside a lock", Put(b"lock2", b"new", guard=LOCK), (writes(b"lock2"),), (reads(L),)),
)

ADDS: Final = (
    Row("add", Add(b"number", 2), (reads(b"number"), writes(b"number"))),
    Row("add, no counter", Add(K, 2), (reads(K), writes(K))),
    Row("add, new", Add(b"number2", 2), (reads(b"number2"), writes(b"number2"))),
)

DELETES: Final = (
    Row("delete", Delete(K), (writes(K),)),
    Row("delete what is missing", Delete(b"key1"), (writes(b"key1"),)),
    Row("delete, prev_kv", Delete(K, prev_kv=True), (writes(K), reads(K))),
    Row("delete, if_mod_revision", Delete(K, if_mod_revision=changed(K)), (writes(K), reads(K))),
    Row("delete, if_mod_revision, conflict", Delete(K, if_mod_revision=1), (writes(K), reads(K))),
    Row("delete, guard", Delete(K, guard=LOCK), (writes(K),), (reads(L),)),
    Row("delete, all conditions", Delete(K, prev_kv=True, if_mod_revision=1, guard=LOCK), (writes(K), reads(K)), (reads(L),)),
    Row("delete a prefix", Delete(prefix=b"dir/"), (writes_all(*DIR),)),
    Row("delete a prefix, prev_kv", Delete(prefix=b"dir/", prev_kv=True), (writes_all(*DIR), reads_all(*DIR))),
    Row("delete a prefix, guard", Delete(prefix=b"dir/", guard=LOCK), (writes_all(*DIR),), (reads(L),)),
    Row("delete a span", Delete(start=b"dir/a", end=b"dir/z"), (writes_all(b"dir/a", b"dir/z"),)),
    Row("delete from a key on", Delete(start=b"key"), (writes_all(b"key", None),)),
    Row("delete from a key on, prev_kv", Delete(start=b"key", prev_kv=True), (writes_all(b"key", None), reads_all(b"key", None))),
)

GETS: Final = (
    Row("get", Get(K), (reads(K),)),
    Row("get what is missing", Get(b"key1"), (reads(b"key1"),)),
    Row("get, old", Get(K, revision=changed(K) - 1), (reads(K),)),
    Row("get, future", Get(K, revision=10_000), (reads(K),)),
    Row("scan one key", Scan(K), (reads(K),)),
    Row("scan a prefix", Scan(prefix=b"dir/"), (reads_all(*DIR),)),
    Row("scan a span", Scan(start=b"dir/a", end=b"dir/z"), (reads_all(b"dir/a", b"dir/z"),)),
    Row("scan from a key on", Scan(start=b"key"), (reads_all(b"key", None),)),
    Row("scan all", Scan(), (reads_all(b"\x01", None),)),
    Row("scan a prefix, count_only", Scan(prefix=b"dir/", count_only=True), (reads_all(*DIR),)),
    Row("scan a prefix, keys_only", Scan(prefix=b"dir/", keys_only=True), (reads_all(*DIR),)),
    Row("scan a prefix, limit", Scan(prefix=b"dir/", limit=1), (reads_all(*DIR),)),
    Row("scan a prefix, sorted", Scan(prefix=b"dir/", sort_by="value", descending=True), (reads_all(*DIR),)),
    Row("scan a prefix, bounds", Scan(prefix=b"dir/", min_mod_revision=2, max_create_revision=9000), (reads_all(*DIR),)),
    Row("scan from a key on, count_only", Scan(start=b"key", count_only=True), (reads_all(b"key", None),)),
    Row("scan a prefix, old", Scan(prefix=b"dir/", revision=changed(b"dir/b")), (reads_all(*DIR),)),
    Row("scan no keys", Scan(prefix=b"nothing/"), (reads_all(b"nothing/", b"nothing0"),)),
)

_C = Key(b"cmp")
_DIR = Key(prefix=b"dir/")
_FROM = Key(start=b"key")

COMPARES: Final = (
    Row("compare the version", Txn(compare=[_C.version == 1]), (reads(b"cmp"),)),
    Row("compare the create revision", Txn(compare=[_C.create_revision != 1]), (reads(b"cmp"),)),
    Row("compare the mod revision", Txn(compare=[_C.mod_revision > 1]), (reads(b"cmp"),)),
    Row("compare the value", Txn(compare=[_C.value == SECRET]), (reads(b"cmp"),)),
    Row("compare the lease", Txn(compare=[_C.lease < 5]), (reads(b"cmp"),)),
    Row("compare whether it is there", Txn(compare=[_C.exists]), (reads(b"cmp"),)),
    Row("compare whether a lock is held", Txn(compare=[LOCK]), (), (reads(L),)),
    Row("compare all with a prefix", Txn(compare=[_DIR.value < b"T"]), (reads_all(*DIR),)),
    Row("compare all from a key on", Txn(compare=[_FROM.version > 0]), (reads_all(b"key", None),)),
    Row("compare all of a span", Txn(compare=[Key(start=b"dir/a", end=b"dir/z").mod_revision > 1]), (reads_all(b"dir/a", b"dir/z"),)),
    Row("compare several, the first decides", Txn(compare=[_C.missing, Key(K).exists]), (reads(b"cmp"), reads(K))),
)

TXNS: Final = (
    Row("txn of nothing", Txn(), ()),
    Row("txn, both branches", Txn(compare=[_C.exists], then=[Put(K, b"")], otherwise=[Get(b"z")]), (reads(b"cmp"), writes(K), reads(b"z"))),
    Row("txn, no condition", Txn(then=[Get(K)], otherwise=[Delete(b"z")]), (reads(K), writes(b"z"))),
    Row("txn, put and read back", Txn(then=[Put(K, b""), Get(K)]), (reads(K), writes(K))),
    Row("txn, a put of a lease", Txn(then=[Put(K, b"", lease=HELD)]), (writes(K),), HELD_KEYS),
    Row("txn, a conflict", Txn(then=[Put(b"z", b""), Put(K, b"", if_mod_revision=1)]), (writes(b"z"), writes(K), reads(K))),
    Row("txn, no counter", Txn(then=[Put(b"z", b""), Add(K, 1)]), (writes(b"z"), writes(K), reads(K))),
    Row(
        "txn, conditions within",
        Txn(then=[Txn(compare=[_DIR.exists], then=[Txn(otherwise=[Delete(prefix=b"held/")])])]),
        (reads_all(*DIR), writes_all(b"held/", b"held0")),
    ),
)

_CLIENTS, _BEHIND = b"\x00replkv/clients/", b"\x00replkv/clients0"

RESERVED: Final = (
    Row("put where a member is", Put(_CLIENTS + b"a", b"evil"), root=True, prefixable=False),
    Row("put where a new one is", Put(_CLIENTS + b"new", b"evil"), root=True, prefixable=False),
    Row("put the prefix of where members are", Put(_CLIENTS, b"evil"), root=True, prefixable=False),
    Row("put where a member is, in a txn", Txn(otherwise=[Put(_CLIENTS + b"a", b"evil")]), root=True, prefixable=False),
    Row("add to where a member is", Add(_CLIENTS + b"n", 1), root=True, prefixable=False),
    Row("delete where a member is", Delete(_CLIENTS + b"a"), root=True, prefixable=False),
    Row("delete a span with where members are", Delete(start=b"\x00", end=b"\x01"), root=True, prefixable=False),
    Row("delete from before where members are on", Delete(start=b"\x00"), root=True, prefixable=False),
    Row("delete from amid where members are on", Delete(start=_CLIENTS + b"x"), root=True, prefixable=False),
    Row("delete up to amid where members are", Delete(start=b"\x00", end=_CLIENTS + b"\x00"), root=True, prefixable=False),
    Row("delete up to where members are", Delete(start=b"\x00", end=_CLIENTS), (writes_all(b"\x00", _CLIENTS),), prefixable=False),
    Row("delete from behind where members are", Delete(start=_BEHIND), (writes_all(_BEHIND, None),), prefixable=False),
    Row("a lease with the members' keys", Put(K, b"", lease=OURS), root=True, prefixable=False),
    Row("renew the members' lease", Renew(OURS, 0), root=True, prefixable=False),
    Row("revoke the members' lease", Revoke(OURS), root=True, prefixable=False),
    Row("where members are", Scan(prefix=_CLIENTS), (), prefixable=False),
    Row("where some members are", Scan(start=_CLIENTS + b"a", end=_CLIENTS + b"z"), (), prefixable=False),
    Row("where one member is", Get(_CLIENTS + b"a"), (), prefixable=False),
    Row("where no member is", Get(_CLIENTS + b"none"), (), prefixable=False),
    Row("whether a member is there", Txn(compare=[Key(_CLIENTS + b"a").exists]), (), prefixable=False),
    Row("what is beside where members are", Get(b"\x00replkv/other"), (reads(b"\x00replkv/other"),), prefixable=False),
    Row("all that begins like it", Scan(prefix=b"\x00replkv/"), (reads_all(b"\x00replkv/", b"\x00replkv0"),), prefixable=False),
    Row("from where members are on", Scan(start=_CLIENTS), (reads_all(_CLIENTS, None),), prefixable=False),
    Row(
        "one key more than where members are",
        Scan(start=_CLIENTS, end=_BEHIND + b"\x00"),
        (reads_all(_CLIENTS, _BEHIND + b"\x00"),),
        prefixable=False,
    ),
    Row("put before where members are", Put(_CLIENTS[:-1], b""), (writes(_CLIENTS[:-1]),), prefixable=False),
    Row("put behind where members are", Put(_BEHIND, b""), (writes(_BEHIND),), prefixable=False),
    Row("put what a recipe does", Put(b"\x00replkv/lock/jobs/1", b""), (writes(b"\x00replkv/lock/jobs/1"),), prefixable=False),
)

OUTERMOST: Final = (
    Row("compact", Compact(3), root=True, prefixable=False),
    Row("grant", Grant(0, 10_000_000, 0), (), prefixable=False),
    Row("grant an id", Grant(55, 10_000_000, 8), (), prefixable=False),
    Row("grant one that is there", Grant(HELD, 10_000_000, 8), (), prefixable=False),
    Row("keep alive", KeepAlive(KEEPER), (), prefixable=False),
    Row("renew", Renew(HELD, 0), HELD_KEYS, prefixable=False),
    Row("renew and take over", Renew(HELD, 8), HELD_KEYS, prefixable=False),
    Row("renew a member's without keys", Renew(EMPTY, 0), root=True, prefixable=False),
    Row("renew one that is missing", Renew(MISSING, 0), (), prefixable=False),
    Row("renew a ttl", Renew(PASSING, 0), (writes(b"ttl"),), prefixable=False),
    Row("revoke", Revoke(HELD), HELD_KEYS, prefixable=False),
    Row("revoke as its keeper", Revoke(HELD, KEEPER), HELD_KEYS, prefixable=False),
    Row("revoke as another keeper", Revoke(HELD, 8), HELD_KEYS, prefixable=False),
    Row("revoke a member's without keys", Revoke(EMPTY), root=True, prefixable=False),
    Row("revoke one that is missing", Revoke(MISSING), (), prefixable=False),
    Row("add a member", ChangeMembers(add=(("d", "tcp://d:1"),)), root=True, prefixable=False),
    Row("remove a member", ChangeMembers(remove=("b",)), root=True, prefixable=False),
    Row("add a learner", ChangeMembers(learners=(("d", "tcp://d:1"),)), root=True, prefixable=False),
    Row("promote", ChangeMembers(promote=("b",)), root=True, prefixable=False),
    Row("raise the level", Level(), root=True, prefixable=False),
)

AUTHS: Final = tuple(
    Row(name, ChangeAuth(what, arguments), root=True, prefixable=False)
    for name, what, arguments in (
        ("enable", wire.ENABLE, ()),
        ("disable", wire.DISABLE, ()),
        ("add a user", wire.ADD_USER, ("new", b"")),
        ("delete a user", wire.DELETE_USER, ("victim",)),
        ("change a password", wire.CHANGE_PASSWORD, ("victim", b"hash")),
        ("grant a role", wire.GRANT_ROLE, ("victim", "spare")),
        ("revoke a role", wire.REVOKE_ROLE, ("victim", "held")),
        ("add a role", wire.ADD_ROLE, ("new",)),
        ("delete a role", wire.DELETE_ROLE, ("spare",)),
        ("grant a permission", wire.GRANT_PERMISSION, ("spare", READ, b"a", b"b")),
        ("revoke a permission", wire.REVOKE_PERMISSION, ("spare", b"x", b"y")),
        ("add a token", wire.ADD_TOKEN, (bytes(32), "victim", 1 << 40, 1_000_000)),
    )
)

ROWS: Final = (*PUTS, *ADDS, *DELETES, *GETS, *COMPARES, *TXNS, *RESERVED, *OUTERMOST, *AUTHS)

# -- nested forms ------------------------------------------------------------------------------------------------------------------

_NO: Final = (b"cmp", b"cmp\x00", wire.VERSION, wire.EQUAL, 0)
"""A condition that does not hold: the key is there."""
_COMPARED: Final = reads(b"cmp")


class Form(NamedTuple):
    """An operation with what is around it, and what all that needs."""

    name: str
    packed: Raw
    needs: Needs


def _then(packed: Raw) -> Raw:
    return (wire.TXN, (), (packed,), ())


def _otherwise(packed: Raw) -> Raw:
    return (wire.TXN, (_NO,), (), (packed,))


def forms(row: Row) -> Iterator[Form]:
    """Yield a row's operation in all its nested forms; where it stands in a branch it needs what it needs, taken or not."""
    packed, needs = row.packed, (*row.needs, *row.whole)
    yield Form("plain", packed, needs)
    if not row.prefixable:
        return
    yield Form("then", _then(packed), needs)
    yield Form("otherwise", _otherwise(packed), (*needs, _COMPARED))
    yield Form("then, not taken", (wire.TXN, (_NO,), (packed,), ()), (*needs, _COMPARED))
    yield Form("otherwise, not taken", (wire.TXN, (), (), (packed,)), needs)
    yield Form("after others", (wire.TXN, (), (Get(b"z").to_wire(), packed), (Get(b"z").to_wire(),)), (*needs, reads(b"z")))
    room = wire.TXN_DEPTH - _depth(packed)
    yield Form("2 deep", _then(_otherwise(packed)), (*needs, _COMPARED))
    if room >= 2:
        deep = packed
        for level in range(room):
            deep = _otherwise(deep) if level % 2 else _then(deep)
        assert _depth(deep) == wire.TXN_DEPTH
        yield Form("as deep as can be", deep, (*needs, _COMPARED))
        yield Form("as deep as can be, not taken", _untaken(packed, room), needs)
    yield from _conditional(packed, needs)
    below = wire.below(packed, b"ns/")
    shifted = (*(_below(need, b"ns/") for need in row.needs), *row.whole)
    yield Form("in a namespace", below, shifted)
    yield Form("in a namespace, 2 deep", _otherwise(_then(below)), (*shifted, _COMPARED))


def _untaken(packed: Raw, room: int) -> Raw:
    for _ in range(room):
        packed = (wire.TXN, (), (), (packed,))
    return packed


def _conditional(packed: Raw, needs: Needs) -> Iterator[Form]:
    """Under EXPECT and GUARD, as far as those may be there; alone and in a branch."""
    kind = packed[0]
    single = kind in (wire.PUT, wire.PUT_WITH) or (kind == wire.DELETE and packed[2] == packed[1] + b"\x00")
    under = []
    if single:
        key = packed[1]
        under.append(Form("under EXPECT", (wire.EXPECT, key, 1, packed), (*needs, reads(key))))
        expected = (wire.EXPECT, key, 1, packed)
        under.append(Form("under GUARD and EXPECT", (wire.GUARD, b"lock", LOCK.create_revision, expected), (*needs, reads(key), reads(L))))
    if kind in (wire.PUT, wire.PUT_WITH, wire.DELETE, wire.EXPECT):
        under.append(Form("under GUARD", (wire.GUARD, b"lock", LOCK.create_revision, packed), (*needs, reads(L))))
    for form in under:
        yield form
        yield Form(f"{form.name}, in then", _then(form.packed), form.needs)
        yield Form(f"{form.name}, not taken", (wire.TXN, (), (), (form.packed,)), form.needs)


def _depth(packed: Raw) -> int:
    if packed[0] in wire.CONDITIONAL:
        return _depth(packed[3])
    if packed[0] != wire.TXN:
        return 0
    return 1 + max((_depth(inner) for branch in packed[2:] for inner in branch), default=0)


def _below(need: Need, prefix: bytes) -> Need:
    return Need(need.mode, prefix + need.start, b"ns0" if need.end is None else prefix + need.end)


# -- users -------------------------------------------------------------------------------------------------------------------------

Grants: TypeAlias = tuple[tuple[Need, ...], ...]
"""What the roles of a user allow: a list for each of them."""


def covered(need: Need, grants: Grants) -> bool:
    """Tell whether what is granted, taken together, holds all keys of a need: from its start on, what reaches furthest goes on."""
    at = need.start
    while True:
        reaching = [end for role in grants for mode, start, end in role if mode == need.mode and start <= at and (end is None or end > at)]
        if not reaching:
            return False
        if None in reaching:
            return True
        at = max(end for end in reaching if end is not None)
        if need.end is not None and at >= need.end:
            return True


class Principal(NamedTuple):
    """Somebody with rights.

    ``grants``: by role; None: the role root.
    """

    name: str
    grants: Grants | None

    def may(self, needs: Iterable[Need]) -> bool:
        return self.grants is None or all(covered(need, self.grants) for need in needs)


EVERYTHING: Final[Grants] = ((Need(READ, b"\x00", None), Need(WRITE, b"\x00", None)),)


def principals(needs: Needs) -> Iterator[Principal]:
    """Yield everybody who is at an edge of what something needs: has exactly that, or all but a little of it."""
    yield Principal("root", None)
    yield Principal("everything", EVERYTHING)
    yield Principal("nothing", ())
    yield Principal("another key", (tuple(Need(mode, b"quite/another", b"quite/another\x00") for mode in (READ, WRITE)),))
    distinct = tuple(dict.fromkeys(needs))
    yield Principal("exactly", (distinct,))
    yield Principal("a role for each", tuple((need,) for need in distinct))
    for at, need in enumerate(distinct):
        rest = distinct[:at] + distinct[at + 1 :]
        for name, instead in _instead(need):
            yield Principal(f"{need}: {name}", ((*rest, *instead[:1]), instead[1:]))


def _instead(need: Need) -> Iterator[tuple[str, tuple[Need, ...]]]:
    mode, start, end = need
    yield "missing", ()
    yield "the other mode", (need._replace(mode=OTHER[mode]),)
    after = start + b"\x00"
    yield "one key later", (Need(mode, after, after + b"\x00" if end == after else end),)
    yield "from the key behind on", (Need(mode, after, None),)
    yield "up to its start", (Need(mode, b"\x00", start),)
    before = _just_before(start)
    yield "one key earlier", (Need(mode, before, start),)
    yield "the prefix of its start", (Need(mode, start, start + b"\x00"),)
    yield "from its start on", (Need(mode, start, None),)
    yield "from before its start on", (Need(mode, before, None),)
    if end != after:
        last = _just_before(end) if end is not None else b"\xff" * 40
        middle = start + b"5"
        yield "but for the last", (Need(mode, start, last),)
        yield "in two that touch", (Need(mode, start, middle), Need(mode, middle, end))
        yield "in two that overlap", (Need(mode, start, middle + b"5"), Need(mode, middle, end))
        yield "in two with a gap of one key", (Need(mode, start, middle), Need(mode, middle + b"\x00", end))
        yield "of two modes", (Need(mode, start, middle), Need(OTHER[mode], middle, end))


def _just_before(key: bytes) -> bytes:
    """Return a key just before another one; there are infinitely many between any two but a key and its continuation."""
    if key.endswith(b"\x00"):
        return key[:-1] or b"\x00"
    return key[:-1] + bytes([key[-1] - 1]) + b"\xff" * 4


def users_of(everybody: Iterable[tuple[str, Principal]]) -> Iterator[Raw]:
    """Yield the commands that make users of principals, without password; and a few who are there to be changed."""
    yield auth(wire.ADD_USER, "root", b"")
    yield auth(wire.ADD_USER, "victim", b"")
    for role in ("held", "spare"):
        yield auth(wire.ADD_ROLE, role)
    yield auth(wire.GRANT_PERMISSION, "spare", READWRITE, b"x", b"y")
    yield auth(wire.GRANT_ROLE, "victim", "held")
    for name, principal in everybody:
        yield auth(wire.ADD_USER, name, b"")
        if principal.grants is None:
            yield auth(wire.GRANT_ROLE, name, "root")
        for number, granted in enumerate(principal.grants or ()):
            yield from _role_of(f"{name}/{number}", granted)
            yield auth(wire.GRANT_ROLE, name, f"{name}/{number}")
    yield auth(wire.ENABLE)


def _role_of(name: str, needs: Iterable[Need]) -> Iterator[Raw]:
    yield auth(wire.ADD_ROLE, name)
    modes: dict[Span, int] = {}
    for mode, start, end in needs:
        modes[Span(start, end)] = modes.get(Span(start, end), 0) | mode
    for span, mode in modes.items():
        if span.end is None or span.start < span.end:
            yield auth(wire.GRANT_PERMISSION, name, mode, *span)


def facts(machine: Machine, *, owners: bool = True) -> tuple[Any, ...]:
    """Return all there is but the place in the log and the sessions; perhaps without who owns leases, which depends on who asks."""
    version, place, last_id, leases, *rest = machine.outline()
    if not owners:
        leases = tuple(row[:-1] for row in leases)
    base, events, history = machine.store.pin()
    return (version, place[4:], last_id, leases, *rest, list(base), list(events), history, machine.store.compacted)

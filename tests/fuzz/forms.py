"""Bytes as the real code writes them, in every form that members read: what fuzzing begins with."""

from __future__ import annotations

import typing
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

from attrs import frozen

from replkv import codec, errors, letters, ops, wire
from replkv import messages as m
from replkv.auth_ops import ChangeAuth
from replkv.config import Settings
from replkv.disk import MemoryDisk
from replkv.founding import founding_entry
from replkv.kv import run
from replkv.log import Log
from replkv.machine import Machine
from replkv.member_ops import ChangeMembers
from replkv.messages import About, Configuration, Entry, EntryKind, HardState, SnapshotMeta
from replkv.ops import Key
from replkv.snapshot import SnapshotFile, SnapshotWriter
from replkv.values import Event, KeyValue

CLUSTER = bytes(range(16))
MEMBERS = {"a": 7, "b": 1 << 63, "c": 9}
ADDRESSES = {"a": "tcp://a:1", "c": "tcp://[::1]:65535"}
CONFIGURATION = Configuration(("a", "b"), ("b", "c"), ("ä",), {**MEMBERS, "ä": (1 << 64) - 1}, {**ADDRESSES, "ä": "inproc://x"})
META = SnapshotMeta(5, 2, CONFIGURATION)
SEGMENT = 4096

COUNTS = (0, 1, 2, 9, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 63) - 1)
"""Numbers at the edges of their encodings, as far as members take them."""

LEASE, KEEPER = 9, 77
GUARD = ops.Guard("k", 3)


# -- commands ----------------------------------------------------------------------------------------------------------------------


@cache
def operations() -> tuple[Any, ...]:
    """One command of every kind and form."""
    put, kept = ops.Put("k", "v", prev_kv=True), ops.Put("k", ops.KEEP, ttl=5)
    delete, scan = ops.Delete(prefix="a"), ops.Scan(prefix="k", limit=3, sort_by="mod", descending=True, min_mod_revision=2)
    inner = ops.Txn(compare=[Key(prefix="k").mod_revision < 9], then=[ops.Get("k", revision=2)], otherwise=[delete])
    return (
        put,
        kept,
        ops.Put("k", "w", lease=LEASE),
        ops.Put("k", ops.KEEP, lease=ops.KEEP),
        ops.Put("k", "x", if_mod_revision=2),
        ops.Delete("k", prev_kv=True, if_mod_revision=3),
        ops.Put("k", "y", guard=GUARD),
        ops.Delete(prefix="k", guard=GUARD),
        ops.Delete("k", if_mod_revision=3, guard=GUARD),
        delete,
        ops.Delete(start="b"),
        ops.Add("n", -3),
        ops.Get("k"),
        scan,
        ops.Scan(count_only=True),
        ops.Txn(compare=[Key("k").value == "v", Key("k").lease == LEASE, GUARD], then=[put, ops.Add("m"), inner], otherwise=[scan]),
        ops.Compact(2),
        ops.Grant(LEASE, 10_000_000, KEEPER),
        ops.Grant(0, 1, 0),
        ops.Renew(LEASE, 0),
        ops.KeepAlive(KEEPER),
        ops.Revoke(LEASE),
        ChangeMembers((("d", "tcp://d:1"),), ("b", "c"), (("a", ""), ("e", "inproc://e")), ("f",)),
        *changes_of_auth(),
        OnBehalf("ann", 7, put),
        OnBehalf("ann", 7, ops.Txn(then=[delete])),
    )


def changes_of_auth() -> tuple[ChangeAuth, ...]:
    return (
        ChangeAuth(wire.ADD_USER, ("root", b"hash")),
        ChangeAuth(wire.ADD_USER, ("ann", b"")),
        ChangeAuth(wire.ADD_ROLE, ("dev",)),
        ChangeAuth(wire.GRANT_ROLE, ("ann", "dev")),
        ChangeAuth(wire.GRANT_PERMISSION, ("dev", wire.READ, b"k", b"l")),
        ChangeAuth(wire.GRANT_PERMISSION, ("dev", wire.READWRITE, b"m", None)),
        ChangeAuth(wire.ENABLE),
        ChangeAuth(wire.ADD_TOKEN, (bytes(32), "ann", 9, 300_000_000)),
        ChangeAuth(wire.CHANGE_PASSWORD, ("root", b"other")),
        ChangeAuth(wire.REVOKE_PERMISSION, ("dev", b"k", b"l")),
        ChangeAuth(wire.REVOKE_ROLE, ("ann", "dev")),
        ChangeAuth(wire.DELETE_ROLE, ("dev",)),
        ChangeAuth(wire.DELETE_USER, ("ann",)),
        ChangeAuth(wire.DISABLE),
    )


@frozen
class OnBehalf:
    """An operation as a member's own caller asks for it in the name of a user."""

    user: str
    stamp: int
    operation: Any

    def to_wire(self) -> Any:
        return (wire.AS, self.user, self.stamp, self.operation.to_wire())


def batch(*commands: Any, session: int = 65536, sequence: int = 1) -> bytes:
    return codec.pack_batch(session, sequence, sequence, [codec.pack(command.to_wire()) for command in commands])


@cache
def batches() -> tuple[bytes, ...]:
    level = codec.pack_batch(65536, 1, 1, [codec.pack((wire.LEVEL, 1))])
    guests = (
        codec.pack_batch(0, 1 << 62, 0, (), ("", 0)),
        codec.pack_batch(65536, 1, 1, [codec.pack(ops.Put("k", "v").to_wire())], ("ann", 7)),
    )
    return (batch(), codec.pack_batch(0, 1 << 62, 0, ()), level, *guests, *map(batch, operations()), batch(*operations()))


@cache
def entries() -> tuple[Entry, ...]:
    configuration = codec.encode_configuration(CONFIGURATION)
    return (
        founding_entry(CLUSTER, MEMBERS, ADDRESSES, Settings()),
        codec.make_entry(2, 1, EntryKind.BLOCK, 1_000_000, codec.encode_block([])),
        codec.make_entry(3, 1, EntryKind.BLOCK, 1_000_000, codec.encode_block(batches())),
        codec.make_entry(4, 2, EntryKind.CONFIGURATION, 2_000_000, configuration),
        codec.make_entry(5, 2, EntryKind.BLOCK, 2_000_000, codec.encode_block([batch(ops.Put("k", bytes(3000)))])),
    )


# -- messages ----------------------------------------------------------------------------------------------------------------------

_OF_TYPE: dict[Any, Callable[[Random], Any]] = {
    int: lambda rng: rng.choice(COUNTS),
    bool: lambda rng: rng.random() < 0.5,
    str: lambda rng: rng.choice(("", "a", "b", "ä")),
    bytes: lambda rng: CLUSTER,
    Configuration: lambda rng: CONFIGURATION,
    SnapshotMeta: lambda rng: META,
    Entry: lambda rng: rng.choice(entries()),
    About: lambda rng: About(rng.choice(("", "tcp://a:1")), *rng.choices(COUNTS, k=3)),
    dict[str, str]: lambda rng: dict(rng.sample(sorted(ADDRESSES.items()), rng.randrange(3))),
    tuple[int, int]: lambda rng: (rng.choice(COUNTS), rng.choice(COUNTS)),
    tuple[str, ...]: lambda rng: tuple(rng.sample(("a", "b", "c"), rng.randrange(4))),
    tuple[bytes, ...]: lambda rng: tuple(rng.choices(batches(), k=rng.randrange(3))),
    tuple[Entry, ...]: lambda rng: tuple(rng.choices(entries(), k=rng.randrange(3))),
}
"""How fields of messages are drawn, by their types: a message that is added is fuzzed without another word."""

_OF_NAME: dict[str, Callable[[Random], Any]] = {"address": lambda rng: rng.choice(("", "tcp://a:1", "inproc://ä"))}
"""How those are drawn that are more than their types say."""


def message(kind: type, rng: Random) -> m.Message:
    """Draw a message of a kind."""
    hints = typing.get_type_hints(kind)
    names = [field.name for field in kind.__attrs_attrs__]  # type: ignore[attr-defined]
    drawn: m.Message = kind(**{name: _OF_NAME.get(name, _OF_TYPE[hints[name]])(rng) for name in names})
    return drawn


MESSAGES: tuple[type, ...] = tuple(codec._WRITERS)


@cache
def frames() -> tuple[bytes, ...]:
    rng = Random(1)
    return tuple(codec.encode_frame(CLUSTER, 7, 9, message(kind, rng)) for kind in MESSAGES for _ in range(3))


# -- letters -----------------------------------------------------------------------------------------------------------------------


def _in_frames(*said: letters.Letter) -> tuple[bytes, ...]:
    return tuple(letters.encode_frame(number, [letters.encode_letter(letter)]) for number, letter in enumerate(said))


@cache
def requests() -> tuple[bytes, ...]:
    reads = [operation for operation in operations() if isinstance(operation, (ops.Get, ops.Scan))]
    return _in_frames(
        letters.Hello(1, letters.VERSION, 1 << 61),
        letters.Hello(1, letters.VERSION, 1 << 61, "ann"),
        letters.Prove(1, bytes(letters.TOKEN), b""),
        letters.Prove(2, b"", b"password"),
        letters.Inspect(3, letters.INSPECT_STATUS),
        letters.Inspect(3, letters.INSPECT_ROLE, "dev"),
        *(letters.Batch(2, data) for data in batches()[:4]),
        letters.Look(3, letters.LEASE_KEYS, LEASE),
        letters.Look(3, letters.SETTLED),
        letters.Look(3, letters.OUTLINE),
        letters.Pull(4, b"k", None, 3),
        letters.Pull(5, b"k", b"k\0", 3, 1, deletes=False, prev_kv=True, synced=True),
        letters.Cancel(6),
        letters.Ping(7),
        letters.HandOver(7, "b"),
        letters.HandOver(7, ""),
        *(letters.Read(8, read.to_wire(), how) for read in reads for how in letters.CONSISTENCIES),
        letters.Read(9, ops.Txn(compare=[Key("k").value == "v"], then=reads).to_wire(), "local", 5_000_000, 3),
    )


@cache
def replies() -> tuple[bytes, ...]:
    pair = KeyValue(b"k", b"v", 2, 3, 2, LEASE)
    events = (Event("put", pair, None, 3), Event("delete", pair, pair, 4, expired=True))
    refused = errors.Conflict("text", pair)
    return _in_frames(
        letters.Welcome(1, letters.VERSION, "a", CLUSTER, 7, Settings(), {"a": "tcp://a:1", "b": "tcp://b:1"}, 3),
        letters.Ask(1),
        letters.Welcome(1, letters.VERSION, "a", CLUSTER, 7, Settings(), {}, 3, "ann", 5, bytes(letters.TOKEN)),
        letters.Outcome(2, 0, 5, (), 65536),
        letters.Outcome(3, 65536, 1, None, 0, expired=True),
        letters.Outcome(4, 65536, 1, ((0, 3, tuple(pair)), (1, (3,), 5))),
        letters.Pong(5, 3, 1000, "a", ("b", "c"), "; not reachable: b"),
        letters.Pong(6, 3, None, None, (), ""),
        *(letters.Failed(7, error) for error in (refused, errors.Compacted("text", 5), errors.NoLeader("text", ("b",)))),
        letters.Part(8, bytes(40), False),
        letters.Answer(9, (0, tuple(pair))),
        letters.Events(10, events, 5, 0, True),
    )


# -- states ------------------------------------------------------------------------------------------------------------------------


def machine() -> Machine:
    """A machine that holds something of everything: history, a base, leases, keepers, answers."""
    made = Machine()
    steps = [
        [],
        [codec.pack_batch(0, 5, 0, ())],
        [batch(ops.Grant(LEASE, 10_000_000, KEEPER), ops.Put("base", "1"), ops.Put("k", "1"), ops.Put("gone", "1"), session=SESSION)],
        [batch(ops.Put("k", "2", lease=LEASE), ops.Put("p", "", ttl=60), ops.KeepAlive(KEEPER), session=SESSION, sequence=2)],
        [batch(ops.Delete("gone"), ops.Add("n", 5), ops.Compact(4), ops.Grant(0, 5, 0), session=SESSION, sequence=3)],
        [batch(ops.Txn(then=[ops.Put("x", "1"), ops.Put("y", "2")]), session=SESSION, sequence=4)],
    ]
    run(made.apply(entries()[0]))
    for index, batches_ in enumerate(steps, 2):
        run(made.apply(codec.make_entry(index, 1, EntryKind.BLOCK, index * 1000, codec.encode_block(batches_))))
    return made


SESSION = 3 << 16
"""The session that ``machine`` knows."""


@cache
def dump() -> bytes:
    return b"".join(machine().dump())


def snapshot_on(disk: MemoryDisk, meta: SnapshotMeta = META) -> SnapshotFile:
    content = dump()
    writer = SnapshotWriter(disk, meta, CLUSTER, [content[:200], content[200:]])
    while (file := writer.step()) is None:
        pass
    return file


def content(disk: MemoryDisk, name: str) -> bytes:
    return disk.read(name, 0, disk.size(name))


@cache
def snapshot() -> tuple[SnapshotFile, bytes]:
    """A snapshot file, and what it says of itself."""
    disk = MemoryDisk()
    file = snapshot_on(disk)
    return file, content(disk, file.name)


@cache
def log_files() -> dict[str, bytes]:
    """The files of a member ``a`` of incarnation 7: two segments, and the snapshot they point to."""
    disk = MemoryDisk()
    log, _ = Log.open(disk, "a", 7, SEGMENT)
    log.found(entries()[0])
    log.append(HardState(2, "b"), entries()[1:])
    log.sync()
    log.snapshot_taken(snapshot_on(disk), 1)
    for index in range(6, 12):
        log.append(HardState(index, None), [codec.make_entry(index, 2, EntryKind.BLOCK, 3_000_000, bytes(100))])
        log.sync()
    return {name: content(disk, name) for name in disk.list()}

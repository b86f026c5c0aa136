"""The few messages of etcd's API that are needed, by hand: protobuf is tags, varints and lengths.

Field numbers are those of etcd's ``rpc.proto``, ``kv.proto`` and ``v3lock.proto`` (API version 3).  Of the answers only what is needed
is decoded: an advantage for etcd, whose real clients decode them all.  Large answers are those of ``etcd_messages.py``.
"""

from __future__ import annotations

from attrs import frozen

PUT = "/etcdserverpb.KV/Put"
RANGE = "/etcdserverpb.KV/Range"
TXN = "/etcdserverpb.KV/Txn"
WATCH = "/etcdserverpb.Watch/Watch"
STATUS = "/etcdserverpb.Maintenance/Status"
GRANT = "/etcdserverpb.Lease/LeaseGrant"
LOCK = "/v3lockpb.Lock/Lock"
UNLOCK = "/v3lockpb.Lock/Unlock"

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(number: int) -> bytes:
    """Encode a number, seven bits to a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def bytes_field(number: int, data: bytes) -> bytes:
    """Encode a field of bytes."""
    return bytes([number << 3 | BYTES]) + varint(len(data)) + data


def put_request(key: bytes, value: bytes) -> bytes:
    """Encode a PutRequest."""
    return bytes_field(1, key) + bytes_field(2, value)


def range_request(key: bytes, *, serializable: bool) -> bytes:
    """Encode a RangeRequest of one key."""
    return bytes_field(1, key) + (b"\x38\x01" if serializable else b"")


def scan_request(prefix: bytes, limit: int) -> bytes:
    """Encode a RangeRequest of the keys that begin with ``prefix``, from the member's own state."""
    return bytes_field(1, prefix) + bytes_field(2, prefix[:-1] + bytes([prefix[-1] + 1])) + _number_field(3, limit) + b"\x38\x01"


def swap_request(key: bytes, revision: int, value: bytes) -> bytes:
    """Encode a TxnRequest: put if the key was last changed at ``revision``, or else read it."""
    compare = b"\x10\x02" + bytes_field(3, key) + _number_field(6, revision)  # target MOD; the result, EQUAL, is the default
    then, otherwise = bytes_field(2, put_request(key, value)), bytes_field(1, range_request(key, serializable=False))
    return bytes_field(1, compare) + bytes_field(2, then) + bytes_field(3, otherwise)


@frozen
class Swapped:
    """What is needed of the TxnResponse to ``swap_request``.

    Args:
        succeeded: it was put.
        revision: that the key is at now.
        value: that it has, if it was not put.
    """

    succeeded: bool
    revision: int
    value: bytes

    @classmethod
    def decode(cls, data: bytes) -> Swapped:
        """Decode a TxnResponse."""
        response = fields(data)
        if response.get(2):
            return cls(True, _integer(_inside(response, 1), 3), b"")
        pair = _inside(_inside(_inside(response, 3), 1), 2)
        value = pair.get(5, b"")
        return cls(False, _integer(pair, 3), value if isinstance(value, bytes) else b"")


def _inside(message: dict[int, int | bytes], number: int) -> dict[int, int | bytes]:
    """Decode a message that is a field of another; without it, all its fields are missing."""
    encoded = message.get(number, b"")
    return fields(encoded) if isinstance(encoded, bytes) else {}


def _integer(message: dict[int, int | bytes], number: int) -> int:
    value = message.get(number, 0)
    return value if isinstance(value, int) else 0


def watch_request(key: bytes) -> bytes:
    """Encode a WatchRequest that begins to watch a key."""
    return bytes_field(1, bytes_field(1, key))


def _number_field(number: int, value: int) -> bytes:
    return bytes([number << 3 | VARINT]) + varint(value)


def grant_request(ttl: int, lease: int) -> bytes:
    """Encode a LeaseGrantRequest: seconds, and the number that the lease is to have."""
    return _number_field(1, ttl) + _number_field(2, lease)


def lock_request(name: bytes, lease: int) -> bytes:
    """Encode a LockRequest: the lock, and the lease that it hangs on."""
    return bytes_field(1, name) + _number_field(2, lease)


def unlock_request(locked: bytes) -> bytes:
    """Encode the UnlockRequest that gives back what a LockResponse gave."""
    key = fields(locked).get(2)
    if not isinstance(key, bytes):
        raise TypeError("this is no LockResponse")
    return bytes_field(1, key)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def fields(data: bytes) -> dict[int, int | bytes]:
    """Decode a message's fields; of a repeated one the last counts."""
    found: dict[int, int | bytes] = {}
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == VARINT:
            found[tag >> 3], at = _read_varint(data, at)
            continue
        size, at = _read_varint(data, at) if kind == BYTES else ({FIXED64: 8, FIXED32: 4}[kind], at)
        found[tag >> 3] = data[at : at + size]
        at += size
    return found


@frozen
class EtcdStatus:
    """What is needed of a StatusResponse: who answers, and whom it takes for the leader (0: nobody)."""

    member: int
    leader: int

    @classmethod
    def decode(cls, data: bytes) -> EtcdStatus:
        """Decode a StatusResponse."""
        response = fields(data)
        header = response.get(1, b"")
        member = fields(header).get(2, 0) if isinstance(header, bytes) else 0
        leader = response.get(4, 0)
        if not isinstance(member, int) or not isinstance(leader, int):
            raise TypeError("this is no StatusResponse")
        return cls(member, leader)


def found_value(data: bytes) -> bytes | None:
    """Return the value in the RangeResponse of one key, None if the key is not there."""
    pair = fields(data).get(2)
    value = fields(pair).get(5, b"") if isinstance(pair, bytes) else None
    return value if isinstance(value, bytes) else None

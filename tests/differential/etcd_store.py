"""Steps done by etcd: each becomes a request of its JSON gateway, each answer a result of replkv's with relative revisions."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import steps
from etcd_server import EtcdRefusal, EtcdServer, EtcdStream, Json, to_data, to_text
from steps import Refused, Seen, Where

from replkv import DeleteResult, KeyValue, PutResult, ScanResult, TxnResult

_KINDS = {
    "etcdserver: mvcc: required revision has been compacted": "Compacted",
    "etcdserver: mvcc: required revision is a future revision": "FutureRevision",
    "etcdserver: duplicate key given in txn request": "DuplicateKey",
    "etcdserver: too many operations in txn request": "TooManyOps",
    "etcdserver: request is too large": "TooLarge",
    "etcdserver: key not found": "KeyNotFound",
    "etcdserver: requested lease not found": "LeaseNotFound",
    "etcdserver: lease already exists": "LeaseExists",
    "etcdserver: permission denied": "PermissionDenied",
}
"""etcd's error texts, which are part of its API, and the errors of replkv that they are compared with."""

_RANGE = "range"
_PATHS = {"put": "/v3/kv/put", _RANGE: "/v3/kv/range", "delete_range": "/v3/kv/deleterange", "txn": "/v3/kv/txn"}
_RESULTS = {"==": "EQUAL", "!=": "NOT_EQUAL", ">": "GREATER", "<": "LESS"}
_TARGETS = {"version": "VERSION", "create_revision": "CREATE", "mod_revision": "MOD", "value": "VALUE", "lease": "LEASE"}
_BOUNDS = ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision")

FROM_KEY = b"\x00"
"""etcd's end of a range that has none; as a key, the first of all."""
ALL_KEYS = {"key": to_text(FROM_KEY), "range_end": to_text(FROM_KEY)}


def refused(refusal: EtcdRefusal) -> Refused:
    """Return which error of replkv a refusal of etcd's is like; other refusals are raised."""
    if str(refusal) not in _KINDS:
        raise refusal
    return Refused(_KINDS[str(refusal)])


def behind_prefix(prefix: bytes) -> bytes:
    """Return the end of the range of all keys with a prefix (etcd's ``clientv3.GetPrefixRangeEnd``)."""
    for at in reversed(range(len(prefix))):
        if prefix[at] < 0xFF:
            return prefix[:at] + bytes([prefix[at] + 1])
    return FROM_KEY


def key_range(where: Where) -> Json:
    """Return the key and the end of a range."""
    if where.key is not None:
        return {"key": to_text(where.key)}
    if where.prefix:
        return {"key": to_text(where.prefix), "range_end": to_text(behind_prefix(where.prefix))}
    return {"key": to_text(where.start or FROM_KEY), "range_end": to_text(where.end or FROM_KEY)}


class EtcdStore:
    """etcd, as the plays see it.

    Args:
        server: it runs, and nobody else uses it.
    """

    def __init__(self, server: EtcdServer) -> None:
        self.server = server
        self.base = 0
        self._revision = 0

    @property
    def loses_deletions(self) -> bool:
        """Whether a compaction takes deletions at its very revision away from watches (etcd before 3.4.34 and 3.5.16, issue 18089)."""
        return self.server.version < (3, 4, 34) or (3, 5) <= self.server.version < (3, 5, 16)

    @property
    def revision(self) -> int:
        """The store's revision, as the last answer told it."""
        return self._revision - self.base

    def clear(self) -> None:
        """Leave no key, no lease and no history, and count revisions from here."""
        for lease in self.call("/v3/lease/leases", {}).get("leases", []):
            self.call("/v3/lease/revoke", {"ID": lease["ID"]})
        self.call("/v3/kv/put", {"key": to_text(b"cleared")})
        self.call("/v3/kv/deleterange", ALL_KEYS)
        self.call("/v3/kv/compaction", {"revision": self._revision, "physical": True})
        self.base = self._revision

    def call(self, path: str, request: Json) -> Json:
        """Send a request, and note the revision that comes with its answer."""
        answer = self.server.call(path, request)
        self._revision = int(answer.get("header", {}).get("revision", self._revision))
        return answer

    def do(self, step: steps.Step) -> Any:
        """Carry out a step and return its result; where etcd has none to give, None."""
        try:
            return self._do(step)
        except EtcdRefusal as refusal:
            return refused(refusal)

    def _do(self, step: steps.Step) -> Any:
        match step:
            case steps.Compact(revision):
                self.call("/v3/kv/compaction", {"revision": self._absolute(revision), "physical": True})
            case steps.Grant(lease, ttl):
                answer = self.call("/v3/lease/grant", {"ID": lease, "TTL": ttl})
                return int(answer["ID"]), int(answer["TTL"])
            case steps.Renew(lease):
                return self._renew(lease)
            case steps.Revoke(lease):
                self.call("/v3/lease/revoke", {"ID": lease})
            case steps.TimeToLive(lease):
                return self._time_to_live(lease)
            case steps.If():
                return self._do_if(step)
            case steps.Leases():
                found = self.call("/v3/lease/leases", {}).get("leases", [])
                return sorted(int(lease["ID"]) for lease in found)
            case _:
                name, request = self._request(step)
                return self._result(step, self.call(_PATHS[name], request))
        return None

    def _do_if(self, step: steps.If) -> Any:
        """Do what etcd has for it: a transaction that reads the key if it is not at the revision."""
        key = step.then.key if isinstance(step.then, steps.Put) else step.then.where.key
        assert key is not None
        compare = steps.Compare(Where(key=key), "mod_revision", "==", step.mod_revision)
        result = self._do(steps.Txn((compare,), (step.then,), (steps.Get(key),)))
        return result.responses[0] if result.succeeded else Refused("Conflict", current=result.responses[0])

    def _renew(self, lease: int) -> int | Refused:
        with closing(self.server.stream("/v3/lease/keepalive", {"ID": lease})) as stream:
            return int(stream.next().get("TTL", 0)) or Refused("LeaseNotFound")

    def _time_to_live(self, lease: int) -> tuple[int, list[bytes]] | Refused:
        answer = self.call("/v3/lease/timetolive", {"ID": lease, "keys": True})
        left = int(answer["TTL"])
        if left == -1:
            return Refused("LeaseNotFound")
        granted = int(answer["grantedTTL"])
        assert granted - steps.A_PLAY <= left <= granted
        return granted, sorted(map(to_data, answer.get("keys", [])))

    # -- requests --

    def _absolute(self, revision: int | None) -> int:
        return 0 if revision is None else self.base + revision

    def _request(self, step: steps.Operation) -> tuple[str, Json]:
        match step:
            case steps.Put():
                return "put", self._put(step)
            case steps.Get(key, revision, consistency):
                return _RANGE, {"key": to_text(key), "revision": self._absolute(revision), "serializable": consistency == "local"}
            case steps.Scan():
                return _RANGE, self._scan(step)
            case steps.Delete(where, prev_kv):
                return "delete_range", {**key_range(where), "prev_kv": prev_kv}
            case steps.Txn(compares, then, otherwise):
                branches = {"success": list(map(self._inner, then)), "failure": list(map(self._inner, otherwise))}
                return "txn", {"compare": list(map(self._compare, compares)), **branches}

    def _inner(self, step: steps.Operation) -> Json:
        name, request = self._request(step)
        return {f"request_{name}": request}

    def _put(self, step: steps.Put) -> Json:
        request: Json = {"key": to_text(step.key), "prev_kv": step.prev_kv}
        request |= {"ignore_value": True} if step.value is None else {"value": to_text(step.value)}
        return request | ({"ignore_lease": True} if step.lease is None else {"lease": step.lease})

    def _scan(self, step: steps.Scan) -> Json:
        # Three ways of etcd's: by what the index has, by what it has up to the limit, and by sorting all there is.
        order = "DESCEND" if step.descending else "NONE" if step.sort_by == "key" else "ASCEND"
        return {
            **key_range(step.where),
            "limit": step.limit,
            "revision": self._absolute(step.revision),
            "sort_order": order,
            "sort_target": step.sort_by.upper(),
            "keys_only": step.keys_only,
            "count_only": step.count_only,
            "serializable": step.consistency == "local",
            **{bound: self._absolute(getattr(step, bound)) for bound in _BOUNDS},
        }

    def _compare(self, compare: steps.Compare) -> Json:
        operand = compare.operand
        if isinstance(operand, bytes):
            value: str | int = to_text(operand)
        elif compare.target in ("create_revision", "mod_revision"):
            value = self._absolute(operand)
        else:
            value = operand or 0
        kind = {"target": _TARGETS[compare.target], "result": _RESULTS[compare.relation]}
        return {**key_range(compare.where), **kind, compare.target: value}

    # -- answers --

    def _result(self, step: steps.Operation, answer: Json) -> Any:
        revision = int(answer.get("header", {}).get("revision", 0)) - self.base
        match step:
            case steps.Put():
                return PutResult(revision, self._pair(answer.get("prev_kv")))
            case steps.Get():
                return next(iter(self._pairs(answer.get("kvs", []))), None)
            case steps.Scan():
                return ScanResult(self._pairs(answer.get("kvs", [])), int(answer.get("count", 0)), answer.get("more", False), revision)
            case steps.Delete():
                return DeleteResult(int(answer.get("deleted", 0)), revision, self._pairs(answer.get("prev_kvs", [])))
            case steps.Txn(_, then, otherwise):
                succeeded = answer.get("succeeded", False)
                branch = then if succeeded else otherwise
                pairs = zip(branch, answer.get("responses", []), strict=True)
                return TxnResult(succeeded, revision, tuple(self._inner_result(inner, response) for inner, response in pairs))

    def _inner_result(self, step: steps.Operation, response: Json) -> Any:
        ((_, answer),) = response.items()
        result = self._result(step, answer)
        # etcd gives a nested transaction no revision of its own.
        return TxnResult(result.succeeded, 0, result.responses) if isinstance(result, TxnResult) else result

    def _pairs(self, kvs: list[Json]) -> tuple[KeyValue, ...]:
        return tuple(pair for kv in kvs if (pair := self._pair(kv)) is not None)

    def _pair(self, kv: Json | None) -> KeyValue | None:
        if kv is None:
            return None
        create, mod, version, lease = (int(kv.get(name, 0)) for name in ("create_revision", "mod_revision", "version", "lease"))
        # A deletion has no create revision.
        return KeyValue(to_data(kv["key"]), to_data(kv.get("value", "")), create and create - self.base, mod - self.base, version, lease)

    # -- watches --

    def watch(self, step: steps.Watch) -> EtcdWatch:
        """Begin a watch; what it sees is told when it is collected."""
        request: Json = {**key_range(step.where), "start_revision": self._absolute(step.start_revision), "prev_kv": step.prev_kv}
        request["filters"] = [{"put": "NOPUT", "delete": "NODELETE"}[kind] for kind in ("put", "delete") if kind not in step.kinds]
        return EtcdWatch(self, self.server.stream("/v3/watch", {"create_request": request}))

    def seen(self, event: Json) -> Seen:
        """Return an event of a watch."""
        pair = self._pair(event["kv"])
        assert pair is not None
        return Seen("delete" if event.get("type") == "DELETE" else "put", pair, self._pair(event.get("prev_kv")))


class EtcdWatch:
    """A watch that etcd has begun."""

    def __init__(self, store: EtcdStore, stream: EtcdStream) -> None:
        self._store = store
        self._stream = stream
        answer = stream.next()
        if "cancel_reason" in answer:
            stream.close()
            raise EtcdRefusal(answer["cancel_reason"])
        assert answer.get("created"), "a watch begins by saying that it does"

    def close(self) -> None:
        """End it."""
        self._stream.close()

    def collect(self, last: int) -> list[Seen] | Refused:
        """Return all events up to a revision at which there is one, and end the watch."""
        events: list[Seen] = []
        with closing(self._stream):
            while not events or events[-1].kv.mod_revision < last:
                answer = self._stream.next()
                if answer.get("canceled"):
                    return Refused("Compacted", int(answer["compact_revision"]) - self._store.base)
                events += map(self._store.seen, answer["events"])
        return [event for event in events if event.kv.mod_revision <= last]

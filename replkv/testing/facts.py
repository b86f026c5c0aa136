"""What a call says by itself: which keys it is about, which pairs it was shown, which revision it made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from replkv.testing.history import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replkv.testing.blackbox import Call

Pair: TypeAlias = list[Any]
"""``[value, create_revision, mod_revision, version]``."""

VALUE, CREATE, MOD, VERSION = range(4)


class Part(NamedTuple):
    """One operation of a call: a call is one, a transaction has one for each step."""

    kind: str
    args: dict[str, Any]
    result: Any


def parts(call: Call) -> list[Part]:
    """Return what a call did; of a transaction without an answer what either branch would have done."""
    if call.kind != "txn":
        return [Part(call.kind, call.args, call.result)]
    if call.outcome != "ok":
        return [Part(kind, args, None) for branch in ("then", "otherwise") for kind, args in call.args[branch]]
    if refused(call.result):
        return []
    branch = call.args["then" if call.result["succeeded"] else "otherwise"]
    return [Part(kind, args, result) for (kind, args), result in zip(branch, call.result["responses"], strict=True)]


def puts(call: Call) -> list[tuple[str, str]]:
    """Return the keys and values a call put, or would have."""
    return [(part.args["key"], part.args["value"]) for part in parts(call) if part.kind == "put" and not refused(part.result)]


def put_keys(call: Call) -> set[str]:
    """Return the keys under which a call left something, or would have."""
    return {part.args["key"] for part in parts(call) if part.kind in ("put", "add") and not refused(part.result)}


def written(call: Call) -> set[str]:
    """Return the keys that a call changed, or would have."""
    return {part.args["key"] for part in parts(call) if part.kind in ("put", "add", "delete") and not refused(part.result)}


def sightings(call: Call) -> Iterator[tuple[str, Pair | None]]:
    """Yield what an answered call was shown of which key: its pair, None if there was none."""
    if call.outcome != "ok":
        return
    for part in parts(call):
        if part.kind == "get":
            yield part.args["key"], part.result
        elif part.kind == "scan":
            yield from part.result["pairs"].items()
        elif refused(part.result):
            if "conflict" in part.result:
                yield part.args["key"], part.result["conflict"]
        elif part.args.get("prev_kv"):
            yield part.args["key"], part.result.get("prev")


def refused(result: Any) -> bool:
    """Tell whether a result is that of a write that met another revision than it expected, or whose guard was lost."""
    return isinstance(result, dict) and ("conflict" in result or "lost" in result)


def may_write(call: Call) -> bool:
    """Tell whether a call may have changed anything."""
    if call.outcome == "ok":
        return made(call) is not None or call.kind == "revoke"
    return any(part.kind not in ("get", "scan") for part in parts(call))


def made(call: Call) -> int | None:
    """Return the revision that an answered call made; None if it made none, or nobody knows."""
    if call.outcome != "ok" or call.kind in ("get", "scan", "revoke") or refused(call.result):
        return None
    changed = any(part.kind in ("put", "add") or (part.kind == "delete" and part.result["deleted"]) for part in parts(call))
    return int(call.result["revision"]) if changed else None


def saw(call: Call) -> int | None:
    """Return the revision of the store that an answered call met without changing it; None if it made one, or did not tell."""
    knows = call.outcome == "ok" and isinstance(call.result, dict) and "revision" in call.result
    return int(call.result["revision"]) if knows and made(call) is None else None


def answer(call: Call) -> Any:
    """Return a call's result without the revisions of its writes, which are a matter of its place in the order.

    Raises:
        Violation: a transaction's writes have several revisions.
    """
    if call.kind == "get" or call.outcome != "ok":
        return call.result
    if call.kind == "txn" and not refused(call.result):
        for part in parts(call):
            if part.kind in ("put", "add") and part.result["revision"] != call.result["revision"]:
                raise Violation("T1", f"the writes of a transaction have several revisions: {call}")
        responses = [_answer(part) for part in parts(call)]
        return {"succeeded": call.result["succeeded"], "responses": responses}
    return _answer(Part(call.kind, call.args, call.result))


def _answer(part: Part) -> Any:
    if not isinstance(part.result, dict) or refused(part.result):
        return part.result
    told = {name: value for name, value in part.result.items() if name != "revision"}
    return told | {"prev": told.get("prev")} if part.args.get("prev_kv") else told


def keys_of(call: Call) -> set[str]:
    """Return the keys that a call names; those under a scan's prefix are not among them."""
    named = [args["key"] for _, args in _operations(call) if "key" in args] + [lock for lock, _ in guards(call)]
    shown = [key for key, _ in sightings(call)]
    return {*named, *shown, *(compare[0] for compare in call.args.get("compare", ()))}


def prefixes_of(call: Call) -> list[str]:
    """Return the prefixes that a call scans."""
    return [args["prefix"] for kind, args in _operations(call) if kind == "scan"]


def leases_of(call: Call) -> dict[Any, list[str]]:
    """Return the leases that a call hangs keys on, each with the keys."""
    found: dict[Any, list[str]] = {}
    for _, args in _operations(call):
        if args.get("lease") is not None and "key" in args:
            found.setdefault(args["lease"], []).append(args["key"])
    return found


def guards(call: Call) -> list[tuple[str, int]]:
    """Return the keys that guard what a call writes, each with the revision at which it must have been created."""
    return [(args["guard"][0], args["guard"][1]) for _, args in _operations(call) if "guard" in args]


def guesses(call: Call) -> Iterator[tuple[str, int]]:
    """Yield the revisions that a call names of its keys, in conditions that may have held."""
    if call.kind != "txn" and refused(call.result):
        return
    for _, args in _operations(call):
        if args.get("if_mod_revision"):
            yield args["key"], args["if_mod_revision"]
    yield from guards(call)
    for key, target, _, operand in call.args.get("compare", ()):
        if target in ("create_revision", "mod_revision") and operand:
            yield key, operand


def _operations(call: Call) -> list[tuple[str, dict[str, Any]]]:
    if call.kind != "txn":
        return [(call.kind, call.args)]
    return [(kind, args) for branch in ("then", "otherwise") for kind, args in call.args[branch]]

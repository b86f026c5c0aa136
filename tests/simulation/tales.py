"""Hand-made histories of real processes, each told in a line.

What stands further to the right is later.  ``put k 1 = 2`` is a call that returns at once; ``a: put k 1`` only begins, and ``a = 2`` is its
answer; ``a ?`` means that nobody knows what became of it, and ``a !`` that it failed.  What can be asked and answered:

=====================================================  ============================================================================
``get k = 1@2``                                        a pair: value, revision; ``3@2/5/4``: created at 2, changed at 5, version 4
``get k = -``                                          no such key
``put k 1 = 2``                                        the revision; ``= 3 prev 1@2`` after ``put k 2 prev``
``put k 2 if 2 = conflict 1@3``                        refused
``put k 1 held l@2 = 3``                               guarded by the key l that was created at 2; ``= lost`` if it is no more
``put k 1 lease L = 2``                                hangs on a lease; ``revoke L = 1``
``delete k = 3``                                       the revision; ``= 3 none``: there was nothing
``add n 5 = 2 7``                                      the revision and the new number
``scan k = 5: ka 1@2, kb 2@3``                         the revision and the pairs
``if k.mod==2 then put k 3, get j else get k = 5 yes``  the revision and the branch, then what it answered: ``= 5 yes: 5, 1@4``
=====================================================  ============================================================================
"""

from __future__ import annotations

import re
from typing import Any

from attrs import evolve

from replkv.testing.blackbox import Call

TARGETS = {"mod": "mod_revision", "create": "create_revision", "version": "version", "value": "value"}


def tale(text: str) -> list[Call]:
    """Return the calls of a history."""
    under_way: dict[str, Call] = {}
    calls: list[Call] = []
    for moment, sentence in enumerate(filter(None, map(str.strip, text.split(";")))):
        if end := re.fullmatch(r"(\w+) ([?!]|= .*)", sentence):
            calls.append(ended(under_way.pop(end[1]), end[2], 10 * moment))
            continue
        begun = re.fullmatch(r"(?:(\w+): )?(.*?)( = .*)?", sentence)
        assert begun is not None
        kind, args = asked(begun[2])
        call = Call(begun[1] or f"p{moment}", kind, args, 10 * moment)  # type: ignore[arg-type]  # a kind
        if begun[3]:
            calls.append(ended(call, begun[3].strip(), 10 * moment + 5))
        else:
            under_way[call.process] = call
    return [*calls, *under_way.values()]


def ended(call: Call, how: str, moment: int) -> Call:
    if how == "?":
        return evolve(call, returned=moment)
    if how == "!":
        return evolve(call, returned=moment, outcome="failed")
    return evolve(call, returned=moment, outcome="ok", result=answered(call.kind, call.args, how[2:]))


def asked(text: str) -> tuple[str, dict[str, Any]]:
    """Return the kind and the arguments of ``put k 1 if 0``."""
    if text.startswith("if "):
        return "txn", transaction(text)
    kind, *words = text.split()
    args: dict[str, Any] = {}
    while words[-1] in ("prev", "local"):
        args |= {"prev_kv": True} if words.pop() == "prev" else {"consistency": "local"}
    while len(words) > 2 and words[-2] in ("if", "lease", "held"):
        *words, name, value = words
        lock, _, created = value.partition("@")
        args |= {"lease": value} if name == "lease" else {"guard": [lock, int(created)]} if created else {"if_mod_revision": int(value)}
    names = {"scan": ["prefix"], "put": ["key", "value"], "add": ["key", "delta"], "revoke": ["lease"]}.get(kind, ["key"])
    return kind, dict(zip(names, [int(word) if kind == "add" and at else word for at, word in enumerate(words)], strict=True)) | args


def transaction(text: str) -> dict[str, Any]:
    parts = re.fullmatch(r"if (.*?) then(?: (.*?))?(?: else (.*))?", text)
    assert parts is not None
    compares = []
    for condition in filter(None, parts[1].replace("true", "").split(" and ")):
        key, target, relation, operand = re.fullmatch(r"(\w+)\.(\w+)(==|!=|<|>)(\w+)", condition).groups()  # type: ignore[union-attr]
        compares.append([key, TARGETS[target], relation, operand if target == "value" else int(operand)])
    then, otherwise = ([list(asked(step)) for step in (branch or "").split(", ") if step] for branch in (parts[2], parts[3]))
    return {"compare": compares, "then": then, "otherwise": otherwise}


def answered(kind: str, args: dict[str, Any], text: str) -> Any:
    """Return the result that ``2 prev 1@1`` stands for."""
    first, *words = re.split(r":? |:$", text, maxsplit=1)
    rest = words[0] if words else ""
    if first == "conflict":
        return {"conflict": pair(rest)}
    if first == "lost":
        return {"lost": True}
    match kind:
        case "get":
            return pair(text)
        case "scan":
            pairs = [entry.split() for entry in rest.split(", ") if entry]
            return {"revision": int(first), "pairs": {key: pair(shown) for key, shown in pairs}}
        case "put":
            return {"revision": int(first)} | ({"prev": pair(rest.removeprefix("prev "))} if rest else {})
        case "delete":
            return {"revision": int(first), "deleted": int(rest != "none")}
        case "add":
            return {"revision": int(first), "value": int(rest)}
        case "txn":
            branch, _, told = rest.partition(": ")
            steps = args["then" if branch == "yes" else "otherwise"]
            responses = [answered(kind, inner, one) for (kind, inner), one in zip(steps, filter(None, told.split(", ")), strict=True)]
            return {"revision": int(first), "succeeded": branch == "yes", "responses": responses}
    return int(text)


def pair(text: str) -> list[Any] | None:
    if text == "-":
        return None
    value, numbers = text.split("@")
    create, mod, version = [*map(int, numbers.split("/")), 0, 0][:3]
    return [value, create, mod or create, version or 1]

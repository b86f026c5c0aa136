"""Did locks lock?  A lock is a key with a lease that is put only if it is missing; the revision of that put is its holder's fencing token.

Nobody can know that he still holds a lock: his lease may be over.  What can be promised is that a write which names the token is done only
while the token is the lock's, so that the writes of one holder all come before those of the next one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from replkv.testing import facts
from replkv.testing.deduction import found_revisions
from replkv.testing.history import Violation

if TYPE_CHECKING:
    from replkv.testing.blackbox import Call


class Deed(NamedTuple):
    """What was done to a lock, or under it.

    Args:
        revision: that it made, or met.
        call: which did it.
        token: the revision at which the lock had to be: 0 if it had to be free, None if that did not matter.
        lease: of its new holder, if it was taken.
        frees: whether it was given back.
    """

    revision: int
    call: Call
    token: int | None
    lease: object
    frees: bool


def check_locks(calls: Iterable[Call]) -> None:
    """Check the locks of a history: tokens only grow, guarded writes are in the order of tokens, and nobody holds what another one does.

    A lock is taken by ``put`` with ``if_mod_revision=0`` and a lease, and is given back by ``delete`` with its token as
    ``if_mod_revision``, or with its lease; a guarded write has the lock with its token as ``guard``, or is a ``txn`` that compares the
    lock's ``create_revision`` or ``mod_revision`` with the token.  Transactions may take and give back, too.

    Args:
        calls: of all processes, in any order.

    Raises:
        Violation: K1, with the calls that contradict each other; X1 or X2 if the history contradicts itself.
    """
    calls = list(calls)
    found = found_revisions(calls)
    revisions = [(call, found.get(id(call)) or facts.made(call) or facts.saw(call)) for call in calls if call.outcome != "failed"]
    for lock in sorted({key for call, _ in revisions for key in _takes(call)}):
        deeds = [deed for call, revision in revisions if revision and (deed := _deed(call, lock, revision))]
        deeds.sort(key=lambda deed: (deed.revision, facts.made(deed.call) is None))
        _check_holders(lock, deeds)
        _check_real_time(lock, deeds)
        _check_revoked(lock, deeds, [call for call in calls if call.kind == "revoke" and call.outcome == "ok"])


def _takes(call: Call) -> dict[str, object]:
    """Return the locks that a call takes if it finds them free, each with the lease."""
    return {
        part.args["key"]: part.args["lease"]
        for part in facts.parts(call)
        if part.kind == "put" and part.args.get("lease") is not None and 0 in _tokens(call, part.args["key"])
    }


def _tokens(call: Call, lock: str) -> list[int]:
    """Return the revisions at which a lock had to be for a call to do what it did."""
    done = [part.args for part in facts.parts(call)]
    guards = [args["if_mod_revision"] for args in done if args.get("key") == lock and "if_mod_revision" in args]
    guards += [args["guard"][1] for args in done if args.get("guard", (None, 0))[0] == lock]
    if call.kind == "txn" and (call.outcome != "ok" or call.result.get("succeeded")):
        compares = [(target, operand) for key, target, relation, operand in call.args["compare"] if (key, relation) == (lock, "==")]
        guards += [operand for target, operand in compares if target in ("create_revision", "mod_revision") or operand == 0]
    return guards


def _deed(call: Call, lock: str, revision: int) -> Deed | None:
    """Return what a call that was done at a revision did to a lock, None if it was not about it."""
    tokens, lease = _tokens(call, lock), _takes(call).get(lock)
    frees = any(part.kind == "delete" and part.args["key"] == lock and (part.result or {}).get("deleted") for part in facts.parts(call))
    if not (frees or lease is not None or any(tokens)):
        return None
    return Deed(revision, call, tokens[0] if tokens else None, lease, frees)


def _blame(lock: str, text: str, *calls: Call) -> Violation:
    return Violation("K1", f"lock {lock}: {text}:" + "".join(f"\n  {call}" for call in calls))


def _check_holders(lock: str, deeds: Iterable[Deed]) -> None:
    """Between a lock's revision and what was done because it was at that revision nobody else took it, and nobody gave it back."""
    last: Deed | None = None
    for deed in deeds:
        if last is not None and deed.token and deed.token < last.revision:
            raise _blame(lock, f"{deed.token} was its token no more at revision {deed.revision}", last.call, deed.call)
        if deed.lease is not None or deed.frees:
            if last is not None and last.revision == deed.revision:
                raise _blame(lock, f"two took it or gave it back at revision {deed.revision}", last.call, deed.call)
            last = deed


def _check_real_time(lock: str, deeds: Iterable[Deed]) -> None:
    """What returned before another began has the smaller revision: tokens grow, and so do the writes under them."""
    begun = [(deed.call.called, False, deed) for deed in deeds]
    ended = [(deed.call.returned, True, deed) for deed in deeds if deed.call.outcome == "ok" and deed.call.returned is not None]
    newest: Deed | None = None
    for _, is_end, deed in sorted([*begun, *ended], key=lambda event: event[:2]):
        if is_end:
            newest = deed if newest is None or deed.revision > newest.revision else newest
        elif newest is not None and deed.revision < newest.revision:
            raise _blame(lock, f"revision {deed.revision} came after {newest.revision}", newest.call, deed.call)


def _check_revoked(lock: str, deeds: list[Deed], revocations: Iterable[Call]) -> None:
    """Nobody does anything as the holder once his lease was revoked."""
    revoked = {call.args["lease"]: call for call in revocations}
    holder: Deed | None = None
    for deed in deeds:
        end = None if holder is None else revoked.get(holder.lease)
        if holder is not None and end is not None and end.returned is not None and deed.token and deed.call.called > end.returned:
            raise _blame(lock, f"it was used as {holder.revision} after its lease had been revoked", holder.call, end, deed.call)
        if deed.lease is not None:
            holder = deed

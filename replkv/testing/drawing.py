"""Calls as a picture: a line for each, with a bar from its beginning to its end, what was asked and answered, and a remark."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from replkv.testing.blackbox import Call
    from replkv.testing.specification import Step

WIDTH = 48
"""Characters from the first beginning to the last end."""
SHOWN = 8
"""How many of the calls that can be ordered are shown: the last ones."""
TEXT = 110
"""Characters that a call may take."""


def draw(calls: Sequence[Call], remarks: Sequence[str]) -> str:
    """Return lines that show calls in the order given, each with its time and a remark.

    Args:
        calls: at least one.
        remarks: as many.
    """
    texts = [_shortened(str(call)) for call in calls]
    begin = min(call.called for call in calls)
    last = max(max(call.called, call.returned or 0) for call in calls)
    column, unit = max(map(len, texts)), max(1, last - begin) / WIDTH

    def bar(call: Call) -> str:
        start = round((call.called - begin) / unit)
        if call.returned is None or call.outcome == "unknown":
            return " " * start + "[" + "–" * (WIDTH - start) + "→"
        return (" " * start + "[" + "–" * max(0, round((call.returned - begin) / unit) - start - 1) + "]").ljust(WIDTH + 2)

    return "\n".join(f"  {bar(call)}  {text:<{column}}  {remark}" for text, call, remark in zip(texts, calls, remarks, strict=True))


def draw_stuck(keys: Iterable[str], placed: Sequence[Step], objections: Sequence[tuple[Step, str]]) -> str:
    """Return a text that shows the longest order of calls that explains their answers, and why nothing can follow.

    Args:
        keys: that the calls are about.
        placed: the calls in that order.
        objections: the calls one of which would have to follow, each with why it can't.
    """
    first = max(0, len(placed) - SHOWN)
    remarks = [f"{number}.{_bound(step)}" for number, step in enumerate(placed[first:], first + 1)]
    remarks += [f"✗ {objection}{_bound(step)}" for step, objection in objections]
    picture = draw([step.call for step in (*placed[first:], *(step for step, _ in objections))], remarks)
    told = f"{len(placed)} of the calls on {', '.join(keys)} can be put in order, and none of {len(objections)} can be next"
    return f"{told}:\n{picture}"


def _bound(step: Step) -> str:
    return "" if step.known_by is None else f" known by the return of {_shortened(str(step.known_by))}"


def _shortened(text: str) -> str:
    return text if len(text) <= TEXT else text[: TEXT - 1] + "…"

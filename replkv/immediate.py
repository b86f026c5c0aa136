"""A surface that blocks, seen as one whose calls are awaited: each call is made when it is awaited, and has its result then.

So what is written once with ``await`` serves both kinds of surface: a coroutine that awaits nothing but such calls is never suspended,
and runs to its end on its caller's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from replkv.errors import InvariantBroken
from replkv.surface import Awaiting, Surface, Timeout

if TYPE_CHECKING:
    from concurrent.futures import Future

    from replkv.engine import Engine
    from replkv.feed import Watched
    from replkv.leasing import Lease
    from replkv.plans import Plan
    from replkv.values import EventKind, Span
    from replkv.watching import Watch

R = TypeVar("R")
T = TypeVar("T")


class Immediate(Surface["ImmediateWatch", "Awaited[Lease]"], Awaiting):
    """The calls of a surface that blocks, to be awaited.

    Args:
        surface: that one.
    """

    def __init__(self, surface: Surface[Watch, Lease]) -> None:
        self._surface = surface
        self._prefix = surface._prefix  # noqa: SLF001  # the same surface, differently seen

    async def _run(self, plan: Plan[R], timeout: Timeout) -> R:  # type: ignore[override]  # what operation promises on an Awaiting surface
        return self._surface._run(plan, timeout)  # type: ignore[return-value]  # noqa: SLF001  # what a Blocking one returns

    async def _sleep(self, seconds: float) -> None:
        self._engine().waits.sleep(seconds)

    def _submit(self, plan: Plan[R]) -> Future[R]:
        return self._surface._submit(plan)  # noqa: SLF001  # the same surface

    def _engine(self) -> Engine:
        return self._surface._engine()  # noqa: SLF001  # the same surface

    def _watch(self, span: Span, start_revision: int | None, kinds: Iterable[EventKind], flags: dict[str, bool]) -> ImmediateWatch:
        return ImmediateWatch(self._surface._watch(span, start_revision, kinds, flags))  # noqa: SLF001  # the same surface

    def _lease(self, ttl: float | None, number: int | None, *, keep_alive: bool, timeout: Timeout) -> Awaited[Lease]:
        return Awaited(partial(self._surface._lease, ttl, number, keep_alive=keep_alive, timeout=timeout))  # noqa: SLF001


class Awaited(Generic[T]):
    """Something that is made when it is awaited."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make

    def __await__(self) -> Generator[Any, None, T]:
        return self._made().__await__()

    async def _made(self) -> T:
        return self._make()


class ImmediateWatch:
    """A watch for threads, as one that is awaited."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    async def next(self, timeout: float | None = None) -> Watched | None:
        """Return what comes next; as ``Watch.next``."""
        return self._watch.next(timeout)

    async def close(self) -> None:
        """End the watch."""
        self._watch.close()

    @property
    def revision(self) -> int:
        """As ``Watch.revision``."""
        return self._watch.revision


def run(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that awaits nothing but the calls of an ``Immediate`` to its end, and return what it returns."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: R = end.value
        return result
    coroutine.close()
    raise InvariantBroken("a call over a surface that blocks was suspended")

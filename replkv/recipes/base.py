"""What all recipes stand on: one source for threads and for asyncio, names below replkv's own prefix, and time that runs out.

A recipe is written once, as coroutines on a surface whose calls are awaited.  Over a surface that blocks, that is an ``Immediate``, and
the coroutine runs to its end where it is called.  Each recipe is a class with all that it does, and two subclasses of a few lines:
``Lock`` for threads, ``AsyncLock`` for asyncio.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import Signature, signature
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, Protocol, TypeVar, cast, overload
from urllib.parse import quote_from_bytes

from replkv.immediate import Immediate, run
from replkv.surface import Awaiting, Blocking, Surface
from replkv.values import to_bytes, to_timeout

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from replkv.feed import Watched
    from replkv.values import Data

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
B_co = TypeVar("B_co", covariant=True)
A_co = TypeVar("A_co", covariant=True)

RESERVED: Final = b"\x00replkv/"
"""Stands before all keys of recipes; spans reach them only if they begin there."""


class Alarm(Protocol):
    """A watch as recipes use it."""

    def next(self, timeout: float | None = None) -> Awaitable[Watched | None]:
        """Return what comes next, or None if nothing does in time."""

    def close(self) -> Awaitable[None]:
        """End it."""


class Calls(Surface[Alarm, "Awaitable[object]"], Awaiting):
    """What recipes call: the public calls of a surface, each awaited.  A type, never an object: see ``Recipe``."""

    async def _sleep(self, seconds: float) -> None:
        raise NotImplementedError


class Recipe:
    """What recipes are.

    Args:
        surface: a ``Replica``, a client, or a namespace of one; for threads or for asyncio.
    """

    def __init__(self, surface: Surface[Any, Any]) -> None:
        self._surface = surface  # which stays open as long as somebody has the recipe
        self._calls = cast("Calls", surface if isinstance(surface, Awaiting) else Immediate(surface))

    def _clock(self) -> float:
        return self._calls._engine().clock()  # noqa: SLF001  # the surface's time, virtual in a simulation

    def _deadline(self, timeout: float | None) -> Deadline:
        """Return the deadline of a wait for others."""
        return Deadline(self._clock, timeout, self._calls._engine().config.timeout)  # noqa: SLF001  # this process's choice


if TYPE_CHECKING:

    class recipe(Generic[P, R_co]):  # noqa: N801  # a decorator
        """The type of a recipe's call: what it returns depends on whose call it is."""

        def __init__(self, define: Callable[Concatenate[Any, P], Coroutine[Any, Any, R_co]]) -> None: ...
        @overload
        def __get__(self, instance: Blocking, kind: type) -> Callable[P, R_co]: ...
        @overload
        def __get__(self, instance: Awaiting, kind: type) -> Callable[P, Coroutine[Any, Any, R_co]]: ...
        @overload
        def __get__(self, instance: None, kind: type) -> Callable[Concatenate[Any, P], Any]: ...
        def __get__(self, instance: object, kind: type) -> Any: ...

    class offered(Generic[P, B_co, A_co]):  # noqa: N801  # makes a method
        """The type of a surface's method that makes a recipe: of the class for threads, or of that for asyncio."""

        def __init__(self, blocking: Callable[Concatenate[Any, P], B_co], awaiting: Callable[Concatenate[Any, P], A_co]) -> None: ...
        @overload
        def __get__(self, surface: Blocking, kind: type) -> Callable[P, B_co]: ...
        @overload
        def __get__(self, surface: Awaiting, kind: type) -> Callable[P, A_co]: ...
        @overload
        def __get__(self, surface: None, kind: type) -> Callable[Concatenate[Any, P], Any]: ...
        def __get__(self, surface: object, kind: type) -> Any: ...

else:

    def recipe(define: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        """Return a coroutine function as a call: on a Blocking recipe it runs to its end, on an Awaiting one it is awaited."""

        @wraps(define)
        def call(self: Recipe, *arguments: Any, **named: Any) -> Any:
            coroutine = define(self, *arguments, **named)
            return run(coroutine) if isinstance(self, Blocking) else coroutine

        return call

    def offered(blocking: type, awaiting: type) -> Callable[..., Any]:
        """Return the method of surfaces that makes a recipe."""

        def make(self: Surface[Any, Any], *positional: Any, **named: Any) -> Any:
            return (awaiting if isinstance(self, Awaiting) else blocking)(self, *positional, **named)

        make.__doc__ = blocking.__mro__[1].__doc__  # that of what both share
        _, *arguments = signature(blocking.__init__).parameters.values()
        make.__signature__ = Signature(arguments, return_annotation=blocking.__name__)
        return make


class Deadline:
    """When a wait is over.

    Args:
        clock: seconds.
        timeout: seconds from now; None is never, 0 is now: nobody is waited for but the cluster.
        attempt: seconds for which the cluster may be waited for if the timeout is 0.

    Raises:
        TypeError, ValueError: no timeout.
    """

    def __init__(self, clock: Callable[[], float], timeout: float | None, attempt: float = 0.0) -> None:
        limit = to_timeout(timeout)
        self._clock = clock
        self._at = None if limit is None else clock() + limit
        self._attempt = 0.0 if limit else attempt

    @property
    def left(self) -> float | None:
        """Seconds that a call may take; None is without limit."""
        return None if self._at is None else max(0.0, self._at + self._attempt - self._clock())

    @property
    def over(self) -> bool:
        """Whether others are not waited for any more."""
        return self._at is not None and self._clock() >= self._at

    def at_most(self, seconds: float) -> float:
        """Return how long to wait when something else ends the wait in ``seconds``."""
        left = self.left
        return seconds if left is None else min(left, seconds)


def place_of(kind: str, name: Data) -> bytes:
    """Return the prefix of a recipe's keys, below which no other name's lie.

    Args:
        kind: of recipe.
        name: bytes or text, any but empty.

    Raises:
        TypeError: neither bytes nor text.
        ValueError: empty.
    """
    raw = to_bytes(name, "name")
    if not raw:
        raise ValueError(f"a {kind} needs a name that is not empty")
    return b"%b%b/%b/" % (RESERVED, kind.encode(), quote_from_bytes(raw, safe="").encode())


def named(kind: str, *names: Data) -> str:
    """Return a recipe as messages call it: "lock 'jobs'"."""
    raw = [to_bytes(name, "name") for name in names]
    return f"{kind} {', '.join(repr(name.decode(errors='backslashreplace')) for name in raw)}"

"""The surface on which a call is awaited, and namespaces of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from replkv.leasing import AsyncLease
from replkv.mapping import AsyncMapping
from replkv.recipes import Recipes
from replkv.surface import Awaiting, Surface, Timeout, to_prefix
from replkv.valuecodec import codec_named
from replkv.view import AsyncView, Source
from replkv.watching import AsyncWatch

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    from replkv.engine import Engine
    from replkv.plans import Plan
    from replkv.valuecodec import Codec, CodecName
    from replkv.values import Data, EventKind, Span

R = TypeVar("R")
T = TypeVar("T")


class AwaitingSurface(Surface[AsyncWatch, AsyncLease], Recipes, Awaiting):
    """The calls of ``Surface``, each to be awaited."""

    def _watch(self, span: Span, start_revision: int | None, kinds: Iterable[EventKind], flags: dict[str, bool]) -> AsyncWatch:
        engine = self._engine()
        interval = engine.config.progress_interval
        return AsyncWatch(
            engine, span, start_revision=start_revision, kinds=kinds, progress_interval=interval, prefix=self._prefix, **flags
        )

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _lease(self, ttl: float | None, number: int | None, *, keep_alive: bool, timeout: Timeout) -> AsyncLease:
        return AsyncLease(self, ttl, number, keep_alive=keep_alive, timeout=timeout)

    @overload
    def view(self, prefix: Data, codec: Literal["bytes"] = "bytes") -> AsyncView[bytes]: ...
    @overload
    def view(self, prefix: Data, codec: Literal["text"]) -> AsyncView[str]: ...
    @overload
    def view(self, prefix: Data, codec: Literal["json", "msgpack"]) -> AsyncView[Any]: ...
    @overload
    def view(self, prefix: Data, codec: Codec[T]) -> AsyncView[T]: ...
    def view(self, prefix: Data, codec: CodecName | Codec[Any] = "bytes") -> AsyncView[Any]:
        """Return a dictionary that follows the keys below a prefix: a read takes no call, and shows this member's own state.

        Args:
            prefix: bytes or text; keys are text, without it.
            codec: "bytes", "text", "json", "msgpack", ``typed(kind)``, or an object that encodes and decodes.

        Raises:
            TypeError, ValueError: a bad prefix, or no codec.
        """
        return AsyncView(Source(self._engine(), self._prefix), prefix, codec_named(codec))

    @overload
    def mapping(self, prefix: Data, codec: Literal["bytes"] = "bytes") -> AsyncMapping[bytes]: ...
    @overload
    def mapping(self, prefix: Data, codec: Literal["text"]) -> AsyncMapping[str]: ...
    @overload
    def mapping(self, prefix: Data, codec: Literal["json", "msgpack"]) -> AsyncMapping[Any]: ...
    @overload
    def mapping(self, prefix: Data, codec: Codec[T]) -> AsyncMapping[T]: ...
    def mapping(self, prefix: Data, codec: CodecName | Codec[Any] = "bytes") -> AsyncMapping[Any]:
        """Return a dictionary of the keys below a prefix, each access of which is a call.

        Args:
            prefix: bytes or text; keys are text, without it.
            codec: as for ``view``.

        Raises:
            TypeError, ValueError: a bad prefix, or no codec.
        """
        return AsyncMapping(self, prefix, codec_named(codec))

    def namespace(self, prefix: Data) -> AsyncNamespace:
        """Return the same calls on the keys below a prefix, which callers don't see: keys come and go without it.

        Args:
            prefix: bytes or text, not empty; end it with a delimiter such as ``/``.

        Raises:
            TypeError, ValueError: a bad prefix.
        """
        return AsyncNamespace(self, prefix)


class AsyncNamespace(AwaitingSurface):
    """The keys below a prefix; made with ``namespace()``.  It lives and is closed with the ``AsyncReplica`` it belongs to."""

    def __init__(self, surface: AwaitingSurface, prefix: Data) -> None:
        self._prefix = to_prefix(surface._prefix, prefix)  # noqa: SLF001  # one module
        self._surface = surface

    async def _run(self, plan: Plan[R], timeout: Timeout) -> R:  # type: ignore[override]  # what operation promises on an Awaiting surface
        return await cast("Any", self._surface._run(plan, timeout))  # type: ignore[no-any-return]  # noqa: SLF001  # one module

    def _get(self, key: bytes, consistency: str, prefix: bytes) -> Any:
        return self._surface._get(key, consistency, prefix)  # noqa: SLF001  # one module

    def _submit(self, plan: Plan[R]) -> Future[Any]:
        return self._surface._submit(plan)  # noqa: SLF001  # one module

    def _engine(self) -> Engine:
        return self._surface._engine()  # noqa: SLF001  # one module

    def __repr__(self) -> str:
        return f"<AsyncNamespace {self._prefix!r} of {self._surface!r}>"

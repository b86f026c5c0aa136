"""The surface on which a call blocks until it has its result, and namespaces of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from replkv.leasing import Lease
from replkv.mapping import ReplicatedMapping
from replkv.recipes import Recipes
from replkv.surface import Blocking, Surface, Timeout, to_prefix
from replkv.valuecodec import codec_named
from replkv.view import Source, View
from replkv.watching import Watch

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    from replkv.engine import Engine
    from replkv.plans import Plan
    from replkv.valuecodec import Codec, CodecName
    from replkv.values import Data, EventKind, Span

R = TypeVar("R")
T = TypeVar("T")


class BlockingSurface(Surface[Watch, Lease], Recipes, Blocking):
    """The calls of ``Surface``, each blocking until it has its result."""

    def _watch(self, span: Span, start_revision: int | None, kinds: Iterable[EventKind], flags: dict[str, bool]) -> Watch:
        engine = self._engine()
        interval = engine.config.progress_interval
        return Watch(engine, span, start_revision=start_revision, kinds=kinds, progress_interval=interval, prefix=self._prefix, **flags)

    def _lease(self, ttl: float | None, number: int | None, *, keep_alive: bool, timeout: Timeout) -> Lease:
        return Lease(self, ttl, number, keep_alive=keep_alive, timeout=timeout)

    @overload
    def view(self, prefix: Data, codec: Literal["bytes"] = "bytes") -> View[bytes]: ...
    @overload
    def view(self, prefix: Data, codec: Literal["text"]) -> View[str]: ...
    @overload
    def view(self, prefix: Data, codec: Literal["json", "msgpack"]) -> View[Any]: ...
    @overload
    def view(self, prefix: Data, codec: Codec[T]) -> View[T]: ...
    def view(self, prefix: Data, codec: CodecName | Codec[Any] = "bytes") -> View[Any]:
        """Return a dictionary that follows the keys below a prefix: a read takes no call, and shows this member's own state.

        Args:
            prefix: bytes or text; keys are text, without it.
            codec: "bytes", "text", "json", "msgpack", ``typed(kind)``, or an object that encodes and decodes.

        Raises:
            TypeError, ValueError: a bad prefix, or no codec.
        """
        return View(Source(self._engine(), self._prefix), prefix, codec_named(codec))

    @overload
    def mapping(self, prefix: Data, codec: Literal["bytes"] = "bytes") -> ReplicatedMapping[bytes]: ...
    @overload
    def mapping(self, prefix: Data, codec: Literal["text"]) -> ReplicatedMapping[str]: ...
    @overload
    def mapping(self, prefix: Data, codec: Literal["json", "msgpack"]) -> ReplicatedMapping[Any]: ...
    @overload
    def mapping(self, prefix: Data, codec: Codec[T]) -> ReplicatedMapping[T]: ...
    def mapping(self, prefix: Data, codec: CodecName | Codec[Any] = "bytes") -> ReplicatedMapping[Any]:
        """Return a dictionary of the keys below a prefix, each access of which is a call.

        Args:
            prefix: bytes or text; keys are text, without it.
            codec: as for ``view``.

        Raises:
            TypeError, ValueError: a bad prefix, or no codec.
        """
        return ReplicatedMapping(self, prefix, codec_named(codec))

    def namespace(self, prefix: Data) -> Namespace:
        """Return the same calls on the keys below a prefix, which callers don't see: keys come and go without it.

        Args:
            prefix: bytes or text, not empty; end it with a delimiter such as ``/``.

        Raises:
            TypeError, ValueError: a bad prefix.
        """
        return Namespace(self, prefix)


class Namespace(BlockingSurface):
    """The keys below a prefix; made with ``namespace()``.  It lives and is closed with the ``Replica`` it belongs to."""

    def __init__(self, surface: BlockingSurface, prefix: Data) -> None:
        self._prefix = to_prefix(surface._prefix, prefix)  # noqa: SLF001  # one module
        self._surface = surface

    def _run(self, plan: Plan[R], timeout: Timeout) -> R:  # type: ignore[override]  # what operation promises on a Blocking surface
        return cast("R", self._surface._run(plan, timeout))  # noqa: SLF001  # one module

    def _get(self, key: bytes, consistency: str, prefix: bytes) -> Any:
        return self._surface._get(key, consistency, prefix)  # noqa: SLF001  # one module

    def _submit(self, plan: Plan[R]) -> Future[Any]:
        return self._surface._submit(plan)  # noqa: SLF001  # one module

    def _engine(self) -> Engine:
        return self._surface._engine()  # noqa: SLF001  # one module

    def __repr__(self) -> str:
        return f"<Namespace {self._prefix!r} of {self._surface!r}>"

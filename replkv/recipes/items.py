"""The items of queues: how they are put, found and taken.

An item is a key: its priority, the revision that was known where it was put, and a unique rest.  The order is by priority, then by the
revision that created the key.  That one can't be in the key's name; but it is larger than the one that is, so that a look at the first
names finds the first items without going through all of them.

Who finds nothing stands in a line, whose first one alone watches for items: one put wakes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from replkv.errors import Compacted, LeaseNotFound, NoLeader, OutcomeUnknown, WaitTimeout
from replkv.ops import Delete, Key, Put, Txn
from replkv.recipes import lifelines
from replkv.recipes.base import Deadline, Recipe, named, place_of, recipe
from replkv.recipes.holding import Holding
from replkv.recipes.line import LEAVE, Line
from replkv.valuecodec import Undecodable, codec_named, decode_stored
from replkv.values import INT64, behind_prefix, to_ttl

if TYPE_CHECKING:
    from replkv.lifeline import Lifeline
    from replkv.ops import Operation
    from replkv.surface import Surface
    from replkv.valuecodec import Codec, CodecName
    from replkv.values import Data, KeyValue, TxnResult

CHOICES: Final = 8
"""How many items a taker has in view: it gets the first of them that nobody else took meanwhile."""

PAGE: Final = 64
"""How many items are looked at together."""

WINDOWS: Final = (0, 1 << 6, 1 << 10, 1 << 14, 1 << 20)
"""Revisions behind the first item of the last look, up to which the first items are looked for, step by step."""

_HEX: Final = 16  # digits of a priority, and of a revision, in an item's name


@frozen
class _Taken:
    """An item that was taken, at a revision; ``lifeline`` is what the claim hangs on, if it is one."""

    item: KeyValue
    revision: int
    lifeline: Lifeline | None


class Items(Recipe):
    """What queues of both kinds are.

    Attributes:
        what: for messages, such as "queue 'jobs'".
    """

    _kind: str

    def __init__(self, surface: Surface[Any, Any], name: Data, codec: CodecName | Codec[Any] = "bytes", *, ttl: float = 10.0) -> None:
        super().__init__(surface)
        to_ttl(ttl)
        self.what = named(self._kind.replace("_", " "), name)
        self._codec = codec_named(codec)
        self._ttl = ttl
        place = place_of(self._kind, name)
        self._claims, self._places, line = place + b"claim/", place + b"item/", place + b"line/"
        self._line = Line(self._calls, self.what, (line,), ttl, None)
        self._hint = 0  # what the name of the first item began with in the last look, as a number; items may be before it

    # -- for everybody -------------------------------------------------------------------------------------------------------------

    async def _put(self, value: Any, priority: int) -> int:
        engine = self._calls._engine()  # noqa: SLF001  # whose number no other process has
        first = b"%0*x%0*x" % (_HEX, priority - INT64[0], _HEX, engine.revision)
        key = self._places + first + b"-%x-%x" % (engine.keeper.number, next(engine.keeper.places))
        return (await self._calls.put(key, self._codec.encode(value), if_mod_revision=0)).revision

    @recipe
    async def get(self, timeout: float | None = None) -> Any:
        """Take the first item; it is deleted, and nobody else gets it.

        If this process ends before it has done what is to be done with the item, nobody does that: at most once.  Who can't have that
        uses ``claim()``.  The same holds for a task that is cancelled, or a thread that is interrupted, while the item is being taken.

        Args:
            timeout: seconds to wait for an item; None waits without limit, 0 does not wait.

        Returns:
            The value.

        Raises:
            WaitTimeout: there was none in time; nothing is left behind.
            Undecodable: the codec can't read the first item; it stays.
            TypeError, ValueError: no timeout.
            NoLeader: the cluster can't be reached; nothing was taken.
            OutcomeUnknown: handed over, and no answer within ``timeout`` and ``Config.timeout``: an item may be taken.
            Closed, StorageError: the member has ended.
        """
        taken = await self._obtain(Deadline(self._clock, timeout), claim=False)
        return self.value_of(taken.item)

    @recipe
    async def peek(self) -> Any:
        """Return the value of the first item that nobody has claimed, and leave it there; None: there is none.  Linearizable.

        Raises:
            Undecodable: the codec can't read it.
            NoLeader: the cluster can't be reached.
        """
        items, _ = await self._first(1, await self._newest())
        return self.value_of(items[0]) if items else None

    @recipe
    async def len(self) -> int:
        """Return how many items there are, with those that are claimed and not done.  Linearizable.

        Raises:
            NoLeader: the cluster can't be reached.
        """
        return (await self._calls.scan(prefix=self._places, count_only=True)).count

    def value_of(self, item: KeyValue) -> Any:
        """Return an item's value.

        Raises:
            Undecodable: the codec can't read it.
        """
        return decode_stored(self._codec, item.key, item.value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.what.removeprefix(self._kind.replace('_', ' ') + ' ')} {self._codec!r}>"

    # -- looking -------------------------------------------------------------------------------------------------------------------

    async def _newest(self) -> int:
        """Return a revision that has all that was acknowledged before."""
        return (await self._calls.scan(self._places, count_only=True)).revision  # a key that never is: nothing is to be counted

    async def _first(self, most: int, least: int) -> tuple[list[KeyValue], int]:
        """Return the first items that nobody has claimed, as this member knows them, and the revision at which that is so.

        Args:
            most: how many.
            least: the revision it must know.
        """
        while True:
            claims = await self._calls.scan(prefix=self._claims, keys_only=True, consistency="local", min_revision=least)
            claimed = {kv.key.removeprefix(self._claims) for kv in claims}
            with suppress(Compacted):  # then what is newer is to be looked at
                return await self._first_besides(claimed, most, claims.revision), claims.revision

    async def _first_besides(self, claimed: set[bytes], most: int, revision: int) -> list[KeyValue]:
        found: list[KeyValue] = []
        for start, end in self._windows():
            more = True
            while more:
                page = await self._calls.scan(
                    start=start, end=end, limit=PAGE, revision=revision, consistency="local", min_revision=revision
                )
                found = sorted(found + [kv for kv in page if self._name(kv) not in claimed], key=self._order)[:most]
                more = page.more
                behind = page[-1].key if more else end
                if len(found) == most and self._order(found[-1]) <= self._least(behind):
                    break
                start = behind + b"\x00"
            else:
                continue
            break
        if found:
            self._hint = min(int(self._name(kv)[: 2 * _HEX], 16) for kv in found)
        return found

    def _windows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield spans to look through, one behind the other: narrow ones where the first item was last time, for a scan counts its span."""
        start = self._places
        for width in WINDOWS:
            end = self._places + b"%0*x" % (2 * _HEX, min(self._hint + width, (1 << 8 * _HEX) - 1))
            yield start, end
            start = end
        yield start, self._places + b"g"  # behind all digits

    def _name(self, item: KeyValue) -> bytes:
        return item.key.removeprefix(self._places)

    def _order(self, item: KeyValue) -> tuple[bytes, int]:
        return self._name(item)[:_HEX], item.create_revision

    def _least(self, behind: bytes) -> tuple[bytes, int]:
        """Return what is less than the order of each item whose key is larger than this one."""
        name = behind.removeprefix(self._places)
        return name[:_HEX], int(name[_HEX : 2 * _HEX] or b"0", 16)

    # -- taking --------------------------------------------------------------------------------------------------------------------

    async def _obtain(self, until: Deadline, *, claim: bool) -> _Taken:
        """Take the first item, waiting in line if there is none.

        Raises:
            WaitTimeout: not in time; nothing is left behind.
        """
        name = self._calls._engine().name.encode()  # noqa: SLF001  # shown to those who look
        taken = await self._obtain_at_once(name, until, claim=claim)
        while taken is None:
            if until.over:
                raise self._nothing()
            try:
                holding = await self._line.hold(name, until)
            except WaitTimeout as error:
                raise self._nothing() from error
            taken = await self._obtain_in_front(holding, name, until, claim=claim)
        return taken

    def _nothing(self) -> WaitTimeout:
        return WaitTimeout(f"{self.what} had no item for this taker in time; nothing is left behind")

    def _attempt(self, until: Deadline) -> Deadline:
        """Return how long calls may take: as long as any call, also where no item is waited for."""
        left, timeout = until.left, self._calls._engine().config.timeout  # noqa: SLF001  # this process's choice
        return Deadline(self._clock, None if left is None else max(left, timeout))

    async def _obtain_at_once(self, name: bytes, until: Deadline, *, claim: bool) -> _Taken | None:
        """Take an item if there is one, whoever stands in line: those only wait because they saw none."""
        least = await self._newest() if until.over else 0
        lifeline = None
        try:
            while (view := await self._first(CHOICES, least))[0]:
                if claim and lifeline is None:
                    lifeline = await lifelines.borrow(self._calls, self._ttl, self._attempt(until))
                item, least = await self._try(view, lifeline, name, [], until)
                if item is not None:
                    return _Taken(item, least, lifeline)
        except BaseException:
            if lifeline is not None:
                lifeline.drop()
            raise
        if lifeline is not None:
            lifelines.give_back(lifeline)
        return None

    async def _obtain_in_front(self, holding: Holding, name: bytes, until: Deadline, *, claim: bool) -> _Taken | None:
        """Wait for an item at the front of the line, and leave that with it; None: the place in line was lost meanwhile."""
        least = 0
        try:
            while not holding.is_lost:
                items, least = view = await self._first(CHOICES, least)
                if items:
                    lifeline = holding.lifeline if claim else None
                    item, least = await self._try(view, lifeline, name, self._line.leaving(holding), until)
                    if item is not None:
                        if not claim:
                            self._line.left(holding)
                        return _Taken(item, least, lifeline)
                elif until.over:
                    raise self._nothing()
                else:
                    await self._wait_for_change(least + 1, until.at_most(holding.lifeline.remaining()))
        except WaitTimeout:
            await self._line.leave(holding, LEAVE)
            raise
        except BaseException:
            self._line.abandon(holding)
            raise
        self._line.abandon(holding)
        return None

    async def _wait_for_change(self, revision: int, seconds: float) -> None:
        """Wait until an item comes, or one that was claimed is free again."""
        watch = self._calls.watch(start=self._claims, end=behind_prefix(self._places), start_revision=revision)
        try:
            with suppress(Compacted):  # then it is to be looked at again
                await watch.next(seconds)
        finally:
            await watch.close()

    async def _try(
        self, view: tuple[list[KeyValue], int], lifeline: Lifeline | None, name: bytes, leaving: Iterable[Operation], until: Deadline
    ) -> tuple[KeyValue | None, int]:
        """Take the first item in view that nobody else has taken meanwhile, in one transaction.

        Returns:
            The item; None: others have taken all of them, or one has come that goes before; and the revision of that.
        """
        items, revision = view
        if lifeline is None:
            items = self._readable(items)
        attempt: Txn | None = None
        for item in reversed(items):
            claim = self._claims + self._name(item)
            newer = Key(start=self._places, end=self._places + self._name(item)[:_HEX]).mod_revision < revision + 1
            free = [Key(item.key).mod_revision == item.mod_revision, Key(claim).missing, newer]
            take: Operation = Delete(item.key) if lifeline is None else Put(claim, name, lease=lifeline)
            attempt = Txn(compare=free, then=[take, *leaving], otherwise=[] if attempt is None else [attempt])
        assert attempt is not None  # noqa: S101  # there are items in view
        result: TxnResult | None = await self._calls.txn(
            compare=attempt.compare, then=attempt.then, otherwise=attempt.otherwise, timeout=self._attempt(until).left
        )
        assert result is not None  # noqa: S101  # a transaction has a result
        at = result.revision
        for item in items:
            if result:
                return item, at
            result = result.responses[0] if result.responses else None
            if result is None:
                break
        return None, at

    def _readable(self, items: list[KeyValue]) -> list[KeyValue]:
        """Return the items before the first one that can't be decoded.

        Raises:
            Undecodable: that is the first of all.
        """
        readable: list[KeyValue] = []
        for item in items:
            try:
                self.value_of(item)
            except Undecodable:
                if not readable:
                    raise
                break
            readable.append(item)
        return readable

    async def claim_first(self, until: Deadline) -> tuple[Holding, KeyValue]:
        """Claim the first item, waiting in line if there is none.

        Raises:
            WaitTimeout: not in time; nothing is left behind.
        """
        try:
            while True:
                with suppress(LeaseNotFound):  # it had rested for too long
                    taken = await self._obtain(until, claim=True)
                    break
        except (NoLeader, OutcomeUnknown) as error:
            raise WaitTimeout(f"{self.what} could not be asked for an item in time: {error}; nothing is left behind") from error
        assert taken.lifeline is not None  # noqa: S101  # a claim hangs on one
        prefix = self._calls._prefix  # noqa: SLF001  # of the namespace: what a guard names is the whole key
        key = prefix + self._claims + self._name(taken.item)
        return Holding(f"an item of {self.what}", key, taken.revision, taken.lifeline), taken.item

"""Mappings are dictionaries: against dict itself, over a fake surface and over a member; with other writers coming between."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replkv import Closed, Replica, Settings, wire
from replkv.aio import AsyncReplica
from replkv.errors import TooLarge, TooManyOps
from replkv.mapping import AsyncMapping, ReplicatedMapping
from replkv.ops import Compare, Delete, Get, Operation, Put, Scan
from replkv.valuecodec import BYTES, JSON, TEXT, Codec, Undecodable, key_to_text
from replkv.values import Data, DeleteResult, KeyValue, PutResult, ScanResult, Span, TxnResult

PATIENCE = 20.0


class FakeSurface:
    """The calls that mappings make, on a dictionary; limits, and other writers that come between two calls."""

    def __init__(self, max_ops: int = 128, max_bytes: int = 1 << 20) -> None:
        self.pairs: dict[bytes, KeyValue] = {}
        self.revision = 1
        self.max_ops = max_ops
        self.max_bytes = max_bytes
        self.writers: list[Callable[[], object]] = []
        self.calls: list[str] = []

    def called(self, name: str) -> None:
        self.calls.append(name)
        if self.writers and name == "txn":
            self.writers.pop(0)()

    def get(self, key: Data, /) -> KeyValue | None:
        self.called("get")
        return self.do(Get(key))  # type: ignore[no-any-return]

    def put(self, key: Data, value: Data, /) -> PutResult:
        self.called("put")
        self.revision += 1
        return self.do(Put(key, value))  # type: ignore[no-any-return]

    def delete(self, key: Data | None = None, /, *, start: Data | None = None, end: Data | None = None) -> DeleteResult:
        self.called("delete")
        self.revision += 1
        return self.do(Delete(key, start=start, end=end))  # type: ignore[no-any-return]

    def scan(self, *, prefix: Data, limit: int = 0, keys_only: bool = False, count_only: bool = False) -> ScanResult:
        self.called("scan")
        return self.do(Scan(prefix=prefix, limit=limit, keys_only=keys_only, count_only=count_only))  # type: ignore[no-any-return]

    def txn(self, *, compare: Any = (), then: Any = (), otherwise: Any = ()) -> TxnResult:
        then, otherwise = list(then), list(otherwise)
        if max(len(then), len(otherwise)) > self.max_ops:
            raise TooManyOps("too many")
        if sum(len(one.key) + len(one.value or b"") for one in then if isinstance(one, Put)) > self.max_bytes:
            raise TooLarge("too large")
        self.called("txn")
        holds = all(self.holds(one) for one in compare)
        self.revision += 1
        return TxnResult(holds, self.revision, tuple(self.do(one) for one in (then if holds else otherwise)))

    def holds(self, compare: Compare) -> bool:
        kv = self.pairs.get(compare.span.start)
        assert compare.span.is_single
        assert compare.relation == wire.EQUAL
        if compare.target == wire.MOD:
            return (kv.mod_revision if kv else 0) == compare.operand
        assert compare.target in (wire.VERSION, wire.CREATE)
        assert compare.operand == 0
        return kv is None

    def do(self, one: Operation) -> Any:
        match one:
            case Get():
                return self.pairs.get(one.key)
            case Put():
                assert one.value is not None
                self.pairs[one.key] = KeyValue(one.key, one.value, 1, self.revision, 1)
                return PutResult(self.revision)
            case Delete():
                keys = self.within(one.span)
                for key in keys:
                    del self.pairs[key]
                return DeleteResult(len(keys), self.revision)
            case Scan():
                keys = [] if one.count_only else self.within(one.span)
                found = [self.pairs[key] for key in keys[: one.limit or None]]
                if one.keys_only:
                    found = [kv._replace(value=b"") for kv in found]
                return ScanResult(tuple(found), len(self.within(one.span)), len(keys) > len(found), self.revision)
        raise AssertionError(one)

    def within(self, span: Span) -> list[bytes]:
        return sorted(key for key in self.pairs if span.start <= key and (span.end is None or key < span.end))


class Suspending:
    """The same, awaited: each call suspends its caller before it is made."""

    def __init__(self, surface: FakeSurface) -> None:
        self.surface = surface

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **named: Any) -> Any:
            await asyncio.sleep(0)
            return getattr(self.surface, name)(*arguments, **named)

        return call


def over_awaited(surface: FakeSurface, prefix: Data, codec: Codec[Any]) -> AsyncMapping[Any]:
    return AsyncMapping(Suspending(surface), prefix, codec)


# -- what is done to them ----------------------------------------------------------------------------------------------------------

PREFIXES: list[bytes] = [b"", b"a/", b"\xff", b"\xff\xff", b"\xc3"]
BESIDE = [b"!", b"a.", b"a", b"a0", b"b", b"\xfe", b"\xff\xfe"]
"""Keys that are none of a mapping's, if its prefix is not empty."""

keys = st.sampled_from(["a", "b", "c", "k/1", "é", "\udcff", "\udc80x", "\U0001f600", "\uffff"]) | st.binary(min_size=1, max_size=3).map(
    key_to_text
).filter(lambda key: key > "\x01")
values = st.none() | st.integers(-5, 5) | st.text("xy", max_size=2) | st.lists(st.integers(0, 3), max_size=2)
Step = tuple[Any, ...]
steps: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("set"), keys, values),
    st.tuples(st.just("set"), keys, values),
    st.tuples(st.just("get"), keys),
    st.tuples(st.just("get or"), keys, values),
    st.tuples(st.just("item"), keys),
    st.tuples(st.just("contains"), keys),
    st.tuples(st.just("del"), keys),
    st.tuples(st.just("setdefault"), keys, values),
    st.tuples(st.just("pop"), keys),
    st.tuples(st.just("pop or"), keys, values),
    st.tuples(st.just("popitem")),
    st.tuples(st.just("update"), st.dictionaries(keys, values, max_size=6)),
    st.tuples(st.just("update pairs"), st.lists(st.tuples(keys, values), max_size=4)),
    st.tuples(st.just("update named"), st.dictionaries(st.sampled_from(["a", "self", "other"]), values, max_size=2)),
    st.tuples(st.just("clear")),
)


def key_order(key: str) -> bytes:
    return key.encode(errors="surrogateescape")


def popped_first(model: dict[str, Any]) -> tuple[str, Any]:
    """What ``popitem`` promises beyond dict's."""
    if not model:
        raise KeyError("empty")
    first = min(model, key=key_order)
    return first, model.pop(first)


def do(mapping: MutableMapping[str, Any], step: Step) -> Any:  # noqa: C901  # a list of cases
    match step:
        case "set", key, value:
            mapping[key] = value
        case "get", key:
            return mapping.get(key)
        case "get or", key, default:
            return mapping.get(key, default)
        case "item", key:
            return mapping[key]
        case "contains", key:
            return key in mapping
        case "del", key:
            del mapping[key]
        case "setdefault", key, value:
            return mapping.setdefault(key, value)
        case "pop", key:
            return mapping.pop(key)
        case "pop or", key, default:
            return mapping.pop(key, default)
        case ("popitem",):
            return popped_first(mapping) if isinstance(mapping, dict) else mapping.popitem()
        case (("update" | "update pairs"), new):
            mapping.update(new)
        case "update named", new:
            mapping.update((), **new)
        case ("clear",):
            mapping.clear()
        case _:
            raise AssertionError(step)
    return None


async def do_awaited(mapping: AsyncMapping[Any], step: Step) -> Any:
    match step:
        case "set", key, value:
            await mapping.set(key, value)
        case "item", key:
            return await mapping[key]
        case "del", key:
            if not await mapping.delete(key):
                raise KeyError(key)
        case (("update" | "update pairs"), new):
            await mapping.update(new)
        case "update named", new:
            await mapping.update((), **new)
        case (("get or" | "pop or"), key, default):
            return await getattr(mapping, step[0].split()[0])(key, default)
        case name, *arguments:
            return await getattr(mapping, name)(*arguments)
    return None


def outcome(mapping: MutableMapping[str, Any], step: Step) -> Any:
    try:
        return do(mapping, step)
    except KeyError as error:
        return type(error)


def check_equal(mapping: ReplicatedMapping[Any], model: dict[str, Any]) -> None:
    in_order = sorted(model.items(), key=lambda item: key_order(item[0]))
    assert list(mapping.items()) == in_order
    assert list(mapping) == list(mapping.keys()) == [key for key, _ in in_order]
    assert list(mapping.values()) == [value for _, value in in_order]
    assert len(mapping) == len(mapping.items()) == len(model)
    assert bool(mapping) == bool(model)
    assert mapping == model
    assert dict(mapping) == model


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PREFIXES), st.lists(steps, max_size=20), st.integers(1, 4))
def test_a_mapping_is_a_dict(prefix: bytes, todo: list[Step], max_ops: int) -> None:
    surface = FakeSurface(max_ops=max_ops)
    beside = {key: KeyValue(key, b"?", 1, 1, 1) for key in BESIDE if prefix and not key.startswith(prefix)}
    surface.pairs.update(beside)
    mapping: ReplicatedMapping[Any] = ReplicatedMapping(surface, prefix, JSON)
    model: dict[str, Any] = {}
    for step in todo:
        assert outcome(mapping, step) == outcome(model, step), step
        check_equal(mapping, model)
    assert {key: surface.pairs[key] for key in beside} == beside, "other keys are none of its business"


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PREFIXES), st.lists(steps, max_size=20), st.integers(1, 4))
def test_an_awaited_mapping_is_a_dict(prefix: bytes, todo: list[Step], max_ops: int) -> None:
    async def main() -> None:
        mapping = over_awaited(FakeSurface(max_ops=max_ops), prefix, JSON)
        model: dict[str, Any] = {}
        for step in todo:
            try:
                found = await do_awaited(mapping, step)
            except KeyError as error:
                found = type(error)
            assert found == outcome(model, step), step
            in_order = sorted(model.items(), key=lambda item: key_order(item[0]))
            assert await mapping.items() == in_order
            assert await mapping.keys() == [key async for key in mapping] == [key for key, _ in in_order]
            assert await mapping.values() == [value for _, value in in_order]
            assert await mapping.len() == len(model)

    asyncio.run(main())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(steps, max_size=15), min_size=1, max_size=3))
def test_a_mapping_of_a_member_is_a_dict(member: Replica, todo: list[list[Step]]) -> None:
    member.delete(start="")
    member.put("a0", "beside")
    surfaces = (member, member.namespace("a/"), member.namespace("n/").namespace("m/"))
    for surface, own in zip(surfaces, todo, strict=False):
        mapping = surface.mapping("a/", "json")
        model: dict[str, Any] = {}
        for step in own:
            assert outcome(mapping, step) == outcome(model, step), step
        check_equal(mapping, model)
        surface.delete(prefix="a/")
    assert [kv.key for kv in member.scan()] == [b"a0"]


@pytest.fixture(scope="module")
def member() -> Iterator[Replica]:
    with Replica(settings=Settings(max_txn_ops=3)) as replica:
        replica.wait_ready(PATIENCE)
        yield replica


# -- what is atomic ----------------------------------------------------------------------------------------------------------------


def race(surface: FakeSurface, *changes: tuple[str, bytes | None]) -> None:
    """Let another writer come between, once per change, right before a transaction."""

    def change(key: str, value: bytes | None) -> None:
        surface.revision += 1
        surface.do(Delete(key) if value is None else Put(key, value))

    surface.writers = [lambda key=key, value=value: change(key, value) for key, value in changes]  # type: ignore[misc]


def test_pop_returns_what_it_deleted_whoever_comes_between() -> None:
    surface = FakeSurface()
    mapping = ReplicatedMapping(surface, "m/", TEXT)
    mapping["a"] = "1"
    race(surface, ("m/a", b"2"), ("m/a", b"3"))
    assert mapping.pop("a") == "3"
    assert not surface.pairs
    assert surface.calls.count("txn") == 3


def test_pop_of_a_key_that_goes_meanwhile_finds_none() -> None:
    surface = FakeSurface()
    mapping = ReplicatedMapping(surface, "m/", TEXT)
    mapping["a"] = "1"
    race(surface, ("m/a", None))
    with pytest.raises(KeyError, match="a"):
        mapping.pop("a")
    mapping["a"] = "1"
    race(surface, ("m/a", None))
    assert mapping.pop("a", None) is None


def test_a_key_that_was_deleted_and_put_again_meanwhile_is_another_one() -> None:
    surface = FakeSurface()
    mapping = ReplicatedMapping(surface, "m/", TEXT)
    mapping["a"] = "1"

    def again() -> None:
        surface.revision += 2
        surface.do(Put("m/a", "1"))

    surface.writers = [again]
    assert mapping.pop("a") == "1"
    assert surface.calls.count("txn") == 2


def test_popitem_takes_another_item_when_the_first_one_is_taken() -> None:
    surface = FakeSurface()
    mapping = ReplicatedMapping(surface, "m/", TEXT)
    mapping.update(a="1", b="2", c="3")
    race(surface, ("m/a", None), ("m/b", b"4"))
    assert mapping.popitem() == ("b", "4")
    assert dict(mapping) == {"c": "3"}
    race(surface, ("m/c", None))
    with pytest.raises(KeyError, match="no key begins with b'm/'"):
        mapping.popitem()


def test_setdefault_is_one_transaction_and_returns_what_another_writer_stored() -> None:
    surface = FakeSurface()
    mapping = ReplicatedMapping(surface, "m/", TEXT)
    race(surface, ("m/a", b"theirs"))
    assert mapping.setdefault("a", "ours") == "theirs"
    assert mapping.setdefault("b", "ours") == "ours"
    assert surface.calls == ["txn", "txn"]


def test_threads_that_pop_get_each_item_once(member: Replica) -> None:
    mapping: ReplicatedMapping[int] = member.mapping("pop/", "json")
    mapping.update({str(number): number for number in range(30)})
    taken: list[int] = []

    def take() -> None:
        while True:
            try:
                taken.append(mapping.popitem()[1])
            except KeyError:
                return

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(taken) == list(range(30))


# -- update ------------------------------------------------------------------------------------------------------------------------


def test_an_update_within_the_limits_is_one_transaction() -> None:
    surface = FakeSurface(max_ops=100)
    ReplicatedMapping(surface, "m/", TEXT).update({str(number): "x" for number in range(100)})
    assert surface.calls == ["txn"]
    assert len({kv.mod_revision for kv in surface.pairs.values()}) == 1


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 60), st.integers(1, 20), st.integers(10, 100))
def test_a_larger_update_takes_at_most_twice_as_many_transactions_as_it_must(count: int, max_ops: int, max_bytes: int) -> None:
    surface = FakeSurface(max_ops=max_ops, max_bytes=max_bytes)
    mapping = ReplicatedMapping(surface, "", TEXT)
    pairs = {f"{number:02}": "x" * 8 for number in range(count)}
    mapping.update(pairs)
    assert {kv.key.decode(): kv.text for kv in surface.pairs.values()} == pairs
    fit = min(max_ops, max_bytes // 10)
    assert len(surface.calls) <= -(-2 * count // fit)


def test_nothing_is_sent_of_an_update_with_a_bad_key_or_value() -> None:
    surface = FakeSurface(max_ops=1)
    mapping: ReplicatedMapping[Any] = ReplicatedMapping(surface, "m/", JSON)
    with pytest.raises(TypeError, match="is of type set"):
        mapping.update({"a": 1, "b": {2}})
    with pytest.raises(ValueError, match="no key is written"):
        mapping.update({"a": 1, "\ud800": 2})
    with pytest.raises(TypeError, match="keys are str"):
        mapping.update([("a", 1), (b"b", 2)])
    mapping.update({})
    mapping.update()
    assert surface.calls == []


def test_a_value_that_is_larger_than_a_request_is_refused() -> None:
    mapping = ReplicatedMapping(FakeSurface(max_bytes=10), "", TEXT)
    with pytest.raises(TooLarge):
        mapping.update({"a": "x", "b": "x" * 20, "c": "x"})
    mapping = ReplicatedMapping(FakeSurface(max_bytes=10, max_ops=2), "", TEXT)
    with pytest.raises(TooLarge):
        mapping.update({"a": "", "b": "", "c": "", "d": "", "e": "x" * 20})


def test_an_update_of_a_member_is_split_at_its_settings(member: Replica) -> None:
    mapping: ReplicatedMapping[int] = member.mapping("u/", "json")
    pairs = {str(number): number for number in range(10)}
    before = member.revision
    mapping.update(pairs)
    assert dict(mapping.items()) == pairs
    assert 4 <= member.revision - before <= 7


# -- keys and values ---------------------------------------------------------------------------------------------------------------


def test_an_undecodable_value_is_told_with_its_key_and_hinders_no_other() -> None:
    surface = FakeSurface()
    mapping: ReplicatedMapping[Any] = ReplicatedMapping(surface, "m/", JSON)
    mapping.update(a=1, c=3)
    surface.put("m/b", b"\xff")
    before = dict(surface.pairs)
    attempts: list[Callable[[], object]] = [
        lambda: mapping["b"],
        lambda: mapping.get("b"),
        lambda: mapping.pop("b"),
        lambda: mapping.pop("b", None),
        lambda: mapping.setdefault("b", 1),
        lambda: list(mapping.items()),
        lambda: list(mapping.values()),
    ]
    for attempt in attempts:
        with pytest.raises(Undecodable, match="JSON can't read the value of 'm/b'") as caught:
            attempt()
        assert caught.value.key == b"m/b"
    assert surface.pairs == before
    assert "b" in mapping
    assert list(mapping) == ["a", "b", "c"]
    assert len(mapping) == 3
    assert mapping["a"] == 1
    del mapping["b"]
    mapping["b"] = 2
    assert dict(mapping.items()) == {"a": 1, "b": 2, "c": 3}


def test_popitem_leaves_a_value_that_it_can_not_decode() -> None:
    surface = FakeSurface()
    surface.put("m/b", b"\xff")
    with pytest.raises(Undecodable):
        ReplicatedMapping(surface, "m/", JSON).popitem()
    assert b"m/b" in surface.pairs


def test_null_is_a_value() -> None:
    mapping: ReplicatedMapping[Any] = ReplicatedMapping(FakeSurface(), "m/", JSON)
    mapping["a"] = None
    assert "a" in mapping
    assert mapping.get("a", 5) is None
    assert mapping.setdefault("a", 5) is None
    assert mapping.pop("a", 5) is None
    assert mapping.pop("a", 5) == 5


def test_what_is_no_key_is_not_in_a_mapping_and_can_not_be_stored() -> None:
    mapping = ReplicatedMapping(FakeSurface(), "m/", BYTES)
    nothings: list[Any] = [5, b"a", None]
    assert not any(nothing in mapping for nothing in nothings)
    with pytest.raises(TypeError, match="keys are str here, not bytes"):
        mapping[b"a"] = b""  # type: ignore[index]
    with pytest.raises(ValueError, match="no key is written"):
        mapping["\ud800"] = b""
    with pytest.raises(TypeError, match="stores bytes, not str"):
        mapping["a"] = "text"  # type: ignore[assignment]
    with pytest.raises(TypeError, match="prefix must be bytes or str"):
        ReplicatedMapping(FakeSurface(), 5, BYTES)  # type: ignore[arg-type]


def test_the_prefix_itself_is_the_empty_key() -> None:
    surface = FakeSurface()
    mapping = ReplicatedMapping(surface, "m/", TEXT)
    mapping[""] = "root"
    assert surface.pairs[b"m/"].value == b"root"
    assert dict(mapping) == {"": "root"}


def test_the_empty_key_below_no_prefix_is_missing_and_not_an_error_to_look_for() -> None:
    mapping = ReplicatedMapping(FakeSurface(), "", TEXT)
    assert "" not in mapping
    assert mapping.get("") is None
    assert mapping.get("", "else") == "else"
    assert mapping.pop("", "else") == "else"
    for remove in (lambda: mapping[""], lambda: mapping.pop(""), lambda: mapping.__delitem__("")):
        with pytest.raises(KeyError):
            remove()
    for store in (lambda: mapping.__setitem__("", "x"), lambda: mapping.setdefault("", "x"), lambda: mapping.update({"": "x"})):
        with pytest.raises(ValueError, match="key must not be empty"):
            store()


def test_a_mapping_without_a_prefix_does_not_store_what_it_would_not_list() -> None:
    surface = FakeSurface()
    mapping = ReplicatedMapping(surface, "", TEXT)
    for use in (
        lambda: mapping.__setitem__("\0a", "x"),
        lambda: mapping.update({"a": "x", "\0a": "x"}),
        lambda: mapping.setdefault("\0a", "x"),
        lambda: mapping["\0a"],
        lambda: "\0a" in mapping,
        lambda: mapping.pop("\0a", "x"),
    ):
        with pytest.raises(ValueError, match="begins with a zero byte"):
            use()
    assert not surface.pairs
    own = ReplicatedMapping(surface, "\0own/", TEXT)
    own["\0a"] = "x"
    assert dict(own) == {"\0a": "x"}


def test_what_python_does_without_awaiting_is_refused_at_once() -> None:
    """``in``, ``list`` and ``for`` asked ``__getitem__`` for 0, 1, 2 and so on, for ever: each gave a coroutine."""
    mapping = AsyncMapping(cast("Any", FakeSurface()), "m/", TEXT)
    untyped: Any = mapping
    for use in (lambda: "a" in untyped, lambda: list(untyped), lambda: iter(untyped), lambda: [*untyped], lambda: reversed(untyped)):
        with pytest.raises(TypeError):
            use()
    with pytest.raises(TypeError, match="await its len"):
        bool(mapping)


def test_views_of_a_mapping_read_once() -> None:
    surface = FakeSurface()
    mapping = ReplicatedMapping(surface, "m/", TEXT)
    mapping.update(a="1", b="2")
    for read in (lambda: dict(mapping.items()), lambda: set(mapping.values()), lambda: set(mapping), lambda: "2" in mapping.values()):
        surface.calls.clear()
        assert read()
        assert surface.calls == ["scan"]
    assert ("a", "1") in mapping.items()
    assert ("a", "2") not in mapping.items()
    assert mapping.items() & {("a", "1"), ("x", "y")} == {("a", "1")}
    assert mapping.keys() | {"z"} == {"a", "b", "z"}
    assert "3" not in mapping.values()


def test_a_mapping_says_what_it_is() -> None:
    assert repr(ReplicatedMapping(FakeSurface(), "m/", JSON)) == "<ReplicatedMapping b'm/' JSON>"
    assert repr(over_awaited(FakeSurface(), "m/", JSON)) == "<AsyncMapping b'm/' JSON>"
    assert ReplicatedMapping(FakeSurface(), "m/", JSON).prefix == b"m/"


# -- the member's errors -----------------------------------------------------------------------------------------------------------


def test_a_closed_member_is_told() -> None:
    with Replica() as replica:
        replica.wait_ready(PATIENCE)
        mapping = replica.mapping("m/", "text")
        mapping["a"] = "1"
    for use in (lambda: mapping["a"], lambda: "a" in mapping, lambda: list(mapping), mapping.popitem, mapping.clear):
        with pytest.raises(Closed):
            use()


def test_a_mapping_of_an_async_member() -> None:
    async def main() -> None:
        async with AsyncReplica() as replica:
            await replica.wait_ready(PATIENCE)
            for surface in (replica, replica.namespace("n/")):
                mapping: AsyncMapping[Any] = surface.mapping("m/", "json")
                await mapping.update({str(number): number for number in range(300)})
                assert await mapping.len() == 300
                assert await asyncio.gather(*(mapping.pop(str(number)) for number in range(100))) == list(range(100))
                taken = await asyncio.gather(*(mapping.popitem() for _ in range(50)))
                assert len(dict(taken)) == 50
                assert await asyncio.gather(*(mapping.setdefault("new", number) for number in range(3))) in ([0] * 3, [1] * 3, [2] * 3)
                await mapping.clear()
                assert await mapping.items() == []
            assert (await replica.scan(count_only=True)).count == 0

    asyncio.run(main())

"""``typed``: values of every type it takes come back as they were, and whatever is not of the type is refused both ways."""

from __future__ import annotations

import dataclasses
import enum
import json
import types
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, TypeVar, Union

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replkv.typedcodec import typed
from replkv.valuecodec import Codec, Undecodable, codec_named

Strategy = st.SearchStrategy[Any]
T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


Port = NewType("Port", int)


@dataclasses.dataclass
class Address:
    host: str
    port: Port = Port(80)
    tags: list[str] = dataclasses.field(default_factory=list)
    seen: int = dataclasses.field(default=0, init=False, compare=False)


class Point(NamedTuple):
    x: float
    y: float = 0.0


@attrs.frozen
class Job:
    _name: str
    owner: Address | None
    raw: bytes
    color: Color
    level: Level = Level.LOW
    at: Point = Point(0.0)  # noqa: RUF009  # immutable
    pair: tuple[int, str] = (0, "")
    marks: frozenset[int] = frozenset()
    more: dict[str, Job] = attrs.field(factory=dict)
    state: Literal["new", 7] | None = None
    anything: Any = None


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
finite = st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
addresses = st.builds(Address, texts, st.integers(), st.lists(texts, max_size=2))
points = st.builds(Point, finite, finite)
jobs: Strategy = st.deferred(
    lambda: st.builds(
        Job,
        texts,
        st.none() | addresses,
        st.binary(max_size=5),
        st.sampled_from(Color),
        st.sampled_from(Level),
        points,
        st.tuples(st.integers(), texts),
        st.frozensets(st.integers(), max_size=3),
        st.just({}) | st.dictionaries(texts, jobs, max_size=1),
        st.sampled_from(["new", 7, None]),
        plain,
    )
)


# -- there and back ----------------------------------------------------------------------------------------------------------------

LEAVES: list[tuple[Any, Strategy]] = [
    (None, st.none()),
    (bool, st.booleans()),
    (int, st.integers()),
    (str, texts),
    (float, finite),
    (bytes, st.binary(max_size=5)),
    (Color, st.sampled_from(Color)),
    (Level, st.sampled_from(Level)),
    (Port, st.integers()),
    (Annotated[int, "metres"], st.integers()),
    (Literal["a", 1, True, None], st.sampled_from(["a", 1, True, None])),  # noqa: PYI061  # all a Literal may hold
    (Address, addresses),
    (Point, points),
]
leaves = st.sampled_from(LEAVES)
hashable = st.sampled_from([leaf for leaf in LEAVES if leaf[0] is not Address])
key_kinds = st.sampled_from([(str, texts), (Color, st.sampled_from(Color)), (bytes, st.binary(max_size=5))])


def around(inner: st.SearchStrategy[tuple[Any, Strategy]]) -> st.SearchStrategy[tuple[Any, Strategy]]:
    """Types made of others, with strategies for their values."""
    made = types.GenericAlias
    return st.one_of(
        inner.map(lambda one: (made(list, one[0]), st.lists(one[1], max_size=3))),
        inner.map(lambda one: (made(tuple, (one[0], ...)), st.lists(one[1], max_size=3).map(tuple))),
        hashable.map(lambda one: (made(set, one[0]), st.sets(one[1], max_size=3))),
        hashable.map(lambda one: (made(frozenset, one[0]), st.frozensets(one[1], max_size=3))),
        st.tuples(inner, inner).map(lambda two: (made(tuple, (two[0][0], two[1][0])), st.tuples(two[0][1], two[1][1]))),
        st.tuples(key_kinds, inner).map(
            lambda two: (made(dict, (two[0][0], two[1][0])), st.dictionaries(two[0][1], two[1][1], max_size=3))
        ),
        inner.map(lambda one: (Optional.__getitem__(one[0]), st.none() | one[1])),
    )


kinds = st.recursive(leaves, around, max_leaves=4)


def alike(a: Any, b: Any) -> bool:
    """Equal, and of equal types all through."""
    if type(a) is not type(b) or a != b:
        return False
    if isinstance(a, (list, tuple)):
        return all(alike(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return all(alike(x, b[key]) for key, x in a.items())
    return True


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kinds, st.data())
def test_values_of_every_type_come_back_as_they_were(kind: tuple[Any, Strategy], data: st.DataObject) -> None:
    hint, values = kind
    try:
        codec: Codec[Any] = typed(hint)
    except TypeError as error:
        if "look alike in JSON" in str(error):
            return
        raise
    value = data.draw(values)
    encoded = codec.encode(value)
    assert alike(codec.decode(encoded), value)
    assert codec.encode(codec.decode(encoded)) == encoded


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(jobs)
def test_classes_within_classes_come_back(job: Job) -> None:
    codec = typed(Job)
    assert codec.decode(codec.encode(job)) == job


@given(st.lists(st.integers() | texts))
def test_equal_sets_have_equal_bytes(values: list[int | str]) -> None:
    codec: Codec[set[int | str]] = typed(set[int | str])
    assert codec.encode(set(values)) == codec.encode({*reversed(values)})


def test_an_object_is_written_with_its_arguments_as_names() -> None:
    job = Job("n", Address("h", Port(1)), b"\x00", Color.RED)
    assert json.loads(typed(Job).encode(job)) == {
        "name": "n",
        "owner": {"host": "h", "port": 1, "tags": []},
        "raw": "AA==",
        "color": "red",
        "level": 1,
        "at": {"x": 0.0, "y": 0.0},
        "pair": [0, ""],
        "marks": [],
        "more": {},
        "state": None,
        "anything": None,
    }


def test_an_int_is_a_float_only_where_it_is_nothing_else() -> None:
    alone: Codec[float] = typed(float)
    assert repr(alone.decode(alone.encode(3))) == "3.0"
    both: Codec[float | int] = typed(Union[float, int])  # noqa: UP007  # written so
    assert [repr(both.decode(both.encode(value))) for value in (3, 3.0)] == ["3", "3.0"]
    assert typed(float | str).decode(b"7") == 7.0


def test_a_union_may_be_part_of_another() -> None:
    codec = typed(Union[Annotated[int | list[int] | None, "few"], str])  # noqa: UP007  # written so
    for value in (5, [5], None, "5"):
        assert codec.decode(codec.encode(value)) == value


def test_bare_collections_hold_anything() -> None:
    for hint, value in ((list, [1, "a", None]), (dict, {"a": [1]}), (tuple, (1, "a")), (set, {1, 2})):
        codec = typed(hint)
        assert codec.decode(codec.encode(value)) == value


@dataclasses.dataclass
class Tree:
    value: int
    left: Tree | None = None
    children: list[Tree] = dataclasses.field(default_factory=list)


def test_a_class_may_hold_itself() -> None:
    tree = Tree(1, Tree(2), [Tree(3, children=[Tree(4)])])
    assert typed(Tree).decode(typed(Tree).encode(tree)) == tree


def test_what_is_nested_too_deep_is_refused_both_ways() -> None:
    tree = Tree(0)
    for _ in range(2000):
        tree = Tree(0, tree)
    with pytest.raises(ValueError, match="nested too deep, or contains itself"):
        typed(Tree).encode(tree)
    with pytest.raises(Undecodable):
        typed(Tree).decode(b'{"value":1,"left":' * 2000 + b"null" + b"}" * 2000)
    for depth in range(100, 1000, 20):
        with pytest.raises(Undecodable):
            typed(Tree).decode(b'{"value":1,"left":' * depth + b"7" + b"}" * depth)


def test_a_typed_codec_is_named_for_its_type() -> None:
    assert repr(typed(Address)) == "typed(Address)"
    assert repr(typed(list[int])) == "typed(list[int])"
    assert repr(typed(Optional[Any])) == "typed(Optional[Any])"  # noqa: UP045  # written so
    assert codec_named(typed(int)).decode(b"5") == 5


# -- what is not of the type -------------------------------------------------------------------------------------------------------


class SubAddress(Address):
    pass


@pytest.mark.parametrize(
    ("hint", "value", "text"),
    [
        (int, "1", "value must be int, not str"),
        (int, True, "value must be int, not bool"),
        (bool, 1, "value must be bool, not int"),
        (str, b"", "value must be str, not bytes"),
        (float, "1", "value must be float, not str"),
        (float, 10**400, "value is an int beyond the range of a float"),
        (bytes, "", "value must be bytes, not str"),
        (None, 0, "value must be NoneType, not int"),
        (Color, "red", "value must be Color, not str"),
        (Literal["a", 1], True, "value must be 'a' or 1"),
        (list[int], [1, "2"], "value[1] must be int, not str"),
        (list[int], (1,), "value must be list, not tuple"),
        (tuple[int, str], (1,), "value must have 2 elements, not 1"),
        (tuple[int, str], [1, "a"], "value must be tuple, not list"),
        (dict[str, int], {"a": "b"}, "value['a'] must be int, not str"),
        (dict[str, int], {1: 1}, "value[1] must be str, not int"),
        (dict[str, int], [], "value must be dict, not list"),
        (int | None, "a", "value must not be of type str"),
        (Any, {1: 2}, "value has a key of type int"),
        (Address, SubAddress("h"), "value must be Address, not SubAddress"),
        (Address, {"host": "h"}, "value must be Address, not dict"),
        (Address, Address("h", tags=[5]), "value.tags[0] must be str, not int"),  # type: ignore[list-item]
        (Job, Job("n", Address(5), b"", Color.RED), "value.owner.host must be str, not int"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused_with_its_place(hint: Any, value: object, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        typed(hint).encode(value)
    assert text in str(caught.value)
    assert "can't encode this" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], "\ud800", {"\ud800": 1}], ids=repr)
def test_what_json_can_not_write_is_a_value_error(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON has no way"):
        typed(Any).encode(value)


@attrs.frozen
class Picky:
    number: int = attrs.field(validator=attrs.validators.gt(0))


class Broken(NamedTuple):
    inner: list[int]


@pytest.mark.parametrize(
    ("hint", "data", "text"),
    [
        (int, b"", "no JSON"),
        (int, b"1.0", "no int: value must be int, not float"),
        (int, b"true", "value must be int, not bool"),
        (bool, b"1", "value must be bool"),
        (bytes, b"5", "value must be the base64 of bytes"),
        (bytes, b'"A"', "value is no base64"),
        (bytes, b'"AA==!"', "value is no base64"),
        (float, b"1" * 400, "beyond the range of a float"),
        (Color, b'"blue"', "value is no Color"),
        (Color, b"5", "value is no Color"),
        (Level, b"true", "value is no Level"),
        (Literal[1], b"true", "value must be 1"),
        (list[int], b"{}", "value must be the list of a list"),
        (list[int], b'[1,"a"]', "value[1] must be int"),
        (set[Any], b"[[]]", "value does not make a set"),
        (tuple[int, int], b"[1]", "value must have 2 elements, not 1"),
        (tuple[int, int], b"5", "value must be the list of a tuple"),
        (dict[str, int], b'{"a":null}', "value['a'] must be int"),
        (dict[bytes, int], b'{"!":1}', "value['!'] is no base64"),
        (dict[str, int], b"[]", "value must be dict"),
        (int | None, b"[]", "value must not be of type list"),
        (Address, b"[]", "value must be the fields of Address"),
        (Address, b"{}", "value has no host, which Address needs"),
        (Address, b'{"host":1}', "value.host must be str"),
        (list[Picky], b'[{"number":1},{"number":0}]', "value[1] is refused by Picky"),
    ],
    ids=str,
)
def test_bytes_that_are_no_value_of_the_type_are_undecodable(hint: Any, data: bytes, text: str) -> None:
    with pytest.raises(Undecodable) as caught:
        typed(hint).decode(data)
    assert text in str(caught.value)


@settings(max_examples=500, deadline=None)
@given(
    plain, st.sampled_from([Job, Address, Point, Tree, Color, list[Address], dict[str, Point], tuple[int, ...], set[str], int | str | None])
)
def test_any_json_is_undecodable_or_a_value_of_the_type(value: object, hint: Any) -> None:
    codec: Codec[Any] = typed(hint)
    try:
        decoded = codec.decode(json.dumps(value).encode())
    except Undecodable:
        return
    assert codec.decode(codec.encode(decoded)) == decoded


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(jobs, st.data())
def test_a_damaged_value_is_undecodable_or_a_value_of_the_type(job: Job, data: st.DataObject) -> None:
    good = typed(Job).encode(job)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + data.draw(st.binary(max_size=3)) + good[at + data.draw(st.integers(0, 3)) :]
    try:
        decoded = typed(Job).decode(bad)
    except Undecodable:
        return
    assert typed(Job).decode(typed(Job).encode(decoded)) == decoded


# -- classes that change -----------------------------------------------------------------------------------------------------------


def test_a_class_may_gain_and_lose_fields_while_both_versions_run() -> None:
    @dataclasses.dataclass
    class Old:
        a: int
        gone: str = "x"

    @dataclasses.dataclass
    class New:
        a: int
        added: float = 1.5

    assert typed(New).decode(typed(Old).encode(Old(7))) == New(7)
    assert typed(Old).decode(typed(New).encode(New(7, 2.0))) == Old(7)


def test_fields_that_the_constructor_does_not_take_are_not_stored() -> None:
    address = Address("h")
    address.seen = 5
    assert typed(Address).decode(typed(Address).encode(address)).seen == 0


# -- types that it does not take ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Unknown:
    x: Nowhere  # type: ignore[name-defined]  # noqa: F821  # by design


@dataclasses.dataclass
class Seeded:
    x: dataclasses.InitVar[int]


class Plain:
    pass


class Objects(enum.Enum):
    A = (1, 2)


class Empty(enum.Enum):
    pass


@dataclasses.dataclass
class Box(Generic[T]):
    x: T


@attrs.define
class Untold:
    x = attrs.field()  # type: ignore[var-annotated]  # by design


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (Plain, "typed() does not know Plain"),
        (object, "typed() does not know object"),
        (complex, "does not know complex"),
        (Box[int], "does not know"),
        (T, "does not know"),
        ("Job", "does not know 'Job', which is text: write Job without quotes"),
        (list["Job"], "without quotes"),
        (Optional["Job"], "without quotes"),  # that makes a ForwardRef of it
        (5, "does not know"),
        (list[Plain], "does not know Plain"),
        (type[int], "does not know"),
        (dict[int, str], "keys are text in JSON"),
        (str | bytes, "look alike in JSON"),
        (list[int] | tuple[int, ...], "look alike in JSON"),
        (Address | Point, "look alike in JSON"),
        (Color | str, "look alike in JSON"),
        (Literal[b"a"], "a Literal may hold"),
        (Objects, "the values of its members"),
        (Empty, "the values of its members"),
        (Unknown, "'Nowhere' is not defined"),
        (Seeded, "its constructor needs x"),
        (Untold, "x has no type hint"),
    ],
    ids=str,
)
def test_a_type_whose_values_would_not_come_back_is_refused_at_once(hint: Any, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        typed(hint)
    assert text in str(caught.value)

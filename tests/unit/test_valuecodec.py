"""The codecs: what goes in comes out, what could not come out does not go in, and hostile bytes are one error."""

from __future__ import annotations

import json
import math
import pickle
import struct
import sys
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replkv.errors import Rejected, ReplkvError
from replkv.valuecodec import BYTES, JSON, MSGPACK, TEXT, Codec, Undecodable, codec_named, decode_stored, key_to_text, text_to_key

ALL: list[Codec[Any]] = [BYTES, TEXT, JSON, MSGPACK]
each = pytest.mark.parametrize("codec", ALL, ids=repr)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
INT64 = st.integers(-(1 << 63), (1 << 64) - 1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
msgpack_values = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False) | texts | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.none() | st.booleans() | INT64 | finite | texts | st.binary(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def looks_the_same(a: object, b: object) -> bool:
    """Equality that tells 1 from 1.0 and True, and 0.0 from -0.0, within lists and dicts too."""
    return repr(a) == repr(b)


# -- there and back ----------------------------------------------------------------------------------------------------------------


@given(st.binary())
def test_bytes_come_back(value: bytes) -> None:
    assert BYTES.decode(BYTES.encode(value)) == value == BYTES.encode(value)


@given(texts)
def test_text_comes_back(value: str) -> None:
    assert TEXT.decode(TEXT.encode(value)) == value
    assert TEXT.encode(value) == value.encode()


@settings(max_examples=500, deadline=None)
@given(json_values)
def test_what_json_holds_comes_back(value: object) -> None:
    data = JSON.encode(value)
    decoded = JSON.decode(data)
    assert decoded == value
    assert JSON.encode(decoded) == data
    assert json.loads(data) == value, "others read it too"


@settings(max_examples=500, deadline=None)
@given(msgpack_values)
def test_what_msgpack_holds_comes_back(value: object) -> None:
    data = MSGPACK.encode(value)
    decoded = MSGPACK.decode(data)
    assert looks_the_same(decoded, value)
    assert MSGPACK.encode(decoded) == data


@given(st.dictionaries(texts, finite, min_size=2, max_size=6), st.randoms())
def test_equal_values_have_equal_json(value: dict[str, float], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert JSON.encode(dict(items)) == JSON.encode(value)


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=repr)
def test_a_tuple_becomes_a_list(codec: Codec[Any]) -> None:
    assert codec.decode(codec.encode((1, ("a",)))) == [1, ["a"]]


def test_msgpack_holds_what_json_does_not() -> None:
    assert math.isnan(MSGPACK.decode(MSGPACK.encode(float("nan"))))
    assert MSGPACK.decode(MSGPACK.encode({1: b"\xff", None: [b""]})) == {1: b"\xff", None: [b""]}


class Flag(int):
    pass


def test_subclasses_of_what_is_held_go_as_their_base() -> None:
    assert JSON.decode(JSON.encode(Flag(3))) == 3
    assert type(BYTES.encode(type("Data", (bytes,), {})(b"x"))) is bytes


# -- what does not go in -----------------------------------------------------------------------------------------------------------

loop: list[Any] = []
loop.append(loop)
deep: Any = None
for _ in range(100_000):
    deep = [deep]


@pytest.mark.parametrize(
    ("codec", "value", "error", "text"),
    [
        (BYTES, "text", TypeError, 'use codec="text"'),
        (BYTES, bytearray(b"x"), TypeError, "not bytearray"),
        (BYTES, None, TypeError, "not NoneType"),
        (TEXT, b"bytes", TypeError, 'use codec="bytes"'),
        (TEXT, 5, TypeError, "not int"),
        (TEXT, "\ud800", ValueError, "no UTF-8"),
        (JSON, b"bytes", TypeError, "value is of type bytes"),
        (JSON, {"a": [1, {2}]}, TypeError, "value['a'][1] is of type set"),
        (JSON, {"a": {1: 2}}, TypeError, "value['a'] has a key of type int"),
        (JSON, {None: 2}, TypeError, "keys may be str"),
        (JSON, float("nan"), ValueError, "JSON has no way"),
        (JSON, [float("inf")], ValueError, "JSON has no way"),
        (JSON, "\udc80", ValueError, "JSON has no way"),
        (JSON, object(), TypeError, "use typed(…)"),
        (JSON, loop, ValueError, "nested too deep"),
        (JSON, deep, ValueError, "nested too deep"),
        (MSGPACK, {(1, 2): 3}, TypeError, "has a key of type tuple"),
        (MSGPACK, [1 << 64], ValueError, "msgpack can't hold this"),
        (MSGPACK, "\udc80", ValueError, "msgpack can't hold this"),
        (MSGPACK, msgpack.ExtType(1, b""), TypeError, "ExtType"),
        (MSGPACK, msgpack.Timestamp(1), TypeError, "Timestamp"),
        (MSGPACK, bytearray(b"x"), TypeError, "bytearray"),
        (MSGPACK, loop, ValueError, "nested too deep"),
        (MSGPACK, deep, ValueError, "nested too deep"),
    ],
    ids=lambda value: repr(value)[:20] if value is not loop and value is not deep else "deep",
)
def test_what_could_not_come_back_is_refused_with_its_place(codec: Codec[Any], value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        codec.encode(value)
    assert text in str(caught.value)
    assert not isinstance(caught.value, ReplkvError), "it is the caller's mistake"


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=repr)
def test_what_is_nested_so_deep_that_it_can_just_be_encoded_can_be_decoded(codec: Codec[Any]) -> None:
    for depth in range(100, sys.getrecursionlimit(), 20):
        value: Any = 1
        for _ in range(depth):
            value = [value]
        try:
            data = codec.encode(value)
        except ValueError:
            return
        decoded = codec.decode(data)
        for _ in range(depth):
            (decoded,) = decoded
        assert decoded == 1
    pytest.fail("there is an end to it")


# -- hostile bytes -----------------------------------------------------------------------------------------------------------------

HOSTILE = {
    "empty": b"",
    "no UTF-8": b"\xff\xfe\xfd",
    "half a character": b"\xe2\x82",
    "a surrogate": b'"\xed\xa0\x80"',
    "many brackets": b"[" * 200_000,
    "many braces": b'{"a":' * 100_000,
    "a number of many digits": b"1" * 100_000,
    "a number beyond floats": b"1e999",
    "NaN": b"NaN",
    "minus infinity": b"-Infinity",
    "two values": b"1 2",
    "a byte-order mark": b"\xef\xbb\xbf1",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "an array of 4 G": b"\xdd\xff\xff\xff\xff",
    "arrays of 4 G, nested": b"\xdd\xff\xff\xff\xff" * 1000,
    "a map of 4 G": b"\xdf\xff\xff\xff\xff",
    "text of 4 G": b"\xdb\xff\xff\xff\xff",
    "arrays as large as the input, nested": b"".join(b"\xdc" + struct.pack(">H", 60000) for _ in range(500)) + b"\xc0" * 60000,
    "deep arrays": b"\x91" * 100_000 + b"\xc0",
    "deep maps": b"\x81\xc0" * 100_000 + b"\xc0",
    "an extension": b"\xc7\x03\x05abc",
    "a timestamp": b"\xd6\xff\x00\x00\x00\x01",
    "a timestamp of no length": b"\xc7\x00\xff",
    "an extension of no length": b"\xc7\x00\x05",
    "a map with a list as key": b"\x81\x91\x01\x02",
    "a map with a map as key": b"\x81\x81\x01\x02\x02",
    "text that is none": b"\xa2\xff\xff",
    "the byte that is never used": b"\xc1",
    "two numbers": b"\x01\x02",
}


@pytest.mark.parametrize("name", HOSTILE)
@each
def test_hostile_bytes_are_undecodable_or_a_value_that_is_all_there(codec: Codec[Any], name: str) -> None:
    data = HOSTILE[name]
    tracemalloc.start()
    try:
        value = codec.decode(data)
    except Undecodable:
        pass
    else:
        assert codec is not JSON or name not in {"NaN", "minus infinity", "a number beyond floats"}
        assert codec.decode(codec.encode(value)) == value
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 100 * len(data) + 1_000_000


@pytest.mark.parametrize("name", HOSTILE)
def test_json_refuses_all_of_it(name: str) -> None:
    with pytest.raises(Undecodable, match="no JSON: "):
        JSON.decode(HOSTILE[name])


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
@example(b"\x80\x80")
def test_random_bytes_are_undecodable_or_come_back(data: bytes) -> None:
    for codec in ALL:
        try:
            value = codec.decode(data)
        except Undecodable:
            continue
        assert looks_the_same(codec.decode(codec.encode(value)), value)


@settings(max_examples=500, deadline=None)
@given(st.data(), msgpack_values, json_values)
def test_a_changed_or_cut_encoding_is_undecodable_or_another_value(data: st.DataObject, packed: object, plain: object) -> None:
    for codec, value in ((MSGPACK, packed), (JSON, plain)):
        good = codec.encode(value)
        at = data.draw(st.integers(0, len(good) - 1))
        changed = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]
        for bad in (changed, good[:at]):
            try:
                codec.decode(bad)
            except Undecodable:
                continue


# -- the error ---------------------------------------------------------------------------------------------------------------------


class Failing:
    def encode(self, value: Any, /) -> bytes:
        return b""

    def decode(self, data: bytes, /) -> Any:
        raise LookupError("not here")

    def __repr__(self) -> str:
        return "Failing()"


def test_whatever_a_codec_raises_becomes_undecodable_and_names_the_key() -> None:
    with pytest.raises(Undecodable) as caught:
        decode_stored(Failing(), b"a/\xff", b"")
    assert caught.value.key == b"a/\xff"
    assert str(caught.value) == "Failing() can't read the value of 'a/\\udcff': not here; store it anew, or delete the key"
    assert isinstance(caught.value.__cause__, LookupError)


def test_undecodable_is_a_value_error_that_is_decided_and_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(Undecodable("no", b"key")))
    assert isinstance(error, Rejected)
    assert isinstance(error, ValueError)
    assert isinstance(error, Undecodable)
    assert (str(error), error.key) == ("no", b"key")


# -- keys --------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=20))
@example(b"\xed\xb2\x80")  # what a surrogate would be
@example(b"\xe2\x82")
def test_every_key_has_one_text(key: bytes) -> None:
    assert text_to_key(key_to_text(key)) == key


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters()))
@example("\udce2\udc82\udcac")  # the bytes of €
@example("\udc80")
def test_a_text_stands_for_one_key_or_for_none(text: str) -> None:
    try:
        key = text_to_key(text)
    except ValueError:
        assert any("\ud800" <= char <= "\udfff" for char in text)
    else:
        assert key_to_text(key) == text


def test_a_key_is_text() -> None:
    with pytest.raises(TypeError, match="keys are str here, not bytes"):
        text_to_key(b"a")  # type: ignore[arg-type]


# -- names -------------------------------------------------------------------------------------------------------------------------


def test_codecs_have_names() -> None:
    assert [codec_named("bytes"), codec_named("text"), codec_named("json"), codec_named("msgpack")] == ALL
    own = Failing()
    assert codec_named(own) is own
    assert all(isinstance(codec, Codec) for codec in ALL)


def test_what_is_no_codec_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes, text, json, msgpack or a codec"):
        codec_named("yaml")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"write typed\(int\)"):
        codec_named(int)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"write typed\(Failing\)"):
        codec_named(Failing)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="not be a int"):
        codec_named(5)  # type: ignore[call-overload]

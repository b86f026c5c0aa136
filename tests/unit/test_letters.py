"""``letters.py``: what is written is read back, and what no client or member of this version writes is one ``DecodeError``."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from replkv import codec, errors, faults, letters, ops, wire
from replkv.codec import FRAME_MAX, DecodeError
from replkv.config import Settings
from replkv.letters import (
    CONSISTENCIES,
    LETTERS_MAX,
    PART_MAX,
    Answer,
    Ask,
    Batch,
    Cancel,
    Events,
    Failed,
    Frame,
    HandOver,
    Hello,
    Inspect,
    Look,
    Outcome,
    Part,
    Ping,
    Pong,
    Prove,
    Pull,
    Read,
    Welcome,
    decode_replies,
    decode_reply,
    decode_requests,
    encode_frame,
    encode_letter,
)
from replkv.parts import Assembly, in_parts
from replkv.refusals import refuse
from replkv.values import Event, KeyValue

numbers = st.integers(0, (1 << 63) - 1)
names = st.text(max_size=20)
flags = st.booleans()
contents = st.binary(max_size=40)
tokens = st.just(b"") | st.binary(min_size=letters.TOKEN, max_size=letters.TOKEN)
key_values = st.builds(KeyValue, contents, contents, numbers, numbers, numbers, numbers)
events = st.builds(Event, st.sampled_from(("put", "delete")), key_values, st.none() | key_values, numbers, flags)
raws = st.tuples(st.integers(0, 12), numbers, st.none() | contents, st.lists(st.tuples(contents, contents)).map(tuple))
READS: list[ops.Packable[Any]] = [
    ops.Get("k"),
    ops.Scan(prefix="k", limit=3),
    ops.Txn(then=[ops.Get("k"), ops.Txn(then=[ops.Scan()])]),
]
reads = st.sampled_from(READS)

ERRORS: list[errors.ReplkvError] = [
    errors.Compacted("gone", 17),
    errors.Conflict("other", KeyValue(b"k", b"v", 1, 2, 3, 4)),
    errors.Conflict("missing", None),
    errors.NoLeader("none", ("a", "b")),
    errors.Corrupt("rot", "sector 7"),
    errors.Closed("closed"),
    errors.DiskFull("full"),
    errors.OutcomeUnknown("who knows"),
    refuse(errors.Compacted, (3,), 5),
    refuse(errors.Conflict, (b"k", 3), (b"k", b"v", 1, 2, 3, 4)),
    refuse(errors.LeaseNotFound, (7,)),
]

REQUESTS: dict[type, st.SearchStrategy[Any]] = {
    Hello: st.builds(Hello, numbers, numbers, numbers, names),
    Prove: st.builds(Prove, numbers, tokens, contents),
    Inspect: st.builds(Inspect, numbers, st.integers(letters.INSPECT_STATUS, letters.INSPECT_ROLE), names),
    Batch: st.builds(Batch, numbers, contents),
    Read: st.builds(Read, numbers, reads.map(lambda read: read.to_wire()), st.sampled_from(CONSISTENCIES), st.none() | numbers, numbers),
    Look: st.builds(Look, numbers, st.integers(letters.LEASES, letters.OUTLINE), numbers),
    Pull: st.builds(Pull, numbers, contents, st.none() | contents, numbers, numbers, flags, flags, flags, flags),
    Cancel: st.builds(Cancel, numbers),
    Ping: st.builds(Ping, numbers),
    HandOver: st.builds(HandOver, numbers, names),
}
REPLIES: dict[type, st.SearchStrategy[Any]] = {
    Welcome: st.builds(
        Welcome,
        numbers,
        numbers,
        names,
        st.binary(min_size=16, max_size=16),
        numbers,
        st.just(Settings(max_txn_ops=7)),
        st.dictionaries(names, names),
        numbers,
        names,
        numbers,
        tokens,
    ),
    Ask: st.builds(Ask, numbers),
    Outcome: st.builds(Outcome, numbers, numbers, numbers, st.none() | st.lists(raws).map(tuple), numbers, flags),
    Answer: st.builds(Answer, numbers, raws),
    Events: st.builds(Events, numbers, st.lists(events, max_size=3).map(tuple), numbers, numbers, flags),
    Pong: st.builds(Pong, numbers, numbers, st.none() | numbers, st.none() | names, st.lists(names).map(tuple), names),
    Failed: st.builds(Failed, numbers, st.sampled_from(ERRORS)),
    Part: st.builds(Part, numbers, contents, flags),
}


def test_there_is_a_case_for_every_letter() -> None:
    assert {*REQUESTS, *REPLIES} == set(letters._WRITERS)
    assert sorted(number for number, _ in letters._WRITERS.values()) == sorted(letters._READERS)


@given(st.lists(st.one_of(*REQUESTS.values())), numbers)
def test_requests_are_read_as_they_were_written(sent: list[Any], seen: int) -> None:
    assert decode_requests(encode_frame(seen, map(encode_letter, sent))) == Frame(seen, sent)


@given(st.lists(st.one_of(*REPLIES.values())), numbers)
def test_replies_are_read_as_they_were_written(sent: list[Any], seen: int) -> None:
    assert decode_replies(encode_frame(seen, map(encode_letter, sent))) == Frame(seen, sent)


@given(st.one_of(*REQUESTS.values()), st.one_of(*REPLIES.values()))
def test_neither_side_takes_what_only_the_other_one_says(request: Any, reply: Any) -> None:
    with pytest.raises(DecodeError, match="unknown kind"):
        decode_replies(encode_frame(0, [encode_letter(request)]))
    with pytest.raises(DecodeError, match="unknown kind"):
        decode_requests(encode_frame(0, [encode_letter(reply)]))


@given(st.data())
def test_changed_bytes_are_refused_or_mean_another_letter(data: st.DataObject) -> None:
    letter = data.draw(st.one_of(*REQUESTS.values(), *REPLIES.values()))
    raw = bytearray(encode_letter(letter))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    for read in (decode_requests, decode_replies):
        try:
            (other,) = read(encode_frame(0, [bytes(raw)])).letters or [None]
        except DecodeError:
            continue
        assert other is None or type(other) in letters._WRITERS


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    for read in (decode_requests, decode_replies):
        with pytest.raises(DecodeError):
            read(garbage)
        try:
            frame = read(encode_frame(0, [garbage]))
        except DecodeError:
            continue
        assert not garbage or frame.letters


def sealed(rest: bytes) -> bytes:
    return letters.MAGIC + struct.pack("<I", zlib.crc32(rest)) + rest


def letter_of(kind: int, head: object, bulk: bytes = b"", number: int = 1) -> bytes:
    packed = codec.pack(head)
    return struct.pack("<BQII", kind, number, len(packed), len(bulk)) + packed + bulk


def test_damage_is_found() -> None:
    frame = encode_frame(0, [encode_letter(Batch(1, b"a batch"))])
    for place in range(len(frame)):
        with pytest.raises(DecodeError):
            decode_requests(frame[:place] + bytes([frame[place] ^ 1]) + frame[place + 1 :])
        with pytest.raises(DecodeError):
            decode_requests(frame[:place])
    with pytest.raises(DecodeError, match="frame of"):
        decode_requests(bytes(FRAME_MAX + 1))


PUT = codec.pack(ops.Put("k", "v").to_wire())
KV = [b"k", b"v", 1, 2, 3, 4]
SETTINGS = sorted(Settings().to_wire().items())
MALFORMED: list[bytes] = [
    letter_of(0, ()),
    letter_of(31, ()),
    letter_of(1, (1, 2)),  # a field is missing
    letter_of(1, (1, -1, "")),
    letter_of(1, (1, 1 << 63, "")),
    letter_of(1, (1, True, "")),
    letter_of(1, (1, 2, b"ann")),
    letter_of(1, (1, 2, "x" * 256)),
    letter_of(1, (1, 2, ""), b"behind the head of a Hello"),
    letter_of(1, (1, 2, ""), number=1 << 63),
    letter_of(2, (1,), b"batch"),
    letter_of(3, (0, None, 0), b""),
    letter_of(3, (3, None, 0), codec.pack(ops.Get("k").to_wire())),
    letter_of(3, (0, None, 0), PUT),
    letter_of(3, (0, None, 0), codec.pack(ops.Txn(then=[ops.Get("k"), ops.Txn(then=[ops.Delete("k")])]).to_wire())),
    letter_of(3, (0, None, 0), codec.pack((wire.GET, b"", 0))),
    letter_of(3, (0, "1", 0), codec.pack(ops.Get("k").to_wire())),
    letter_of(4, (0, 0)),
    letter_of(4, (9, 0)),
    letter_of(5, (1, 0, True, True, True, True), codec.pack((b"k",))),
    letter_of(5, (1, 0, True, True, True, True), codec.pack(("k", None))),
    letter_of(5, (1, 0, 1, True, True, True), codec.pack((b"k", None))),
    letter_of(6, (1,)),
    letter_of(7, {}),
    letter_of(8, (5,)),
    letter_of(8, ("x" * 256,)),
    letter_of(9, (b"", "password")),
    letter_of(9, (bytes(letters.TOKEN - 1), b"")),
    letter_of(9, (b"", bytes(1025))),
    letter_of(10, (0, "")),
    letter_of(10, (6, "")),
    letter_of(10, (1, b"")),
    letter_of(32, (1, "a", b"short", 1, SETTINGS, (), 1, "", 0, b"")),
    letter_of(32, (1, "a", bytes(16), 1, [["heartbeat", -1.0]], (), 1, "", 0, b"")),
    letter_of(32, (1, "a", bytes(16), 1, [["no such setting", 1]], (), 1, "", 0, b"")),
    letter_of(32, (1, "a", bytes(16), 1, SETTINGS, (("a",),), 1, "", 0, b"")),
    letter_of(32, (1, "a", bytes(16), 1, 7, (), 1, "", 0, b"")),
    letter_of(32, (1, "a", bytes(16), 1, SETTINGS, (), 1, "", 0)),
    letter_of(32, (1, "a", bytes(16), 1, SETTINGS, (), 1, b"", 0, b"")),
    letter_of(32, (1, "a", bytes(16), 1, SETTINGS, (), 1, "", -1, b"")),
    letter_of(32, (1, "a", bytes(16), 1, SETTINGS, (), 1, "", 0, b"short")),
    letter_of(33, (1, 2, 0, False), codec.pack(7)),
    letter_of(33, (1, 2, 0, False), codec.pack([[]])),
    letter_of(33, (1, 2, 0, False), codec.pack([["text"]])),
    letter_of(33, (1, 2, 0, 0)),
    letter_of(34, (), codec.pack(())),
    letter_of(34, (), codec.pack({})),
    letter_of(35, (1, 2, True), codec.pack(7)),
    letter_of(35, (1, 2, True), codec.pack([[False, KV[:5], None, 1, False]])),
    letter_of(35, (1, 2, True), codec.pack([[False, [b"k", "v", 1, 2, 3, 4], None, 1, False]])),
    letter_of(35, (1, 2, True), codec.pack([[1, KV, None, 1, False]])),
    letter_of(36, (1, -1, None, (), "")),
    letter_of(36, (1, None, b"a", (), "")),
    letter_of(36, (1, None, None, (), "x" * 5000)),
    letter_of(37, (), codec.pack(("OSError", "text", ()))),
    letter_of(37, (), codec.pack(("Any", "text", ()))),
    letter_of(37, (), codec.pack(("Compacted", "text", (("__class__", 1),)))),
    letter_of(37, (), codec.pack(("Compacted", "text", (("revision", "1"),)))),
    letter_of(37, (), codec.pack(("Conflict", "text", (("current", KV[:3]),)))),
    letter_of(37, (), codec.pack(("Closed", 7, ()))),
    letter_of(37, (), codec.pack(("Closed", "text", None))),
    letter_of(38, (0,)),
    letter_of(39, (1,)),
    letter_of(1, (1, 2, ""))[:-1],
    letter_of(1, (1, 2, ""))[:9],
    struct.pack("<BQII", 2, 1, 1, 1 << 31) + b"\x90",
    struct.pack("<BQII", 2, 1, 1 << 31, 0) + b"\x90",
]


@pytest.mark.parametrize("letter", MALFORMED, ids=range(len(MALFORMED)))
def test_a_letter_that_nobody_writes_is_refused(letter: bytes) -> None:
    for read in (decode_requests, decode_replies):
        with pytest.raises(DecodeError):
            read(sealed(bytes(8) + letter))


def test_a_frame_holds_a_bounded_number_of_letters() -> None:
    ping = encode_letter(Ping(1))
    assert len(decode_requests(encode_frame(0, [ping] * LETTERS_MAX)).letters) == LETTERS_MAX
    with pytest.raises(DecodeError, match="more than"):
        decode_requests(encode_frame(0, [ping] * (LETTERS_MAX + 1)))


def test_the_largest_batch_fits_into_a_frame() -> None:
    frame = encode_frame(1, [encode_letter(Batch(1, bytes(codec.BATCH_MAX)))])
    assert len(decode_requests(frame).letters[0].data) == codec.BATCH_MAX


FORMATS = (Path(letters.__file__).parent.parent / "docs" / "FORMATS.md").read_text(encoding="utf-8")


def test_the_documentation_shows_the_bytes_as_they_are() -> None:
    (example,) = re.findall(r"has taken in three frames:\n\n```\n(.*?)```", FORMATS, re.DOTALL)
    shown = bytes.fromhex("".join(line[:58] for line in example.splitlines()))
    said: list[letters.Letter] = [Read(7, ops.Get("k").to_wire(), "local"), Ping(8)]
    assert shown == encode_frame(3, map(encode_letter, said))
    assert decode_requests(shown) == Frame(3, said)


def test_the_documentation_names_every_kind() -> None:
    (table,) = re.findall(r"\| kind \| letter \| head \| bulk \|\n\|---\|---\|---\|---\|\n(.*?)\n\n", FORMATS, re.DOTALL)
    named = {int(number): name for number, name in re.findall(r"^\| (\d+) \| (\w+) \|", table, re.MULTILINE)}
    assert named == {number: kind.__name__ for kind, (number, _) in letters._WRITERS.items()}


def test_no_letter_shows_a_secret_when_it_is_printed() -> None:
    token, password = b"T" * letters.TOKEN, b"open sesame"
    welcome = Welcome(1, 1, "a", bytes(16), 1, Settings(), {}, 1, "ann", 3, token)
    hashed = codec.pack((wire.AUTH, wire.ADD_USER, ("ann", password)))
    said = [Prove(1, token, password), welcome, Batch(1, codec.pack_batch(1, 1, 1, [hashed], ("root", 1)))]
    for shown in (repr(said), str(said), repr(Frame(1, said))):
        assert "sesame" not in shown
        assert "TTTT" not in shown


# -- errors -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_arrives_as_an_equal_one(error: errors.ReplkvError) -> None:
    (failed,) = decode_replies(encode_frame(0, [encode_letter(Failed(1, error))])).letters
    assert type(failed.error) is type(error)
    assert failed.error.args[0] == error.args[0]
    assert vars(failed.error) == vars(error)


def test_every_error_of_replkv_can_be_sent() -> None:
    for name, kind in faults._ERRORS.items():
        assert type(decode_reply(encode_letter(Failed(1, kind("text")))).error).__name__ == name  # type: ignore[union-attr]


def test_an_error_that_others_do_not_know_arrives_as_what_it_is_a_kind_of() -> None:
    class Special(errors.TooLarge):
        pass

    reply = decode_reply(encode_letter(Failed(1, Special("x" * 9999))))
    assert isinstance(reply, Failed)
    assert type(reply.error) is errors.TooLarge
    assert len(str(reply.error)) == 4096


def test_what_only_counts_in_this_process_is_not_sent() -> None:
    error = errors.OutcomeUnknown("text")
    error._resume = lambda _: None
    reply = decode_reply(encode_letter(Failed(1, error)))
    assert isinstance(reply, Failed)
    assert reply == Failed(1, errors.OutcomeUnknown("text"))


# -- parts ------------------------------------------------------------------------------------------------------------------------


def test_a_large_reply_travels_in_parts_between_which_others_may_stand() -> None:
    large = [Answer(number, (0, bytes([number]) * (3 * PART_MAX))) for number in (1, 2)]
    one, other = [list(in_parts(answer.number, encode_letter(answer))) for answer in large]
    assert len(one) == 4
    assembly = Assembly()
    whole = []
    for packed in (part for pair in zip(one, other, strict=True) for part in pair):
        part = decode_reply(packed)
        assert isinstance(part, Part)
        if (reply := assembly.add(part)) is not None:
            whole.append(reply)
    assert whole == large


def test_a_small_reply_is_left_as_it_is() -> None:
    letter = encode_letter(Answer(1, (0,)))
    assert list(in_parts(1, letter)) == [letter]


def test_parts_that_make_no_reply_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = encode_letter(Answer(1, (0,)))
    others: tuple[letters.Letter, ...] = (Ping(1), Answer(2, (0,)), Part(1, b"", True))
    for data in (b"", b"garbage", answer + b"more", *map(encode_letter, others)):
        with pytest.raises(DecodeError):
            Assembly().add(Part(1, data, True))
    monkeypatch.setattr(letters, "REPLY_MAX", 10)
    assembly = Assembly()
    assert assembly.add(Part(1, bytes(10), False)) is None
    with pytest.raises(DecodeError, match="more than"):
        assembly.add(Part(1, b"x", False))


def test_parts_of_a_reply_that_nobody_waits_for_are_forgotten() -> None:
    assembly = Assembly()
    part = Part(1, b"beginning", False)
    assert assembly.add(part) is None
    assembly.forget(1)
    assembly.forget(1)
    assert assembly.add(evolve(part, data=encode_letter(Answer(1, (0,))), last=True)) == Answer(1, (0,))

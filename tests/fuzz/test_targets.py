"""No bytes do more to their reader than they may: a typed error, soon, and in little memory; and what is taken can be lived with."""

from __future__ import annotations

import random
import struct
import time
from functools import partial
from typing import Any

import budget
import forms
import loop
import mutation
import pytest
from command import corpus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import MALFORMED, TARGETS, Target

from replkv import codec

often = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

each = pytest.mark.parametrize("name", TARGETS)
FILES = [(name, file) for name in TARGETS for file in corpus(name)]


# -- what is valid, and a little changed -------------------------------------------------------------------------------------------


@each
def test_what_the_real_code_writes_is_taken(name: str) -> None:
    target = TARGETS[name]
    for seed in target.seeds():
        for variant in target.variants(seed):
            assert (variant, target.attempt(variant)) == (seed, "taken")


@each
@often
@given(st.randoms())
def test_bytes_that_were_changed_here_and_there_are_refused_or_can_be_lived_with(name: str, rng: random.Random) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    for variant in target.variants(target.mutant(rng, rng.choice(seeds), seeds)):
        target.attempt(variant)


@each
@often
@given(st.binary(max_size=700))
def test_bytes_of_any_kind_are_refused_or_can_be_lived_with(name: str, data: bytes) -> None:
    for variant in TARGETS[name].variants(data):
        TARGETS[name].attempt(variant)


@each
def test_some_hundred_executions_of_the_fuzzer_find_nothing(name: str) -> None:
    target = TARGETS[name]
    found = loop.fuzz(target, corpus(name).values(), random.Random(name), lambda executions: executions < 600)
    assert found.failures == {}
    assert len(found.outcomes) > 2


@pytest.mark.parametrize(("name", "file"), FILES)
def test_what_is_in_the_corpus_is_refused_or_can_be_lived_with_and_costs_little(name: str, file: str) -> None:
    target, data = TARGETS[name], corpus(name)[file]
    for variant in target.variants(data):
        target.attempt(variant)
        limit = budget.allowance(target.size(variant)).seconds
        assert budget.seconds_of(partial(target.only_read, variant), limit) <= limit


@often
@given(st.randoms(), st.sampled_from(forms.MESSAGES))
def test_every_message_comes_back_from_its_frame(rng: random.Random, kind: type) -> None:
    message = forms.message(kind, rng)
    assert codec.decode_frame(codec.encode_frame(forms.CLUSTER, 7, 9, message)).message == message


# -- one way to write a value ----------------------------------------------------------------------------------------------------------

raw = st.recursive(
    st.one_of(
        st.sampled_from(mutation.HOSTILE),
        st.one_of(st.integers(-(1 << 63), (1 << 64) - 1), st.binary(max_size=40), st.text(max_size=40), st.floats(width=64)).map(
            codec.pack
        ),
    ),
    lambda inner: st.lists(inner, max_size=4).map(lambda parts: bytes([0x90 + len(parts)]) + b"".join(parts)),
    max_leaves=8,
)


@settings(often, max_examples=150)
@given(raw)
def test_what_is_logged_or_hashed_is_taken_just_when_it_is_as_we_write_it(data: bytes) -> None:
    try:
        value = codec.unpack(data)
    except codec.DecodeError:
        with pytest.raises(codec.DecodeError):
            codec.unpack_canonical(data)
        return
    if codec.pack(value) == data:
        assert codec.pack(codec.unpack_canonical(data)) == data
    else:
        with pytest.raises(codec.DecodeError, match="another way"):
            codec.unpack_canonical(data)


# -- what costs most -------------------------------------------------------------------------------------------------------------------


def filled(head: bytes, unit: bytes, size: int) -> bytes:
    """Return a list of as many units as fit."""
    count = (size - 5) // len(unit)
    return head + struct.pack(">I", count) + unit * count


def nested(head: bytes, size: int, end: bytes = b"\x90") -> bytes:
    return head * ((size - len(end)) // len(head)) + end


LARGE = {
    "zeros": bytes,
    "chance": lambda size: random.Random(1).randbytes(size),
    "a list that claims more than there is": lambda size: b"\xdd\xff\xff\xff\xff" + bytes(size - 5),
    "lists that each claim the rest": lambda size: nested(b"\xdd" + struct.pack(">I", size // 2), min(size, 5000)) + bytes(size),
    "lists of 16 bits that each claim the rest": lambda size: nested(b"\xdc\xff\xff", min(size, 3000)) + bytes(size),
    "maps that each claim the rest": lambda size: nested(b"\xdf" + struct.pack(">I", size // 3) + b"\x01", min(size, 6000)) + bytes(size),
    "bytes that claim more than there is": lambda size: b"\xc6\xff\xff\xff\xff" + bytes(size - 5),
    "text that claims more than there is": lambda size: b"\xdb\xff\xff\xff\xff" + bytes(size - 5),
    "an extension that claims more than there is": lambda size: b"\xc9\xff\xff\xff\xff\x05" + bytes(size - 6),
    "lists in lists": lambda size: nested(b"\x91", size),
    "lists in lists, 500 deep, again and again": lambda size: filled(b"\xdd", nested(b"\x91", 500), size),
    "empty maps": lambda size: filled(b"\xdd", b"\x80", size),
    "empty lists": lambda size: filled(b"\xdd", b"\x90", size),
    "small lists": lambda size: filled(b"\xdd", b"\x91\xc0", size),
    "small maps": lambda size: filled(b"\xdd", b"\x81\xc0\xc0", size),
    "small texts": lambda size: filled(b"\xdd", b"\xa2ab", size),
    "small numbers": lambda size: filled(b"\xdd", b"\x01", size),
    "large numbers": lambda size: filled(b"\xdd", b"\xcf" + b"\x7f" * 8, size),
    "floats": lambda size: filled(b"\xdd", b"\xcb" + b"\x7f" * 8, size),
    "a map of numbers": lambda size: filled(b"\xdf", b"\xce\x00\x01\x00\x00\xc0", size)[: size // 12 * 12],
    "JSON lists in lists": lambda size: b"[" * size,
    "JSON lists": lambda size: b"[" + b"[]," * ((size - 4) // 3) + b"[]]",
    "JSON objects": lambda size: b"[" + b'{"":0},' * ((size - 9) // 7) + b'{"":0}]',
    "a JSON number": lambda size: b"1" * size,
    "JSON numbers": lambda size: b"[" + b"1e9," * ((size - 4) // 4) + b"1]",
}


QUICK = 0.0005
"""Seconds in which nobody can fill so much memory that it would have to be measured, which takes long."""


def in_place(target: Target, value: bytes) -> list[bytes]:
    """Return a value as the bytes of a target, and in the places of values in what it takes."""
    seed = target.seeds()[-1]
    places = [mutation.values(seed, at) for at in target.values_at(seed)[:1]]
    spans = [spans[-1] for spans in places if spans] + [spans[len(spans) // 2] for spans in places if spans]
    return [value, *(variant for start, end in spans for variant in target.variants(seed[:start] + value + seed[end:]))]


@pytest.mark.parametrize("what", LARGE)
@each
def test_large_claims_and_crowds_cost_little(name: str, what: str) -> None:
    target = TARGETS[name]
    make: Any = LARGE[what]
    for data in in_place(target, make(budget.UNIT - 1024)):
        limit = budget.allowance(target.size(data))
        seconds = budget.seconds_of(partial(target.only_read, data), limit.seconds)
        assert seconds <= limit.seconds
        if seconds > QUICK:
            assert budget.memory_of(partial(target.only_read, data)) <= limit.memory


# -- the tools themselves ---------------------------------------------------------------------------------------------------------------


def planted(read: Any) -> Target:
    return Target(read, MALFORMED, lambda *_: None, lambda: [codec.pack((1, 2, 3))], values_at=lambda _: (0,))


def test_the_fuzzer_finds_what_is_planted() -> None:
    def careless(data: bytes) -> object:
        value = codec.unpack(data)
        return value[2] + 1  # whatever it is

    found = loop.fuzz(planted(careless), (), random.Random(1), lambda executions: executions < 500)
    assert any(failure.startswith(("TypeError", "IndexError")) for failure in found.failures)


def test_the_fuzzer_finds_a_reader_that_takes_too_long_or_too_much() -> None:
    def slow(data: bytes) -> object:
        until = time.process_time() + 2 * budget.SECONDS * budget.slowness()
        while data[:1] == b"\x94" and time.process_time() < until:
            pass
        return codec.unpack(data)

    def large(data: bytes) -> object:
        return len(bytearray(20 << 20)) if data[:1] == b"\x94" else codec.unpack(data)

    with pytest.raises(budget.TooDear):
        loop.outcome(planted(slow), b"\x94", measure=False)
    with pytest.raises(budget.TooDear):
        loop.outcome(planted(large), b"\x94", measure=True)
    assert loop.outcome(planted(large), b"\x90", measure=True) == "taken"


def test_a_change_is_drawn_again_by_the_same_seed() -> None:
    seeds = forms.batches()
    drawn = [[mutation.mutate(random.Random(seed), seeds[3], seeds, (0,)) for seed in range(50)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 40


def test_values_are_found_where_they_are() -> None:
    data = codec.pack((1, (b"ab", None), 300))
    assert [data[start:end].hex() for start, end in mutation.values(data, 0)] == [
        "01",
        "c4026162",
        "c0",
        "92c4026162c0",
        "cd012c",
        data.hex(),
    ]
    assert mutation.values(data[:-1], 0) == []

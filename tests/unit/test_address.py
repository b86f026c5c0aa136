"""What a user may write as an address, and what it stands for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replkv.address import is_loopback, is_wildcard, parse_address


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("a.internal", "tcp://a.internal:7420"),
        ("a.internal:1", "tcp://a.internal:1"),
        ("db_1", "tcp://db_1:7420"),
        ("10.0.0.1:65535", "tcp://10.0.0.1:65535"),
        ("127.0.0.1:0", "tcp://127.0.0.1:0"),
        ("*", "tcp://*:7420"),
        ("[::1]", "tcp://[::1]:7420"),
        ("[0:0::1]:80", "tcp://[::1]:80"),
        ("tcp://a", "tcp://a:7420"),
        ("tcp://[fd00::2]:9", "tcp://[fd00::2]:9"),
        ("ipc:///run/replkv/a.sock", "ipc:///run/replkv/a.sock"),
        ("ipc://a.sock", "ipc://a.sock"),
        ("inproc://a", "inproc://a"),
    ],
)
def test_an_address_becomes_the_url_it_stands_for(text: str, url: str) -> None:
    assert parse_address(text) == url
    assert parse_address(url) == url


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("", "host:port"),
        (":7420", "host:port"),
        ("a b", "host:port"),
        ("-a", "host:port"),
        ("a..b", "host:port"),
        ("müller", "host:port"),
        ("10.1", "host:port"),
        ("010.0.0.1", "host:port"),
        ("300.0.0.1", "host:port"),
        ("a/b", "host:port"),
        ("user@a", "host:port"),
        ("a" * 254, "host:port"),
        ("a:", "number from 0 to 65535"),
        ("a:x", "number from 0 to 65535"),
        ("a:65536", "number from 0 to 65535"),
        ("a:-1", "number from 0 to 65535"),
        ("a:٣", "number from 0 to 65535"),
        ("a:80\n", "number from 0 to 65535"),
        ("::1", "in brackets"),
        ("[::1", r"as \[::1\]"),
        ("[::1]80", r"as \[::1\]"),
        ("[localhost]:1", "no IPv6 address"),
        ("[fe80::1%eth0]:1", "zone"),
        ("tls+tcp://a", "pass tls="),
        ("http://a", "begin with tcp://"),
        ("TCP://a", "begin with tcp://"),
        ("ipc://", "must follow"),
        ("ipc:///a\0b", "must follow"),
        ("ipc:///" + "a" * 103, "at most 103 bytes"),
        ("inproc://", "must follow"),
    ],
)
def test_what_is_no_address_is_refused_with_the_way_to_write_it(text: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        parse_address(text)


@pytest.mark.parametrize("value", [None, 7420, b"a:1", ("a", 1)])
def test_an_address_is_text(value: object) -> None:
    with pytest.raises(TypeError, match="an address is a str"):
        parse_address(value)  # type: ignore[arg-type]  # it is the type that is tested


@given(st.text(max_size=40))
def test_any_text_is_parsed_once_and_for_all_or_refused_with_a_value_error(text: str) -> None:
    try:
        url = parse_address(text)
    except ValueError:
        return
    assert parse_address(url) == url
    is_loopback(url)


@pytest.mark.parametrize(
    "text", ["localhost", "LOCALHOST.", "127.0.0.1", "127.8.9.1:5", "[::1]", "[::ffff:127.0.0.1]:1", "ipc://a", "inproc://a"]
)
def test_these_reach_this_machine_only(text: str) -> None:
    assert is_loopback(parse_address(text))


@pytest.mark.parametrize(
    "text", ["*", "0.0.0.0", "[::]", "10.0.0.1", "128.0.0.1", "a", "localhost.example.com", "127.0.0.1.nip.io", "[::2]"]
)
def test_these_may_be_reached_from_elsewhere(text: str) -> None:
    assert not is_loopback(parse_address(text))


@pytest.mark.parametrize("text", ["*:7420", "0.0.0.0", "[::]:7420", "db1.internal:0"])
def test_an_address_that_nobody_can_dial_is_a_wildcard(text: str) -> None:
    assert is_wildcard(parse_address(text))


@pytest.mark.parametrize("text", ["127.0.0.1", "db1.internal", "ipc:///tmp/a", "inproc://0"])
def test_an_address_that_can_be_dialled_is_no_wildcard(text: str) -> None:
    assert not is_wildcard(parse_address(text))

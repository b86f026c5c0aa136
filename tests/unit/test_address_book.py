"""``address_book.py``: all that is known of where somebody is, the best first, and nobody for longer than needed."""

from __future__ import annotations

import pytest

from replkv.address_book import SEED, AddressBook


@pytest.fixture
def book() -> AddressBook:
    return AddressBook({"a": "tcp://a:1", "b": "tcp://b:1", "lone": ""})


def known(book: AddressBook, peer: str) -> list[str]:
    """Return the addresses of a peer in the order in which they are tried."""
    found = [book.best(peer)]
    while (following := book.another(peer, found[-1])) not in found:
        found.append(following)
    return found


def test_what_this_process_was_told_is_in_it_but_no_empty_address(book: AddressBook) -> None:
    assert [*book.peers] == ["a", "b"]
    assert book.addresses() == {"a": "tcp://a:1", "b": "tcp://b:1"}


def test_what_a_peer_says_itself_counts_most_then_what_was_given_then_the_cluster_then_others(book: AddressBook) -> None:
    book.told({"b": "tcp://told:1"})
    book.configure({"b": "tcp://configured:1"}, ("a", "b"))
    assert known(book, "b") == ["tcp://b:1", "tcp://configured:1", "tcp://told:1"]
    book.heard("b", "tcp://said:1")
    assert known(book, "b") == ["tcp://said:1", "tcp://b:1", "tcp://configured:1", "tcp://told:1"]
    book.heard("b", "tcp://b:1")
    assert known(book, "b") == ["tcp://b:1", "tcp://configured:1", "tcp://told:1"]


def test_behind_the_last_address_comes_the_first_again(book: AddressBook) -> None:
    book.configure({"a": "tcp://a:2"}, ("a", "b"))
    assert (book.another("a", "tcp://a:1"), book.another("a", "tcp://a:2")) == ("tcp://a:2", "tcp://a:1")
    assert book.another("a", "tcp://forgotten:1") == "tcp://a:1"
    assert book.another("b", "tcp://b:1") == "tcp://b:1"


def test_of_whom_nothing_is_known_any_more_the_address_that_was_tried_is_tried_again(book: AddressBook) -> None:
    """A link to one that was removed is kept for a moment: that it broke meanwhile once stopped the member."""
    assert book.another("stranger", "tcp://x:1") == "tcp://x:1"


def test_an_empty_address_is_none(book: AddressBook) -> None:
    book.changed = False
    book.heard("a", "")
    book.heard("new", "")
    assert not book.changed
    assert [*book.peers] == ["a", "b"]


def test_news_is_told_once(book: AddressBook) -> None:
    assert not book.is_news("a")
    book.heard("a", "tcp://a:2")
    assert book.is_news("a")
    assert not book.is_news("a")
    book.heard("a", "tcp://a:2")
    assert not book.is_news("a")


def test_every_change_is_noticed(book: AddressBook) -> None:
    def changes() -> bool:
        changed, book.changed = book.changed, False
        return changed

    assert changes()
    assert not changes()
    book.heard("c", "tcp://c:1")
    assert changes()
    book.heard("c", "tcp://c:1")
    assert not changes()
    book.found("d", "tcp://d:1")
    assert changes()
    book.found("d", "tcp://elsewhere:1")
    assert not changes()
    assert known(book, "d") == ["tcp://d:1"]
    book.told({"e": "tcp://e:1"})
    assert changes()
    book.configure({}, ())
    assert changes()
    book.forget(["nobody"])
    assert not changes()
    book.forget(["a"])
    assert changes()
    assert [*book.peers] == ["b"]


def test_who_is_in_no_configuration_any_more_is_forgotten_unless_this_process_was_told_of_it(book: AddressBook) -> None:
    for peer in "cd":
        book.heard(peer, f"tcp://{peer}:1")
    book.told({"e": "tcp://e:1", "d": "tcp://told:1"})
    book.configure({"a": "tcp://a:1", "d": "tcp://d:2"}, ("a", "d"))
    assert [*book.peers] == ["a", "b", "d"]
    assert known(book, "d") == ["tcp://d:1", "tcp://d:2", "tcp://told:1"]
    book.configure({"a": "tcp://a:1"}, ("a",))
    assert [*book.peers] == ["a", "b"]


def test_an_older_configuration_than_somebody_has_told_of_makes_nobody_forgotten(book: AddressBook) -> None:
    """A newcomer begins with the founding entry, which names members that may all have gone; it forgot those that had let it in."""
    book.told({"d": "tcp://d:1"})
    book.heard("e", "tcp://e:1")
    book.configure({"a": "tcp://a:1"}, ("a", "b"), newest=False)
    assert [*book.peers] == ["a", "b", "d", "e"]
    book.configure({"d": "tcp://d:1"}, ("d",), newest=True)
    assert [*book.peers] == ["a", "b", "d"]


def test_one_that_is_forgotten_while_another_thread_looks_is_left_out() -> None:
    book = AddressBook({"a": "tcp://a:1"})

    class Forgetful(AddressBook):
        peers = ("a", "gone")

    book.__class__ = Forgetful
    assert book.addresses() == {"a": "tcp://a:1"}


def test_addresses_without_a_name_are_dialled_and_told_to_nobody() -> None:
    seed = f"{SEED}tcp://a:1"
    book = AddressBook({"d": "tcp://d:1", seed: "tcp://a:1"})
    assert [*book.peers] == [seed, "d"]
    assert book.addresses() == {"d": "tcp://d:1"}
    book.forget([seed])
    assert [*book.peers] == ["d"]

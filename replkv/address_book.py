"""Where each peer may be found: what it says itself, what this process was told, and what the cluster has written down.

Names are identity; an address is only where somebody was last.  No list is right for ever: a map may be older than a move, and a move
older than the map.  So all that is known is tried, one after the other, the best first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


SEED = "@"
"""What the names of peers begin with of whom only an address is known, and not yet who answers there."""


class AddressBook:
    """The addresses of one member's peers.

    Args:
        given: what this process was told, by name.

    Attributes:
        changed: somebody, or another address, has been learnt of since this was last set to False.
    """

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = {peer: url for peer, url in given.items() if url}
        self._said: dict[str, str] = {}
        self._configured: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._news: set[str] = set()
        self.changed = True

    @property
    def peers(self) -> tuple[str, ...]:
        """Everybody of whom an address is known, sorted; perhaps this member too."""
        return tuple(sorted({*self._given, *self._configured, *self._told, *self._said}))

    def best(self, peer: str) -> str:
        """Return the address to try first."""
        return self._all(peer)[0]

    def another(self, peer: str, tried: str) -> str:
        """Return the address to try after one that was in vain; the same where there is no other."""
        known = self._all(peer) or [tried]
        return known[(known.index(tried) + 1) % len(known)] if tried in known else known[0]

    def is_news(self, peer: str) -> bool:
        """Tell, once, whether a better address of a peer was learnt since this was last asked."""
        news = peer in self._news
        self._news.discard(peer)
        return news

    def heard(self, peer: str, url: str) -> None:
        """Note where a peer says that it is; "": it does not know."""
        if url and self._said.get(peer) != url:
            self._said[peer] = url
            self._news.add(peer)
            self.changed = True

    def found(self, peer: str, url: str) -> None:
        """Note who answered at an address."""
        if peer not in self.peers:
            self._told[peer] = url
            self.changed = True

    def told(self, addresses: Mapping[str, str]) -> None:
        """Note where a member that lets this one in knows the others to be."""
        self._told.update(addresses)
        self.changed = True

    def configure(self, addresses: Mapping[str, str], names: Iterable[str], *, newest: bool = True) -> None:
        """Take over what a configuration says; who is not named in it, nor was to this process, is forgotten.

        Args:
            addresses: of those in it.
            names: of the peers in it.
            newest: nobody has told of a newer one; else nobody is forgotten, for it may be in that, and even lead.
        """
        self._configured, self.changed = dict(addresses), True
        kept = {*names, *self._given}
        for known in (self._said, self._told) if newest else ():
            for peer in [peer for peer in known if peer not in kept]:
                del known[peer]

    def forget(self, peers: Iterable[str]) -> None:
        """Forget addresses that this process was told, and that are no member's."""
        for peer in peers:
            self.changed = self._given.pop(peer, None) is not None or self.changed

    def addresses(self) -> dict[str, str]:
        """Return the best address of everybody whose name is known; on any thread."""
        found = {peer: self._all(peer) for peer in self.peers if not peer.startswith(SEED)}
        return {peer: urls[0] for peer, urls in found.items() if urls}  # the node's thread may have forgotten one meanwhile

    def _all(self, peer: str) -> list[str]:
        found = (book.get(peer) for book in (self._said, self._given, self._configured, self._told))
        return [*dict.fromkeys(url for url in found if url)]

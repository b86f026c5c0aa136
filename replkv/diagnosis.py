"""Why connections do not come about: nng tries again for ever, on one side, and closes what it does not like, on the other, without a word.

Who dials finds out by trying once more by itself, on a thread of its own, with the standard library (``Probes``).  Who listens counts what
nng refused (``Refusals``), and overhears what it has to say of handshakes: causes, but not whose.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

import pynng  # as in ``transport.py``: what comes out of it is Any, and goes no further

from replkv import fork
from replkv.secure import Secured, host_of
from replkv.tls import HUNG_UP, common_name, explain, names

logger = logging.getLogger(__name__)

PROBE_AFTER: Final = 1.0
"""Seconds that a link is not up before somebody looks why."""
PROBE_EVERY: Final = 10.0
"""Seconds between two looks at one peer."""
LOOK_EVERY: Final = 2.0
"""Seconds between two looks at how many connections were refused; more, where there are so many connections that the look takes long."""
COMPLAIN_EVERY: Final = 10.0
"""Seconds between two warnings of one transport: strangers must not fill the log."""
COMPLAIN_LEAST: Final = 600.0
"""Seconds between them in the end, where the same goes on and on: each pause is twice as long as the one before."""

_PATIENCE = 2.0  # s that a probe waits for a connection, and then for each answer
_TRIES = 3  # who hangs up in the middle of our words takes back what it has just said: the next time that may come through
_GREETING = b"\0SP\0"  # what nng's connections begin with on both sides
_REQUESTER = _GREETING + b"\0\x30\0\0"  # what one says that dials as members do
_NO_MEMBER = "it hangs up as no member does: it may want TLS, so give tls= on both sides or on none; or another program listens there"


class Probes:
    """Looks for the reasons why links do not come up; all calls belong to one thread."""

    def __init__(self) -> None:
        self._found: deque[tuple[str, str, str]] = deque()
        self._busy: set[str] = set()
        self._due: dict[str, float] = {}

    def consider(self, peer: str, url: str, name: str, secured: Secured | None, now: float) -> None:
        """Look why a link is not up, unless that has been done lately.

        Args:
            peer: whose link it is.
            url: where it was dialled.
            name: that the certificate there must have; empty: that of the url.
            secured: this side's certificates.
            now: monotonic seconds.
        """
        if peer in self._busy or now < self._due.get(peer, now) or not url.startswith("tcp://"):
            return
        self._due = {other: due for other, due in self._due.items() if due > now}
        self._due[peer] = now + PROBE_EVERY
        self._busy.add(peer)
        threading.Thread(target=self._run, args=(peer, url, name, secured), name="replkv-probe", daemon=True).start()

    def _run(self, peer: str, url: str, name: str, secured: Secured | None) -> None:
        reason = ""
        with contextlib.suppress(OSError, ValueError):  # nothing was found out
            reason = probe(url) if secured is None else probe_tls(url, name, secured)
        self._found.append((peer, url, reason))

    def take(self) -> Iterable[tuple[str, str, str]]:
        """Yield what was found out: peer, url, and a reason for people."""
        while self._found:
            peer, url, reason = self._found.popleft()
            self._busy.discard(peer)
            if reason:
                yield peer, url, reason


def probe(url: str) -> str:
    """Return why no member can be spoken to at an address without TLS; empty: one can, or nobody is there."""
    with socket.create_connection(host_of(url), _PATIENCE) as connection:
        connection.settimeout(_PATIENCE)
        try:
            connection.sendall(_REQUESTER)
            answer = connection.recv(len(_REQUESTER))
        except TimeoutError:
            return ""  # whatever it is, it stands still
        except OSError:
            answer = b""
    return "" if answer.startswith(_GREETING) else _NO_MEMBER


def probe_tls(url: str, name: str, secured: Secured) -> str:
    """Return why no member can be spoken to at an address with TLS; empty: one can, or nobody is there.

    Args:
        url: where.
        name: that its certificate must have; empty: as for a client.
        secured: this side's certificates.
    """
    reason = ""
    for _ in range(_TRIES):
        reason = _probe_tls(url, name, secured)
        if reason != HUNG_UP:
            break
    return reason


def _probe_tls(url: str, name: str, secured: Secured) -> str:
    tls = secured.tls
    context = tls.client_context()
    context.check_hostname = False  # what it is called is looked at below, and told
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # there the other side says what it has against a certificate before it goes on
    expected = secured.expected(name, url)
    with socket.create_connection(host_of(url), _PATIENCE) as connection:
        connection.settimeout(_PATIENCE)
        try:
            with context.wrap_socket(connection) as secure:
                found = secure.getpeercert() or {}
                if not _is_for(expected, names(found)):
                    return _misnamed(expected, found, named=bool(name))
                secure.sendall(_REQUESTER)
                answer = secure.recv(len(_REQUESTER))
        except TimeoutError:
            return ""
        except OSError as error:
            return explain(error, expected, tls.ca)
    if not answer:
        return HUNG_UP
    return "" if answer.startswith(_GREETING) else "TLS is spoken there, but another program listens"


def _is_for(expected: str, found: frozenset[str]) -> bool:
    expected = expected.lower()
    wildcard = "*." + expected.partition(".")[2]
    return any(name.lower() in (expected, wildcard) or _same_address(name, expected) for name in found)


def _same_address(one: str, other: str) -> bool:
    with contextlib.suppress(OSError):
        return socket.inet_pton(socket.AF_INET6, one) == socket.inet_pton(socket.AF_INET6, other)
    return False


def _misnamed(expected: str, certificate: dict[str, Any], *, named: bool) -> str:
    whose = (common_name(certificate) if named else "") or ", ".join(sorted(names(certificate))) or "nobody"
    remedy = "correct the address, or make a certificate with that name" if named else "give a name that it has in TLS(server_name=)"
    return f"the certificate there is for {whose}, not for {expected}: {remedy}"


# -- the listening side ------------------------------------------------------------------------------------------------------------


class Refusals:
    """Counts the connections that a listener refused because of what they spoke or showed, and says so now and then.

    Args:
        name: of the member.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._look_at = 0.0
        self._complain_at = 0.0
        self._pause = 0.0  # till the same is told again
        self._told: frozenset[str] = frozenset()
        self._seen: dict[int, int] = {}
        self._refused = 0
        self._since = 0.0

    def look(self, listeners: Iterable[tuple[Any, str]], secured: Secured | None, now: float) -> None:
        """Look at what was refused since the last call; some calls only.

        Args:
            listeners: nng's, and their urls.
            secured: this side's certificates.
            now: monotonic seconds.
        """
        if now < self._look_at:
            return
        began = time.monotonic()
        counts = _refused([listener for listener, _ in listeners])
        self._look_at = now + max(LOOK_EVERY, 500 * (time.monotonic() - began))
        self._refused += sum(count - self._seen.get(listener, 0) for listener, count in counts.items())
        self._seen = counts
        if self._refused and now >= self._complain_at:
            self._complain_at = now + COMPLAIN_EVERY
            where = ", ".join(url for _, url in listeners if url.startswith("tcp://"))
            self._complain(where, self._causes(secured), now)

    def _complain(self, where: str, causes: list[str], now: float) -> None:
        waited, is_old = now - self._since, self._told.issuperset(causes)
        if is_old and waited < self._pause:
            return
        self._pause = min(2 * self._pause, COMPLAIN_LEAST) if is_old and waited < 2 * self._pause else COMPLAIN_EVERY
        how_many = "a connection" if self._refused == 1 else f"{self._refused} connections"
        logger.warning("%s refused %s at %s: %s", self._name, how_many, where, "; ".join(causes))
        self._refused, self._since, self._told = 0, now, frozenset(causes)

    def _causes(self, secured: Secured | None) -> list[str]:
        if secured is None:
            return ["they do not speak as members do here; where they want TLS, give tls= on both sides or on none"]
        heard = overheard(self._since)
        causes = [text.format(ca=secured.authorities) for part, text in _CAUSES.items() if any(part in words for words in heard)]
        return causes or ["the handshake of TLS failed; their own logs say why"]


_CAUSES: Final = {  # what nng's words contain
    "No client certification": "no certificate was shown",
    "verification failed": "a certificate was not signed by an authority in {ca}, or its time is over or has not come",
    "invalid SSL record": "no TLS was spoken: give tls= on both sides or on none",
    "unexpected message": "this member's own certificate was not accepted, of which the others' logs say more",
}


def _refused(listeners: Iterable[Any]) -> dict[int, int]:
    """Return how many connections nng's listeners have refused, by their numbers."""
    root = pynng.ffi.new("nng_stat **")
    if pynng.lib.nng_stats_get(root):
        return {}
    try:
        return {listener.id: _sum(pynng.lib.nng_stat_find_listener(root[0], listener)) for listener in listeners}
    finally:
        pynng.lib.nng_stats_free(root[0])


def _sum(statistics: Any) -> int:
    total, null = 0, pynng.ffi.NULL
    if statistics != null:
        part = pynng.lib.nng_stat_child(statistics)
        while part != null:
            if pynng.ffi.string(pynng.lib.nng_stat_name(part)) in (b"auth", b"proto"):
                total += pynng.lib.nng_stat_value(part)
            part = pynng.lib.nng_stat_next(part)
    return total


# -- what nng says -----------------------------------------------------------------------------------------------------------------

# Its logger is one for the process.  The function below runs on nng's threads, which wait for Python's lock to run it: so it takes in only
# a few lines until somebody listens again, and nng's next line costs nothing.

_LINES: Final = 16
_WARNINGS, _NOTHING = 4, 0  # nng's levels
_words: deque[tuple[float, str]] = deque(maxlen=_LINES)
_budget = _LINES
_nng: Any = None


def _hear(_level: int, _facility: int, kind: bytes | None, text: bytes | None) -> None:
    global _budget  # noqa: PLW0603  # there is one nng in a process
    _budget -= 1
    if _budget <= 0:
        _nng.nng_log_set_level(_NOTHING)
    if kind == b"NNG-TLS-HANDSHAKE" and text is not None:
        _words.append((time.monotonic(), text.decode(errors="replace")))


_ear = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)(_hear)  # nng keeps no hold on it


def listen_in() -> None:
    """Begin or go on to take in what nng says of handshakes; to be called now and then, by any thread."""
    global _budget, _nng  # noqa: PLW0603
    if _nng is None:
        with contextlib.suppress(AttributeError, OSError):  # without it there are no causes, but still counts
            library = ctypes.PyDLL(pynng._nng.__file__)  # noqa: SLF001
            library.nng_log_set_logger.restype = library.nng_log_set_level.restype = None
            library.nng_log_set_logger(_ear)
            atexit.register(_stop_listening)  # registered later than that of pynng, which ends nng: so it runs before
            _nng = library
    if _nng is not None:
        _budget = _LINES
        _nng.nng_log_set_level(_WARNINGS)


def _stop_listening() -> None:
    """No thread of nng's may come for Python's lock once there is none any more."""
    if not fork.forked():
        _nng.nng_log_set_logger(None)


def overheard(since: float) -> list[str]:
    """Return what nng has said of handshakes, its last lines only.

    Args:
        since: monotonic seconds.
    """
    return [text for when, text in list(_words) if when >= since]

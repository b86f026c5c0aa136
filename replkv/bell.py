"""How one thread waits for many descriptors, and how others wake it: the system's best way, and one for every system."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
import sys
from typing import Any


class EventBell:
    """A descriptor that is readable once another thread rang; Linux has one made for it."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def ring(self) -> None:
        """Make it readable; any thread."""
        os.eventfd_write(self._fd, 1)

    def still(self) -> None:
        """Make it unreadable again."""
        os.eventfd_read(self._fd)

    def close(self) -> None:
        """Give it back to the system."""
        os.close(self._fd)


class PairBell:
    """The same from a pair of sockets, for systems without eventfd."""

    def __init__(self) -> None:
        self._ear, self._hand = socket.socketpair()
        self._ear.setblocking(False)
        self._hand.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._ear.fileno()

    def ring(self) -> None:
        """Make it readable; any thread."""
        with contextlib.suppress(BlockingIOError):  # full of rings nobody has listened to yet
            self._hand.send(b"!")

    def still(self) -> None:
        """Make it unreadable again."""
        self._ear.recv(4096)

    def close(self) -> None:
        """Give it back to the system."""
        self._ear.close()
        self._hand.close()


Bell = EventBell if sys.platform == "linux" else PairBell


class Selector:
    """What ``select.epoll`` does, for systems without it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.unregister, self.close = self._selector.unregister, self._selector.close

    def register(self, fd: int, _events: int) -> None:
        """Wait for this descriptor, too."""
        self._selector.register(fd, selectors.EVENT_READ)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """Wait for at most ``timeout`` seconds, and return which are readable."""
        return [(key.fd, events) for key, events in self._selector.select(timeout)]


Poll: Any = getattr(select, "epoll", Selector)  # by itself, it costs a fifth of what ``selectors`` makes of it
READABLE = getattr(select, "EPOLLIN", selectors.EVENT_READ)

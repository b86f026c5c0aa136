"""A TCP proxy that makes links bad, for the links one member dials: ``Proxy`` starts it and tells it what to do, ``main`` is the process.

Bytes that are lost on the way come late under TCP, and everything behind them too; so loss is a chance that a piece is held up for one
timeout of retransmission, or several.  A direction can be silent while the connection stands, and connections can be reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from attrs import asdict, frozen

PIECE = 64 << 10  # bytes read at once
WINDOW = 64  # pieces under way in one direction
RETRANSMIT = 0.2  # s
NO_LINGER = struct.pack("ii", 1, 0)  # what makes a socket that is closed send a reset
PATIENCE = 20.0  # s for the process to start or to end; it takes a fraction of one


@frozen(kw_only=True)
class Weather:
    """How bytes travel in one direction.

    Args:
        delay: seconds.
        loss: chance that a piece has to be sent again, and again.
        rate: bytes per second; 0 is no limit.
        silent: nothing arrives, until the weather changes.
    """

    delay: float = 0.0
    loss: float = 0.0
    rate: float = 0.0
    silent: bool = False


FAIR = Weather()


class Proxy:
    """The proxy's process; it ends when this one does.

    Args:
        links: the ports it listens on, and the addresses it connects to, by peer.
        within: a command that runs another one, such as nsenter.
        seed: of the chances.
    """

    def __init__(self, links: Mapping[str, tuple[str, str]], within: tuple[str, ...] = (), seed: int = 0) -> None:
        command = [*within, sys.executable, __file__, json.dumps({"links": links, "seed": seed})]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1, start_new_session=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", "the proxy did not start"

    def set(self, peer: str, there: Weather = FAIR, back: Weather = FAIR) -> None:
        """Set the weather of a link, for what the member sends on it and for what comes back."""
        self._say(peer=peer, there=asdict(there), back=asdict(back))

    def reset(self, peer: str) -> None:
        """End all connections of a link, as if a router had been restarted."""
        self._say(peer=peer)

    def _say(self, **order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(PATIENCE)
        self._process.stdout.close()


# -- the process ----------------------------------------------------------------------------------------------------------------------


class Way:
    """One direction of a link, for all its connections."""

    def __init__(self, rng: random.Random) -> None:
        self.weather = FAIR
        self._rng = rng
        self._open = asyncio.Event()
        self._open.set()

    def change(self, weather: Weather) -> None:
        self.weather = weather
        (self._open.clear if weather.silent else self._open.set)()

    def arrival(self, now: float) -> float:
        """Draw when a piece that is sent now arrives."""
        due, timeout = now + self.weather.delay, RETRANSMIT
        while self._rng.random() < self.weather.loss:
            due += timeout
            timeout *= 2
        return due

    async def pass_on(self, piece: bytes, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        if self.weather.rate:
            await asyncio.sleep(len(piece) / self.weather.rate)
        writer.write(piece)
        await writer.drain()


class Link:
    """What one member dials to reach one peer."""

    def __init__(self, listen: str, target: str, rng: random.Random) -> None:
        self.listen = listen
        self.target = target
        self.there = Way(rng)
        self.back = Way(rng)
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> asyncio.Server:
        host, _, port = self.listen.rpartition(":")
        return await asyncio.start_server(self._connected, host, int(port))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            host, _, port = self.target.rpartition(":")
            their_reader, their_writer = await asyncio.open_connection(host, int(port))
            writers.append(their_writer)
            self._writers.update(writers)
            async with asyncio.TaskGroup() as group:
                group.create_task(_carry(reader, their_writer, self.there))
                group.create_task(_carry(their_reader, writer, self.back))
        except* (OSError, EOFError, asyncio.CancelledError):
            pass  # one side is gone, or the process ends: so is the other
        finally:
            self._writers.difference_update(writers)
            for each in writers:
                each.transport.abort()

    def reset(self) -> None:
        for writer in self._writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            writer.transport.abort()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
    """Carry pieces in their order; raises EOFError behind the last one."""
    under_way = asyncio.Queue[tuple[float, bytes]](WINDOW)

    async def deliver() -> None:
        while True:
            due, piece = await under_way.get()
            await asyncio.sleep(due - time.monotonic())
            if not piece:
                raise EOFError
            await way.pass_on(piece, writer)

    async with asyncio.TaskGroup() as group:
        group.create_task(deliver())
        piece = b"-"
        while piece:
            piece = await reader.read(PIECE)
            await under_way.put((way.arrival(time.monotonic()), piece))


async def serve(links: dict[str, tuple[str, str]], seed: int) -> None:
    """Serve until stdin ends."""
    rng = random.Random(seed)
    opened = {peer: Link(listen, target, rng) for peer, (listen, target) in links.items()}
    servers = [await link.start() for link in opened.values()]
    print("ready", flush=True)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        order = json.loads(line)
        link = opened[order["peer"]]
        if "there" in order:
            link.there.change(Weather(**order["there"]))
            link.back.change(Weather(**order["back"]))
        else:
            link.reset()
    for server in servers:
        server.close()


if __name__ == "__main__":
    asyncio.run(serve(**json.loads(sys.argv[1])))

"""The proxy does to bytes what it says, and nothing else."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from cluster import free_ports
from proxy import FAIR, Proxy, Weather

PATIENCE = 20.0  # s


@pytest.fixture
def echo() -> Iterator[str]:
    """The address of a server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=repeat, args=(connection,)).start()

    def repeat(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)
            except OSError:
                pass  # it was reset, as some tests want

    server = threading.Thread(target=serve)
    server.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    server.join(PATIENCE)


@pytest.fixture
def proxied(echo: str) -> Iterator[tuple[Proxy, socket.socket]]:
    """A proxy of a link to that server, and a connection through it."""
    (port,) = free_ports(1)
    proxy = Proxy({"b": (f"127.0.0.1:{port}", echo)}, seed=1)
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            yield proxy, client
    finally:
        proxy.close()


def round_trip(client: socket.socket, data: bytes = b"x") -> float:
    """Send something and wait until it is back; return the seconds that took."""
    began, back = time.monotonic(), b""
    client.sendall(data)
    while len(back) < len(data) and (piece := client.recv(1 << 16)):
        back += piece
    assert back == data
    return time.monotonic() - began


def test_fair_weather_lets_everything_through(proxied: tuple[Proxy, socket.socket]) -> None:
    _, client = proxied
    client.settimeout(PATIENCE)
    sender = threading.Thread(target=client.sendall, args=(bytes(range(256)) * 8192,))
    sender.start()
    back = bytearray()
    while len(back) < 256 * 8192:
        back += client.recv(1 << 16)
    sender.join()
    assert back == bytes(range(256)) * 8192


@pytest.mark.parametrize(("weather", "seconds"), [(Weather(delay=0.2), 0.2), (Weather(rate=1000.0), 0.5), (Weather(loss=0.5), 0.2)])
def test_bad_weather_makes_it_late(proxied: tuple[Proxy, socket.socket], weather: Weather, seconds: float) -> None:
    proxy, client = proxied
    round_trip(client)
    proxy.set("b", weather)
    while round_trip(client, bytes(500)) < seconds:
        assert weather.loss, "it came too early"  # or was lucky, or was sent before the proxy had read its order
    proxy.set("b", FAIR)
    assert min(round_trip(client) for _ in range(20)) < seconds


@pytest.mark.parametrize("silent", ["there", "back", "both"])
def test_a_silent_link_is_silent_until_it_is_not(proxied: tuple[Proxy, socket.socket], silent: str) -> None:
    proxy, client = proxied
    round_trip(client)
    nothing = Weather(silent=True)
    proxy.set("b", nothing if silent != "back" else FAIR, nothing if silent != "there" else FAIR)
    client.settimeout(0.5)
    client.sendall(b"late")
    with pytest.raises(TimeoutError):
        client.recv(10)
    client.settimeout(PATIENCE)
    proxy.set("b")
    assert client.recv(10) == b"late"


def test_a_reset_ends_the_connections_of_a_link(proxied: tuple[Proxy, socket.socket]) -> None:
    proxy, client = proxied
    round_trip(client)
    proxy.reset("b")
    with pytest.raises(ConnectionResetError):
        client.recv(10)


def test_a_server_that_is_not_there_ends_the_connection() -> None:
    here, nowhere = free_ports(2)
    proxy = Proxy({"b": (f"127.0.0.1:{here}", f"127.0.0.1:{nowhere}")})
    try:
        with socket.create_connection(("127.0.0.1", here), PATIENCE) as client:
            assert client.recv(10) == b""
    finally:
        proxy.close()

"""The load on etcd, over grpcio.

One operation at a time goes over a blocking channel, which has the lower latency; many in flight go over grpc.aio, which has the higher
rate.  Lists of endpoints begin with the leader's.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import Any, TypeAlias

import grpc
import grpc.aio
from attrs import frozen

from benchmarks import protobuf
from benchmarks.etcd_messages import RangeResponse, WatchResponse
from benchmarks.meters import process_cpu
from benchmarks.peer import wait_until
from benchmarks.workloads import (
    CAP,
    COUNTER,
    KEYS,
    KV,
    LAST,
    LOCK,
    WATCHED,
    Workload,
    drive_sequential,
    drive_together,
    key,
    key_numbers,
    make_values,
    stamp,
    stamped,
)

CHANNELS = 2
"""Connections that many in flight are spread over; more make it slower."""

PROBES_PER_SECOND = 200
PROBE_TIMEOUT = 1.0
FAIL_OVER_TIMEOUT = 30.0
LEASE_TTL = 60
"""Seconds for which a lock outlives its holder: longer than a repeat takes, so that nothing has to be kept alive."""

OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", -1),
]
VALUES = make_values()
NUMBERS = key_numbers(50_000)

Operate: TypeAlias = Callable[[int], object]
Begin: TypeAlias = Callable[[int], Awaitable[object]]


@frozen
class Done:
    """What a load was like.

    Args:
        latencies: seconds of each operation.
        seconds: of all together.
        cpu: seconds of this process.
        operations: how many are counted, where not every one has a latency.
    """

    latencies: list[float]
    seconds: float
    cpu: float
    operations: int | None = None


def run(workload: Workload, operations: int, endpoints: Sequence[str]) -> Done:
    """Run a workload once."""
    if workload.kind == "watch" and workload.in_flight == 1:
        return _watch_one(operations, endpoints)
    if workload.kind == "watch":
        return asyncio.run(_watch_many(workload, operations, endpoints))
    if workload.kind == "lock":
        return _contend(workload, operations, endpoints)
    if workload.kind == "cas":
        return asyncio.run(_swap(workload, operations, endpoints[0]))
    endpoint = endpoints[0 if workload.leader else 1]
    if workload.in_flight == 1:
        return _sequentially(workload, operations, endpoint)
    return asyncio.run(_concurrently(workload, operations, endpoint))


def _own_cpu() -> float:
    return process_cpu(os.getpid())


def _put_request(number: int, values: Sequence[bytes] = VALUES) -> bytes:
    return protobuf.put_request(key(NUMBERS[number % len(NUMBERS)]), values[number % len(values)])


# -- one at a time -------------------------------------------------------------------------------------------------------------------


def _sequentially(workload: Workload, operations: int, endpoint: str) -> Done:
    with grpc.insecure_channel(endpoint, options=OPTIONS) as channel:
        operation = _operation(workload, channel)
        operation(0)
        before = _own_cpu()
        latencies, seconds = drive_sequential(operations, operation)
        return Done(latencies, seconds, _own_cpu() - before, len(latencies) * workload.each)


def _operation(workload: Workload, channel: Any) -> Operate:
    if workload.kind == "put":
        put = channel.unary_unary(protobuf.PUT)
        return lambda number: put(_put_request(number))
    if workload.kind == "scan":
        scan = channel.unary_unary(protobuf.RANGE, response_deserializer=RangeResponse.FromString)
        return partial(_scan, scan, protobuf.scan_request(KV, KEYS))
    get, request = channel.unary_unary(protobuf.RANGE), protobuf.range_request(key(5), serializable=workload.consistency == "local")
    if protobuf.found_value(get(request)) is None:
        raise RuntimeError("etcd does not have the key that was put")
    return lambda _: get(request)


def _scan(scan: Any, request: bytes, _: int) -> None:
    """Scan, and take the keys and values out of the answer, as their user would."""
    found = [(pair.key, pair.value) for pair in scan(request).kvs]
    if len(found) != KEYS:
        raise RuntimeError(f"{len(found):,} keys where there should be {KEYS:,}")


# -- many in flight ------------------------------------------------------------------------------------------------------------------


async def _together(begin: Sequence[Begin], operations: int, cap: float = CAP) -> Done:
    """Have each of ``begin`` do one operation after the other, all at the same time, until so many are done."""
    latencies: list[float] = []
    clock = time.perf_counter
    upcoming = iter(range(operations))
    cpu, begun = _own_cpu(), clock()

    async def worker(operate: Begin) -> None:
        for number in upcoming:
            start = clock()
            if start - begun > cap:
                return
            await operate(number)
            latencies.append(clock() - start)

    await asyncio.gather(*map(worker, begin))
    return Done(latencies, clock() - begun, _own_cpu() - cpu)


def _open(stack: AsyncExitStack, endpoint: str) -> Any:
    """Return a channel that ends with the stack."""
    channel = grpc.aio.insecure_channel(endpoint, options=OPTIONS)
    stack.push_async_callback(channel.close)
    return channel


async def _spread(endpoint: str, method: str, request: Callable[[int], bytes], in_flight: int, operations: int, cap: float = CAP) -> Done:
    """Keep so many calls under way, over all channels alike."""
    async with AsyncExitStack() as stack:
        calls = [_open(stack, endpoint).unary_unary(method) for _ in range(CHANNELS)]
        for call in calls:
            await call(request(0))
        begin = [_beginning(call, request) for call in calls]
        return await _together([begin[number % CHANNELS] for number in range(in_flight)], operations, cap)


def _beginning(call: Any, request: Callable[[int], bytes]) -> Begin:
    return lambda number: call(request(number))


async def _concurrently(workload: Workload, operations: int, endpoint: str) -> Done:
    if workload.kind == "get":
        request = protobuf.range_request(key(5), serializable=workload.consistency == "local")
        return await _spread(endpoint, protobuf.RANGE, lambda _: request, workload.in_flight, operations)
    values = make_values(workload.value_bytes)
    return await _spread(endpoint, protobuf.PUT, lambda number: _put_request(number, values), workload.in_flight, operations)


async def store(endpoint: str, count: int, key_of: Callable[[int], bytes]) -> None:
    """Put so many keys, each once."""
    await _spread(
        endpoint, protobuf.PUT, lambda number: protobuf.put_request(key_of(number), VALUES[number % len(VALUES)]), 512, count, float("inf")
    )


def find(endpoint: str, one: bytes) -> None:
    """Wait until a member serves a key from its own state."""
    request = protobuf.range_request(one, serializable=True)

    def look() -> bytes | None:
        with grpc.insecure_channel(endpoint, options=OPTIONS) as channel:
            try:
                return protobuf.found_value(channel.unary_unary(protobuf.RANGE)(request, timeout=0.5))
            except grpc.RpcError:
                return None

    wait_until(look, "key in the member that was started again")


# -- contenders ----------------------------------------------------------------------------------------------------------------------


async def _swap(workload: Workload, operations: int, endpoint: str) -> Done:
    """Add to one counter by compare-and-swap; each contender has a channel of its own."""
    async with AsyncExitStack() as stack:
        calls = [_open(stack, endpoint).unary_unary(protobuf.TXN) for _ in range(workload.in_flight)]
        await _open(stack, endpoint).unary_unary(protobuf.PUT)(protobuf.put_request(COUNTER, b"0"))
        return await _together([_swapper(call) for call in calls], operations)


def _swapper(call: Any) -> Begin:
    """Return what adds one; what it read or put last is where it begins the next time."""
    value = revision = 0

    async def swap(_: int) -> None:
        nonlocal value, revision
        while True:
            swapped = protobuf.Swapped.decode(await call(protobuf.swap_request(COUNTER, revision, b"%d" % (value + 1))))
            revision = swapped.revision
            if swapped.succeeded:
                value += 1
                return
            value = int(swapped.value)

    return swap


def _contend(workload: Workload, operations: int, endpoints: Sequence[str]) -> Done:
    """Take a lock of etcd's lock service and give it back; each contender has a thread, a channel and a lease of its own."""
    used = endpoints if workload.spread else endpoints[:1]
    with ExitStack() as stack:
        contenders = [
            _contender(stack.enter_context(grpc.insecure_channel(used[number % len(used)], options=OPTIONS)))
            for number in range(workload.in_flight)
        ]
        before = _own_cpu()
        latencies, seconds, _ = drive_together(operations, contenders)
        return Done(latencies, seconds, _own_cpu() - before)


def _contender(channel: Any) -> Operate:
    lease = random.getrandbits(62) + 1
    channel.unary_unary(protobuf.GRANT)(protobuf.grant_request(LEASE_TTL, lease))
    lock, unlock = channel.unary_unary(protobuf.LOCK), channel.unary_unary(protobuf.UNLOCK)
    request = protobuf.lock_request(LOCK.encode(), lease)

    def take_and_give_back(_: int) -> None:
        unlock(protobuf.unlock_request(lock(request)))

    take_and_give_back(0)
    return take_and_give_back


# -- watches -------------------------------------------------------------------------------------------------------------------------


def _stamped_put(number: int) -> bytes:
    return protobuf.put_request(WATCHED, stamped(VALUES[number % len(VALUES)]))


def _watch_one(operations: int, endpoints: Sequence[str]) -> Done:
    """Put at the leader while a thread watches at a follower."""
    latencies: list[float] = []
    ready = threading.Event()

    def listen(stream: Any) -> None:
        for response in stream:
            now = time.monotonic_ns()
            if response.created:
                ready.set()
            for event in response.events:
                if event.kv.value == LAST:
                    return
                latencies.append((now - stamp(event.kv.value)) / 1e9)

    with grpc.insecure_channel(endpoints[0], options=OPTIONS) as putting, grpc.insecure_channel(endpoints[1], options=OPTIONS) as watching:
        put = putting.unary_unary(protobuf.PUT)
        put(_put_request(0))
        ended = threading.Event()
        stream = watching.stream_stream(protobuf.WATCH, response_deserializer=WatchResponse.FromString)(_asking(1, ended))
        thread = threading.Thread(target=listen, args=(stream,))
        thread.start()
        ready.wait(CAP)
        before = _own_cpu()
        _, seconds = drive_sequential(operations, lambda number: put(_stamped_put(number)))
        cpu = _own_cpu() - before
        put(protobuf.put_request(WATCHED, LAST))
        thread.join(CAP)
        ended.set()
    return Done(latencies, seconds, cpu)


def _asking(watchers: int, ended: threading.Event) -> Any:
    """Yield the requests of a stream that stays open until ``ended``."""
    for _ in range(watchers):
        yield protobuf.watch_request(WATCHED)
    ended.wait()


async def _watch_many(workload: Workload, operations: int, endpoints: Sequence[str]) -> Done:
    """Put at the leader while tasks read watches at a follower, a stream on each channel."""
    async with AsyncExitStack() as stack:
        shares = [workload.watchers // CHANNELS] * CHANNELS
        streams = [await _listen(_open(stack, endpoints[1]), share) for share in shares]
        put = _open(stack, endpoints[0]).unary_unary(protobuf.PUT)
        await put(_put_request(0))
        cpu, begun = _own_cpu(), time.perf_counter()
        readers = [asyncio.create_task(_read(stream, share)) for stream, share in zip(streams, shares, strict=True)]
        await _together([lambda number: put(_stamped_put(number))] * workload.in_flight, operations)
        await put(protobuf.put_request(WATCHED, LAST))
        read = await asyncio.wait_for(asyncio.gather(*readers), 3 * CAP)
        seconds, cpu = time.perf_counter() - begun, _own_cpu() - cpu
        for stream in streams:
            stream.cancel()
    return Done([latency for latencies, _ in read for latency in latencies], seconds, cpu, sum(events for _, events in read))


async def _listen(channel: Any, watchers: int) -> Any:
    stream = channel.stream_stream(protobuf.WATCH, response_deserializer=WatchResponse.FromString)()
    for _ in range(watchers):
        await stream.write(protobuf.watch_request(WATCHED))
    for _ in range(watchers):
        if not (await stream.read()).created:
            raise RuntimeError("etcd did not begin a watch")
    return stream


async def _read(stream: Any, watchers: int) -> tuple[list[float], int]:
    """Read until the last event has come once for each watcher; the clock is looked at once in so many events."""
    latencies: list[float] = []
    events = ended = 0
    while ended < watchers:
        response = await stream.read()
        for event in response.events:
            value = event.kv.value
            if value == LAST:
                ended += 1
                continue
            events += 1
            if events % watchers == 0:
                latencies.append((time.monotonic_ns() - stamp(value)) / 1e9)
    return latencies, events


# -- fail-over -----------------------------------------------------------------------------------------------------------------------


async def probe(endpoints: Sequence[str], kill: Callable[[], None]) -> float:
    """Put 200 times a second over all members, kill one, and return the seconds from there to the first put that began after it.

    Raises:
        TimeoutError: no put succeeded any more.
    """
    channels = [grpc.aio.insecure_channel(endpoint, options=OPTIONS) for endpoint in endpoints]
    calls = [channel.unary_unary(protobuf.PUT) for channel in channels]
    succeeded: list[tuple[float, float]] = []

    async def put(number: int) -> None:
        started = time.monotonic()
        try:
            await calls[number % len(calls)](_put_request(number), timeout=PROBE_TIMEOUT)
        except grpc.RpcError:
            return
        succeeded.append((started, time.monotonic()))

    begun = time.monotonic()
    kill_at = begun + 1.0 + random.random() * 0.2
    killed = first = float("inf")
    puts: list[asyncio.Task[None]] = []
    while first == float("inf") and time.monotonic() < begun + FAIL_OVER_TIMEOUT:
        puts.append(asyncio.create_task(put(len(puts))))
        if killed == float("inf") and time.monotonic() > kill_at:
            killed = time.monotonic()
            kill()
        first = min((end for start, end in succeeded if start >= killed), default=float("inf"))
        await asyncio.sleep(1 / PROBES_PER_SECOND)
    await asyncio.gather(*puts)
    for channel in channels:
        await channel.close()
    if first == float("inf"):
        raise TimeoutError("no put succeeded after the leader was killed")
    return first - killed

"""What a seed stands for: the size of the cluster, its limits, the faults it has to live with.

Each fault is left out of most runs, and limits are drawn tiny: a run with everything switched on hides what a run with three things
switched on finds (Groce et al., Swarm Testing, 2012).
"""

from __future__ import annotations

import random

from attrs import evolve, frozen

from replkv.config import Config, Settings
from replkv.testing.knobs import draw_knobs
from replkv.testing.network import Weather

FAULTS = (
    "kill",  # a process ends; what it wrote is kept
    "power",  # a machine stops: what was not synced may be lost, nobody is told
    "away",  # a machine stops for so long that it misses much
    "blackout",  # all machines stop at once
    "crash_at_disk",  # power is lost in the middle of a change to the disk
    "tear",  # power is lost in the middle of a flush, of which some sectors are written
    "crash_at_send",  # power is lost between two messages of one turn
    "crash_all_at_disk",  # power is lost everywhere, in the middle of a change to one of the disks
    "restarts",  # processes end and begin again, one after the other, faster than elections are decided
    "pause",  # a process stands still and then goes on as if nothing had happened
    "slow_member",  # a process is short of time: each turn takes long
    "isolate",  # one member is cut off
    "halves",  # the members are cut into two groups
    "one_way",  # single directions are cut
    "ring",  # each member sees only its neighbours
    "bridge",  # two groups that share one member
    "swizzle",  # links are cut one after the other, and heal in another order
    "reset",  # connections break
    "half_open",  # connections break, and one side does not know
    "slow_link",  # single directions are slow
    "lossy_link",  # single directions lose much
    "slow_disk",  # syncs take long
    "hang",  # a sync takes up to a minute
    "disk_error",  # a sync fails
    "disk_full",  # no space is left
    "wipe",  # a disk is replaced by an empty one; never those of a majority
    "rot",  # a bit of a disk flips; never on the disks of a majority
    "close",  # a member is closed as it should be, and started again
)
TRAFFIC = (
    "transfer",  # leadership is handed over
    "reconfigure",  # members become voters or learners, or neither, and come back, each step by the simulator's own will
    "membership",  # administrators say who is wanted as a member, new ones and replaced ones too, and the leaders see to it
    "move",  # members go on at other addresses
)
"""What is no fault, but no less trouble."""
ABOUT_MEMBERS = "membership", "wipe", "move", "kill"
CHANGES_WHO_VOTES = frozenset({"reconfigure", "membership", "wipe"})
"""With these a damaged member can't count on it that all whom it knows can still be asked."""

MANY_PIECES: dict[str, float] = {
    "snapshotting.CHUNK": 400,
    "machine.CHUNK_MAX": 100,
    "machine._PART": 1,
    "machine.SLICE": 1,
    "node.APPLY_SLICE": -1.0,
    "node.AHEAD": 1,
    "kv.SLICE": 1,
    "txn.SLICE": 1,
    "session.KEPT_MAX": 3,
    "snapshotting.LARGE": 1 << 20,  # the product's, in effect: none of these snapshots is that large, so they stay frequent
}
"""Knobs with which snapshots and entries are worked on in many pieces, and answers are not kept."""

SIZES = (1, 2, *(3,) * 14, 4, 5, 5, 5, 6, 7)
"""Numbers of members, as often as they are drawn."""


@frozen
class Scenario:
    """Everything that is drawn from a seed before the first event.

    Args:
        seed: the number it was drawn from.
        names: of the founders.
        spares: names of others that may become members.
        settings: of the cluster.
        config: of every member.
        duration: virtual seconds of the phase with faults.
        faults: the kinds of faults that may happen.
        fault_every: virtual seconds between two faults, on average.
        bursts: how many faults come right behind another one.
        lulls: how many come behind a while in which all is well.
        weather: how the network treats frames.
        drift: how far the clocks' rates may differ from 1; lease reads are only promised below 0.5 %.
        creep: seconds a look at the clock costs, so that work is cut into slices.
        clients: how many work at once.
        think: seconds between two calls of a client, on average.
        writes: the share of calls that write; few leave the followers equal to their leader most of the time.
        keys: how many different keys they use.
        values: bytes of most values at most, besides a few; some are larger.
        holders: how many of leases work at once.
        users: how many there are in members' processes, and as many outside; 0: everybody may do everything.
        ttls: seconds that leases live.
        compactions: whether clients ask for some.
        watchers: how many consumers of watches there are.
        patience: seconds a client waits for an answer at most.
        snapshot_step: seconds a step of a snapshot takes at most.
        knobs: sizes that are not as in the product.
        strikes: the numbers of the faults that happen; None: all of them.
    """

    seed: int
    names: tuple[str, ...]
    spares: tuple[str, ...]
    settings: Settings
    config: Config
    duration: float
    faults: tuple[str, ...]
    fault_every: float
    bursts: float
    lulls: float
    weather: Weather
    drift: float
    creep: float
    clients: int
    think: float
    writes: float
    keys: int
    values: int
    holders: int
    ttls: tuple[float, ...]
    compactions: bool
    watchers: int
    patience: float
    snapshot_step: float
    knobs: dict[str, float]
    users: int = 0
    strikes: frozenset[int] | None = None

    @property
    def steers(self) -> bool:
        """Whether leaders bring the configuration to what is wanted; otherwise it is changed in ways they never would."""
        return "reconfigure" not in self.faults

    @property
    def good_clocks(self) -> bool:
        """Whether the clocks are good enough for reads under the leader's lease, and for holders of leases to give up in time."""
        return self.drift < 0.005


def draw(seed: int) -> Scenario:
    """Return the scenario of a seed."""
    rng = random.Random(f"scenario {seed}")
    size = rng.choice(SIZES)
    share = rng.choice((0.1, 0.3, 0.6))
    clients = rng.choice((1, 3, 6))
    settings, faults = _settings(rng), _faults(rng, share)
    scenario = Scenario(
        seed=seed,
        names=tuple("abcdefg"[:size]),
        spares=tuple("xyz"[: rng.choice((1, 2, 3))]) if "membership" in faults else (),
        settings=settings,
        config=_config(rng),
        duration=rng.uniform(5.0, 12.0) * min(1.0, 4 / size),
        faults=faults,
        fault_every=rng.choice((0.2, 0.5, 1.5)),
        bursts=rng.choice((0.0, 0.2, 0.5)),
        lulls=rng.choice((0.0, 0.1, 0.3)),
        weather=_weather(rng),
        drift=rng.choice((0.0, 0.004, 0.05)),
        creep=rng.choice((0.0, 0.0, 0.0003)),
        clients=clients,
        think=rng.choice((0.02, 0.05, 0.2, 1.0)) * max(1.0, clients * size / 9),
        writes=rng.choice((0.1, 0.6, 0.6)),
        keys=rng.choice((1, 4, 16)),
        values=rng.choice((0, 0, 2500)),
        holders=rng.choice((0, 2, 4)),
        ttls=rng.choice(((settings.min_ttl, 0.7), (0.5, 1.0, 3.0), (2.0,))),
        compactions=rng.random() < 0.6,
        watchers=rng.choice((0, 3, 8)),
        patience=rng.choice((0.3, 1.0, 4.0)),
        snapshot_step=rng.choice((0.0005, 0.02, 0.4)),
        knobs=draw_knobs(rng, random.Random(f"knobs of {seed}")),
        users=random.Random(f"users of {seed}").choice((0, 0, 2, 4)),
    )
    about = rng.random()
    if about < 0.15:
        return _about_snapshots(scenario)
    return _about_members(scenario, rng) if about < 0.27 else scenario


def calm(segment_bytes: int = Config().segment_bytes, patience: float = 4.0) -> Scenario:
    """Return a scenario of three members in which nothing happens by itself, for scripts.

    Args:
        segment_bytes: of the log.
        patience: seconds a client waits for an answer at most.
    """
    return evolve(
        draw(1),
        names=("a", "b", "c"),
        spares=(),
        settings=Settings(),
        config=Config(segment_bytes=segment_bytes),
        faults=(),
        weather=Weather(),
        drift=0.0,
        creep=0.0,
        clients=0,
        holders=0,
        watchers=0,
        users=0,
        patience=patience,
        snapshot_step=0.0005,
        knobs={},
    )


def _about_snapshots(scenario: Scenario) -> Scenario:
    """Return a scenario in which members fall behind, and catch up by snapshots of many pieces: by chance alone that is rare."""
    return evolve(
        scenario,
        config=evolve(scenario.config, snapshot_bytes=300),
        faults=tuple(dict.fromkeys((*scenario.faults, "away", "isolate", "restarts"))),
        fault_every=min(scenario.fault_every, 0.5),
        writes=0.6,
        values=0,
        knobs={**scenario.knobs, **MANY_PIECES},
    )


def _about_members(scenario: Scenario, rng: random.Random) -> Scenario:
    """Return a scenario in which members come, go, move and lose their disks, and little else is wrong that could keep them from it."""
    others = [fault for fault in scenario.faults if fault not in ("reconfigure", *ABOUT_MEMBERS)]
    return evolve(
        scenario,
        spares=("x", "y", "z"),
        faults=(*ABOUT_MEMBERS, *ABOUT_MEMBERS, *rng.sample(others, min(3, len(others)))),
        fault_every=0.5,
        lulls=0.3,
    )


def _faults(rng: random.Random, share: float) -> tuple[str, ...]:
    faults = [each for each in FAULTS if rng.random() < share] + [each for each in TRAFFIC if rng.random() < 0.5]
    if "reconfigure" in faults and "membership" in faults:
        faults.remove(rng.choice(("reconfigure", "reconfigure", "membership")))
    return tuple(faults)


def _settings(rng: random.Random) -> Settings:
    election_timeout, heartbeat, promise = rng.choice(((1.5, 0.1, 0.15), (1.5, 0.1, 0.15), (0.8, 0.05, 0.2), (1.0, 0.1, 0.3)))
    session_ttl = rng.choice((600.0, 600.0, 2.0))
    return Settings(
        election_timeout=election_timeout,
        heartbeat=heartbeat,
        promise=promise,
        session_ttl=session_ttl,
        max_bytes=rng.choice((1 << 31, 1 << 31, 20_000, 5_000)),
        compact_age=rng.choice((3600.0, 0.0, 1.0)),
        compact_revisions=rng.choice((1_000_000, 0, 30, 5)),
        compact_bytes=rng.choice((1 << 28, 0, 5_000, 1_000)),
    )


def _config(rng: random.Random) -> Config:
    return Config(
        segment_bytes=rng.choice((16, 32, 64)) << 10,
        snapshot_bytes=rng.choice((300, 300, 1000, 4 << 10, 1 << 20)),
        trailing_entries=rng.choice((1, 1, 10)),
        block_bytes=rng.choice((200, 2000, 512 << 10)),
        max_commands_in_flight=rng.choice((100_000, 100_000, 3)),
        max_bytes_in_flight=rng.choice((64 << 20, 64 << 20, 2000)),
    )


def _weather(rng: random.Random) -> Weather:
    """Draw a network: as good as TCP in half of the runs, worse than any in the others."""
    weather = Weather(delay_mean=rng.choice((0.0003, 0.0003, 0.003, 0.02)), stall=rng.random() < 0.5, queue=rng.choice((64, 64, 3)))
    if rng.random() < 0.5:
        weather.loss = rng.choice((0.0, 0.01, 0.1, 0.3))
        weather.doubling = rng.choice((0.0, 0.01, 0.2, 0.5))
        weather.reordering = rng.choice((0.0, 0.01, 0.3))
        weather.damage = rng.choice((0.0, 0.0, 0.005))
        weather.misrouting = rng.choice((0.0, 0.0, 0.002))
        weather.rate = rng.choice((float("inf"), float("inf"), 200_000.0, 30_000.0))
    return weather

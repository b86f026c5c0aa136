"""``replkv status``: every member that can be asked, side by side."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import attrs
from attrs import frozen
from rich.console import Group
from rich.live import Live
from rich.text import Text

from replkv import Client, Member, ReplkvError, Status, Transfer, Unavailable, connect
from replkv.cli.asking import told
from replkv.cli.codes import complain
from replkv.cli.forms import draw, print_json, table
from replkv.letters import ADDRESSES

if TYPE_CHECKING:
    from rich.console import RenderableType

    from replkv.cli.asking import Asking

PATIENCE: Final = 1.0
"""Seconds that a further member has to answer: who looks at a cluster does not want to wait for those that are down."""
HEADINGS: Final = ("member", "address", "state", "term", "revision", "commit", "applied", "last", "lag", "condition")
BAR: Final = 10
"""Characters that show how far a snapshot is."""
NUMBERS: Final = ("term", "revision", "commit", "applied", "last", "lag")


@frozen
class Row:
    """What is known of one member.

    Args:
        name: of it.
        address: at which the others reach it; empty: it is alone, or listens to nobody.
        learner: it follows without a vote.
        status: what it says itself; None: it was not asked, or did not answer.
        reachable: whether the members that were asked can reach it.
    """

    name: str
    address: str
    learner: bool
    status: Status | None
    reachable: bool

    def as_json(self) -> dict[str, Any]:
        """Return it for scripts; what only the member itself can say is missing where it did not answer."""
        said = {} if self.status is None else attrs.asdict(self.status)
        known = {"name": self.name, "address": self.address, "learner": self.learner, "reachable": self.reachable}
        return {**known, "answered": self.status is not None, **said}


@frozen
class Panorama:
    """A cluster as its members describe it; ``rows`` in the order of their names."""

    rows: tuple[Row, ...]

    @property
    def answers(self) -> list[Status]:
        """What the members say that answered."""
        return [row.status for row in self.rows if row.status is not None]

    @property
    def leader(self) -> str | None:
        """The leader of the newest term that anybody knows of."""
        known = [(status.raft_term, status.raft_leader) for status in self.answers if status.raft_leader]
        return max(known)[1] if known else None

    @property
    def commit(self) -> int:
        """How far the log is decided, as far as anybody knows."""
        return max((status.commit_index for status in self.answers), default=0)

    def as_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        return {"leader": self.leader, "commit_index": self.commit, "members": [row.as_json() for row in self.rows]}


def look(asking: Asking) -> Panorama:
    """Ask a member for the others, and each of those that can be asked how it is.

    Raises:
        NoLeader: nobody answered.
        UsageError: a target is wrong.
    """
    with asking.client() as client:
        first, members, learnt = client.status(), client.members(), _learnt(client)
    others = [url for name, url in learnt.items() if name != first.name] + (list(asking.targets) if len(asking.targets) > 1 else [])
    statuses = {first.name: first, **{status.name: status for status in _ask(others, asking)}}
    return Panorama(tuple(_rows(statuses, members)))


def _learnt(client: Client) -> dict[str, str]:
    """Return where members serve clients beyond their own machine, by their names."""
    with suppress(Unavailable):  # there is no cluster yet
        pairs = client.scan(prefix=ADDRESSES, consistency="local")
        return {kv.key[len(ADDRESSES) :].decode(errors="replace"): kv.value.decode(errors="replace") for kv in pairs}
    return {}


def _ask(targets: Iterable[str], asking: Asking) -> list[Status]:
    """Ask each of several members by itself, all at once."""
    patience = min(PATIENCE, asking.timeout)

    def ask(target: str) -> Status | None:
        try:
            with connect(target, **asking.how, timeout=patience) as client:
                return client.status(timeout=patience)
        except (ReplkvError, ValueError):  # ValueError: it is on another machine, and --insecure was not said
            return None

    unique = list(dict.fromkeys(targets))
    if not unique:
        return []
    with ThreadPoolExecutor(len(unique)) as pool:
        return [status for status in pool.map(ask, unique) if status is not None]


def _rows(statuses: dict[str, Status], members: list[Member]) -> Iterable[Row]:
    known = {member.name: member for member in members}
    for name in sorted({*known, *statuses}):
        member = known.get(name, Member(name, "", learner=False, healthy=False))
        missed = any(name in status.unreachable for status in statuses.values())
        yield Row(name, member.address, member.learner, statuses.get(name), name in statuses or (member.healthy and not missed))


# -- to look at --------------------------------------------------------------------------------------------------------------------


def drawn(panorama: Panorama) -> RenderableType:
    """Return it as a table, with a line below for those that could not be asked."""
    rows = [_cells(row, panorama) for row in panorama.rows]
    leader = f"leader {panorama.leader}" if panorama.leader else "no leader is known"
    level = max((status.level for status in panorama.answers), default=0)
    count = f"{len(rows)} {'members' if len(rows) > 1 else 'member'}"
    drawing = table(HEADINGS, rows, right=NUMBERS, title=f"{count}, {leader}{f', feature level {level}' if level else ''}")
    silent = [row.name for row in panorama.rows if row.status is None and row.reachable]
    if not silent:
        return drawing
    hint = f"not asked: {', '.join(silent)}; name the data directories, or addresses at which they serve clients, with further --to"
    return Group(drawing, Text(hint, "dim"))


def _cells(row: Row, panorama: Panorama) -> list[Text]:
    address = Text(row.address.removeprefix("tcp://") or "–", "dim")
    status = row.status
    if status is None:
        said = Text("not asked", "dim") if row.reachable else Text("unreachable", "bold red")
        return [Text(row.name), address, said, *[Text("")] * len(NUMBERS), Text("")]
    leads = status.name == panorama.leader
    state = Text(f"● {status.state}" if leads else status.state, _style(status, leads=leads))
    lag = panorama.commit - status.applied_index
    numbers = (status.raft_term, status.revision, status.commit_index, status.applied_index, status.last_index)
    figures = [*[Text(f"{number:,}") for number in numbers], Text(f"{lag:,}", "yellow" if lag else "")]
    return [Text(row.name, "bold"), address, state, *figures, _condition(row, status)]


def _style(status: Status, *, leads: bool) -> str:
    if status.state in ("failed", "removed", "closed"):
        return "bold red"
    return "bold green" if leads else "green" if status.state == "follower" else "yellow"


def _condition(row: Row, status: Status) -> Text:
    """Return what there is to say beside figures."""
    troubles = [
        (status.failure, "bold red"),
        ("disk full" if status.name in status.full else "", "red"),
        (f"healing: {status.healing}" if status.healing else "", "yellow"),
        (f"can't reach {', '.join(status.unreachable)}" if status.unreachable else "", "yellow"),
        *[(_told(transfer), "cyan") for transfer in status.transfers],
        ("learner" if row.learner else "", "dim"),
    ]
    said = [Text(text, style) for text, style in troubles if text]
    return Text("; ").join(said) if said else Text("ok", "green")


def _told(transfer: Transfer) -> str:
    """Return how far a snapshot is, with a bar."""
    of_whom = {"sending": f" to {transfer.peer}", "receiving": f" from {transfer.peer}"}.get(transfer.doing, "")
    full = int(transfer.share * BAR)
    bar = "█" * full + "░" * (BAR - full)
    return f"{transfer.doing} a snapshot{of_whom} {bar} {transfer.share:.0%} of {transfer.total / 1e6:,.1f} MB"


def show(asking: Asking) -> None:
    """Look once."""
    panorama = look(asking)
    if asking.as_json:
        print_json(panorama.as_json())
    else:
        draw(drawn(panorama))


def follow(asking: Asking, interval: float) -> None:
    """Look again and again, until Ctrl-C; on a terminal in one place.

    Args:
        asking: whom.
        interval: seconds between two looks.
    """
    if asking.as_json or not sys.stdout.isatty():
        while True:
            try:
                show(asking)
            except ReplkvError as error:
                complain(told(error))
            time.sleep(interval)
    with Live(auto_refresh=False) as live:
        while True:
            live.update(_seen(asking), refresh=True)
            time.sleep(interval)


def _seen(asking: Asking) -> RenderableType:
    try:
        return drawn(look(asking))
    except ReplkvError as error:
        return Text(told(error), "red")

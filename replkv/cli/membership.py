"""The commands for who the members are, and who leads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from replkv.cli.asking import Asking, asking
from replkv.cli.forms import draw, print_json, table


def _place(value: str) -> tuple[str, str]:
    name, separator, where = value.partition("=")
    if not separator:
        raise click.BadParameter(f"{value!r} is not NAME=ADDRESS")
    return name, where


def _by_name(places: Sequence[tuple[str, str]]) -> dict[str, str]:
    found = dict(places)
    if len(found) < len(places):
        raise click.UsageError("a member is named twice", click.get_current_context(silent=True))
    return found


@click.command()
@asking()
@click.option("--add", type=_place, multiple=True, metavar="NAME=ADDRESS", help="Name one that is to have a vote. May be repeated.")
@click.option("--learner", type=_place, multiple=True, metavar="NAME=ADDRESS", help="Name one that gets everything, but no vote.")
@click.option("--remove", multiple=True, metavar="NAME", help="Remove one for good: only with an empty directory it can come again.")
@click.option("--promote", multiple=True, metavar="NAME", help="Give a learner a vote.")
def members(asked: Asking, add: Any, learner: Any, remove: tuple[str, ...], promote: tuple[str, ...]) -> None:
    """List the members, as the one that answers sees them.

    With --add, --learner and --remove, change who they are before, in one step that is decided once: a member is replaced by one command.
    Those that come are started with --join or --cluster, before or after; they get their vote when they have caught up.
    """
    with asked.client() as client:
        if add or learner or remove:
            client.change_members(add=_by_name(add), remove=remove, learners=_by_name(learner))
        for name in promote:
            client.promote(name)
        found = client.members()
    if asked.as_json:
        print_json([{"name": one.name, "address": one.address, "learner": one.learner, "healthy": one.healthy} for one in found])
        return
    rows = [
        (one.name, one.address.removeprefix("tcp://") or "–", "learner" if one.learner else "voter", "yes" if one.healthy else "no")
        for one in found
    ]
    draw(table(("member", "address", "role", "reachable"), rows))


@click.command()
@asking()
@click.argument("name", required=False)
def transfer(asked: Asking, name: str | None) -> None:
    """Hand the leadership to the member NAME, or to the fittest of those that don't lead.

    Writes go on; they pause for some milliseconds. Prints who leads then. If it can't be done within --timeout the exit code is 75, and
    the text says what is in the way.
    """
    with asked.client() as client:
        client.transfer_leadership(name)
        if name is None:
            client.wait_ready(asked.timeout)
            name = client.status().raft_leader
    if asked.as_json:
        print_json({"leader": name})
    else:
        click.echo(f"{name} leads" if name is not None else "handed over")

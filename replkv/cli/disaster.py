"""The commands for backups, and those that make a new cluster out of what is left of an old one, which work on files alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from attrs import asdict
from rich.console import Console
from rich.status import Status

from replkv import NewCluster, recover_lost_majority, restore
from replkv.cli.asking import Asking, asking, usage
from replkv.cli.codes import OK, UNAVAILABLE, complain
from replkv.cli.forms import print_json
from replkv.new_cluster import REVISION_GAP


def _members(text: str) -> dict[str, str]:
    members: dict[str, str] = {}
    for part in text.split(","):
        name, separator, where = part.strip().partition("=")
        if not separator or name in members:
            raise click.BadParameter(f"{text!r} is not NAME=ADDRESS,NAME=ADDRESS with each name once")
        members[name] = where
    return members


_CLUSTER = click.option(
    "--cluster",
    type=_members,
    metavar="NAME=ADDRESS,…",
    envvar="REPLKV_CLUSTER",
    show_envvar=True,
    help="All members of the new cluster with their addresses, this one included.",
)
_GAP = click.option(
    "--revision-gap",
    type=click.IntRange(min=1),
    default=REVISION_GAP,
    show_default=True,
    metavar="COUNT",
    help="By so many the revision is raised: more than the old cluster may have gone on by.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


@click.command("backup")
@asking()
@click.option("--overwrite", is_flag=True, help="Take the place of a file that is there.")
@click.argument("file", type=click.Path())
def take_backup(asked: Asking, file: str, *, overwrite: bool) -> int:
    """Write all there is to FILE on this machine, while everything goes on.

    What was acknowledged before is in it; history is not. The file gets its name when it is complete, and was read
    back.
    """
    with _files("asking for what there is") as status, asked.client() as client:
        backup = client.backup(file, overwrite=overwrite, on_progress=lambda size: status.update(f"{size >> 20:,} MiB are written …"))
        if asked.as_json:
            print_json(asdict(backup))
        else:
            click.echo(f"# revision {backup.revision} of cluster {backup.cluster}, {backup.size:,} bytes")
            click.echo(f"{backup.sha256}  {backup.path}")
        return OK
    return UNAVAILABLE


@click.command("restore")
@click.option("--name", required=True, envvar="REPLKV_NAME", show_envvar=True, metavar="NAME", help="Of the member whose directory it is.")
@_CLUSTER
@_GAP
@_JSON
@click.argument("file", type=click.Path())
@click.argument("data_dir", type=click.Path())
def restore_backup(file: str, data_dir: str, *, as_json: bool, **options: Any) -> int:
    """Make the data directory of the first member of a new cluster out of a backup.

    Do it for one member only, into an empty directory, and start that member as ever. All others are started with empty directories; they
    catch up, and get their votes. Members of the old cluster are refused.
    """
    with _files("reading the backup"):
        _say(restore(file, data_dir, **options), as_json=as_json)
        return OK
    return UNAVAILABLE


@click.command("recover")
@_CLUSTER
@_GAP
@click.option("--yes", is_flag=True, help="Don't ask.")
@_JSON
@click.argument("data_dir", type=click.Path())
def recover(data_dir: str, *, yes: bool, as_json: bool, **options: Any) -> int:
    """Go on with one member when the majority of its cluster is lost for good.

    The member must not run. Its directory becomes that of the first member of a new cluster, with all that is in its log. Members of the
    old cluster are refused from then on; with empty directories they are let in. What only the lost members had is lost.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("say --yes: nobody is there to be asked whether the majority is lost for good")
        click.confirm(f"Is the majority lost for good, and is {data_dir} to begin a cluster of its own?", abort=True, err=True)
    with _files("reading the log"):
        _say(recover_lost_majority(data_dir, **options), as_json=as_json)
        return OK
    return UNAVAILABLE


@contextmanager
def _files(doing: str) -> Iterator[Status]:
    """Show that something goes on, and say what is wrong with a file.

    Raises:
        UsageError: an argument is wrong.
    """
    try:
        with usage(), Console(stderr=True).status(f"{doing} …") as status:
            yield status
    except OSError as error:
        complain(str(error).replace("overwrite=True", "--overwrite"))


def _say(made: NewCluster, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(made))
        return
    others = [name for name in made.members if name != made.name]
    click.echo(f"cluster {made.cluster} begins at revision {made.revision}, with revision {made.former_revision} of cluster {made.former}")
    click.echo(f"the last entry in it is {made.former_index} of term {made.former_term}{made.damage and '; ' + made.damage}")
    then = f", and {', '.join(others)} with empty directories" if others else ""
    click.echo(f"now start {made.name} with this directory{then}")

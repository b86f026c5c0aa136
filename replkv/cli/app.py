"""The commands that look at a cluster and use it, as a client of its members."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import click

from replkv import Event, KeyValue, ReplkvError, ScanResult, Synced, __version__
from replkv.cli import bench, certs, disaster, holding, membership, panorama, plain, users
from replkv.cli.asking import BYTES, REVISION, SECONDS, Asking, asking, consistency, told, usage
from replkv.cli.codes import INTERRUPTED, REFUSED, code_of, complain
from replkv.cli.forms import count, draw, escaped, json_field, json_pair, print_json, table

SORT_BY = ("key", "version", "create", "mod", "value")
FORWARDED: dict[str, Any] = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def run(arguments: Sequence[str]) -> int:
    """Run a command and return the exit code."""
    try:
        return int(commands.main(list(arguments) or ["--help"], prog_name="replkv", standalone_mode=False) or 0)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "replkv"
        complain(f"{error.format_message()} ({command} --help tells more)")
        return error.exit_code
    except ReplkvError as error:
        complain(told(error))
        return code_of(error)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED


@click.group(help=plain.DESCRIPTION, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, message="replkv %(version)s")
def commands() -> None:
    """Run a command."""


def _plain(name: str, says: str) -> None:
    """Add a command that ``plain`` has."""

    @commands.command(name, short_help=says, context_settings=FORWARDED, add_help_option=False)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> int:
        return plain.run([name, *arguments])


# -- the cluster -------------------------------------------------------------------------------------------------------------------


@commands.command()
@asking()
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option("--every", type=SECONDS, default=1.0, show_default=True, metavar="SECONDS", help="How long to wait between two looks.")
def status(asked: Asking, watch: bool, every: float) -> None:
    """Show every member: how it is, and how far.

    Asks the members that --to names, and those that serve clients at an address of their own.
    """
    if watch:
        panorama.follow(asked, every)
    panorama.show(asked)


commands.add_command(membership.members)
commands.add_command(membership.transfer)


@commands.command()
@asking()
def leases(asked: Asking) -> None:
    """List the leases, and how many keys hang on them."""
    with asked.client() as client:
        found = client.leases()
    if asked.as_json:
        print_json([lease._asdict() for lease in found])
        return
    rows = [
        (str(one.id), f"{one.ttl:g}", f"{one.remaining:.1f}", f"{one.keys:,}", "yes" if one.kept else "no, it ends by itself")
        for one in found
    ]
    draw(table(("lease", "ttl s", "left s", "keys", "kept alive"), rows, right=("lease", "ttl s", "left s", "keys")))


# -- keys --------------------------------------------------------------------------------------------------------------------------


@commands.command()
@asking()
@consistency
@click.option("--revision", type=REVISION, metavar="REVISION", help="Read as of this revision.")
@click.argument("key", type=BYTES)
def get(asked: Asking, key: bytes, revision: int | None, consistency: Any) -> int:
    """Print the value of a key.

    On a terminal it is escaped; elsewhere it is printed byte by byte, without a newline behind it. If there is no such key the exit code
    is 1.
    """
    with asked.client() as client:
        kv = client.get(key, revision=revision, consistency=consistency)
    if kv is None:
        complain(f"there is no key {escaped(key)}")
        return REFUSED
    if asked.as_json:
        print_json(json_pair(kv))
    elif sys.stdout.isatty():
        click.echo(escaped(kv.value))
    else:
        click.echo(kv.value, nl=False)
    return 0


@commands.command()
@asking()
@click.option("--ttl", type=SECONDS, metavar="SECONDS", help="Delete the key after that time, unless it is put again before.")
@click.option(
    "--if-mod-revision", type=click.IntRange(min=0), metavar="REVISION", help="Only if it was last changed then; 0: if it is new."
)
@click.argument("key", type=BYTES)
@click.argument("value", type=BYTES, default=b"-", required=False)
def put(asked: Asking, key: bytes, value: bytes, ttl: float | None, if_mod_revision: int | None) -> None:
    """Store VALUE under KEY, and print the revision.

    Without a value, or with -, the value is read from stdin, byte by byte.
    """
    data = sys.stdin.buffer.read() if value == b"-" else value
    with asked.client() as client:
        revision = client.put(key, data, ttl=ttl, if_mod_revision=if_mod_revision).revision
    if asked.as_json:
        print_json({"revision": revision})
    else:
        click.echo(f"revision {revision}")


@commands.command()
@asking()
@click.option("--prefix", type=BYTES, metavar="TEXT", help="All keys that begin with it.")
@click.option("--start", type=BYTES, metavar="KEY", help="All keys from this one on.")
@click.option("--end", type=BYTES, metavar="KEY", help="With --start: up to this one, which stays.")
@click.option("--if-mod-revision", type=REVISION, metavar="REVISION", help="Only if the one KEY was last changed then.")
@click.argument("key", type=BYTES, required=False)
def delete(asked: Asking, **options: Any) -> None:
    """Delete a key or a span of keys, without asking.

    Prints how many there were; that there were none is no error.
    """
    given = sum(options[name] is not None for name in ("key", "prefix", "start"))
    if given != 1 or options["prefix"] == b"":
        raise click.UsageError("say what to delete: a KEY, --prefix with a text that is not empty, or --start")
    with asked.client() as client:
        deleted, revision, _ = client.delete(**options)
    if asked.as_json:
        print_json({"deleted": deleted, "revision": revision})
    else:
        click.echo(f"{count(deleted, 'key')} deleted" + (f", revision {revision}" if deleted else ""))


@commands.command()
@asking()
@consistency
@click.option("--start", type=BYTES, metavar="KEY", help="All keys from this one on, instead of a prefix.")
@click.option("--end", type=BYTES, metavar="KEY", help="With --start: up to this one, which is left out.")
@click.option("--limit", type=click.IntRange(min=0), default=0, metavar="COUNT", help="At most so many pairs; 0 is no limit.")
@click.option("--sort", "sort_by", type=click.Choice(SORT_BY), default="key", show_default=True, help="The order.")
@click.option("--descending", is_flag=True, help="The largest first.")
@click.option("--keys-only", is_flag=True, help="Leave the values out.")
@click.option("--count", "count_only", is_flag=True, help="Print only how many keys there are.")
@click.option("--revision", type=REVISION, metavar="REVISION", help="Read as of this revision.")
@click.argument("prefix", type=BYTES, required=False)
def scan(asked: Asking, **options: Any) -> None:
    """List the keys that begin with PREFIX, or all.

    They are read at one revision. Keys and values are escaped, a pair a line, with a tab between the two where stdout is no terminal.
    """
    with asked.client() as client:
        found = client.scan(**options)
    _show_scan(asked, found, values=not options["keys_only"], only_count=options["count_only"])


def _show_scan(asked: Asking, found: ScanResult, *, values: bool, only_count: bool) -> None:
    if asked.as_json:
        pairs = {} if only_count else {"kvs": [json_pair(kv, value=values) for kv in found]}
        print_json({"count": found.count, "more": found.more, "revision": found.revision, **pairs})
    elif only_count:
        click.echo(found.count)
    elif sys.stdout.isatty():
        headings = ("key", *(("value",) if values else ()), "revision", "version", "lease")
        rows = [_cells(kv, values=values) for kv in found]
        draw(table(headings, rows, right=("revision", "version", "lease")))
    else:
        for kv in found:
            click.echo(f"{escaped(kv.key)}\t{escaped(kv.value)}" if values else escaped(kv.key))
    if found.more and not asked.as_json:
        complain(f"only {len(found):,} of {count(found.count, 'key')} are listed")


def _cells(kv: KeyValue, *, values: bool) -> tuple[str, ...]:
    shown = (escaped(kv.value),) if values else ()
    return (escaped(kv.key), *shown, str(kv.mod_revision), str(kv.version), str(kv.lease or ""))


@commands.command()
@asking()
@click.option("--from", "start_revision", type=REVISION, metavar="REVISION", help="The first revision whose changes are wanted.")
@click.option("--initial", is_flag=True, help="Print what is there first, as puts, then a line that says so.")
@click.argument("prefix", type=BYTES, required=False)
def watch(asked: Asking, prefix: bytes | None, start_revision: int | None, initial: bool) -> None:
    """Print changes as they happen, until Ctrl-C.

    Of all keys that begin with PREFIX, or of all there are, each change once. It is a line: the revision, what happened (put, delete or
    expire), the key and the value, with tabs between them.
    """
    with asked.client() as client, client.watch(prefix=prefix, start_revision=start_revision, initial=initial) as events:
        for event in events:
            _show_event(asked, event)


def _show_event(asked: Asking, event: Any) -> None:
    if isinstance(event, Synced):
        said: list[str] = ["synced"]
        fields: dict[str, Any] = {}
    else:
        assert isinstance(event, Event)  # noqa: S101  # marks of progress were not asked for
        kind = "expire" if event.expired else event.kind
        said = [kind, escaped(event.key), *([escaped(event.value)] if event.kind == "put" else [])]
        fields = json_pair(event.kv) if event.kind == "put" else json_field("key", event.key)
    if asked.as_json:
        print_json({"revision": event.revision, "kind": said[0], **fields})
    else:
        click.echo("\t".join([str(event.revision), *said]))
        sys.stdout.flush()


# -- more --------------------------------------------------------------------------------------------------------------------------


@commands.command(context_settings={"allow_interspersed_args": False})
@asking(output=False)
@click.option("--ttl", type=SECONDS, default=10.0, show_default=True, metavar="SECONDS", help="How long the lock outlives this process.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="How long to wait for the lock (default: without limit).")
@click.option("--wait/--no-wait", default=True, help="Whether to wait for another holder (default: yes).")
@click.option(
    "--grace", type=click.FloatRange(min=0), default=5.0, show_default=True, metavar="SECONDS", help="Between SIGTERM and SIGKILL."
)
@click.argument("name", type=BYTES)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def lock(asked: Asking, command: tuple[str, ...], **options: Any) -> int:
    """Run a command while holding a lock.

    The lock NAME is one of the whole cluster. REPLKV_FENCE tells the command its fence, a number that grows from holder to holder. Signals
    are passed on to the command, and its exit code to the caller. If the lock is lost the command gets SIGTERM, and SIGKILL after a while.
    Exit code 75: the lock was not got in time, or was lost.
    """
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise click.UsageError("say what to run: lock NAME -- COMMAND")
    with usage():
        return asyncio.run(holding.run_locked(asked, holding.Wish(command=words, **options)))


@commands.command("bench")
@asking()
@click.option(
    "--seconds", type=click.FloatRange(min=0.1, max=600), default=5.0, show_default=True, metavar="SECONDS", help="For all of it, about."
)
def measure(asked: Asking, seconds: float) -> None:
    """Measure puts, gets and locks through a client.

    Writes a hundred keys of 256 bytes below replkv-bench/ and deletes them in the end; their history stays until it is compacted.
    """
    bench.run(asked, seconds)


commands.add_command(users.auth)
commands.add_command(users.user)
commands.add_command(users.role)
commands.add_command(disaster.take_backup)
commands.add_command(disaster.restore_backup)
commands.add_command(disaster.recover)
commands.add_command(certs.certs)
_plain("member", plain.MEMBER)
_plain("demo", plain.DEMO)

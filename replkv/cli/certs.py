"""``replkv certs``: certificates for people who have no authority of their own.

Mutual TLS in five lines, on a machine that is none of the members'::

    replkv certs init certs
    replkv certs member certs a --host 10.0.0.1
    replkv certs client certs alice
    # to a's machine: ca.crt, client-ca.crt, a.crt, a.key; to alice's: ca.crt, clients/alice.crt, clients/alice.key; never ca.key
    Replica("a", …, tls=TLS(ca="ca.crt", cert="a.crt", key="a.key", client_ca="client-ca.crt"))
    connect("10.0.0.1:7421", tls=TLS(ca="ca.crt", cert="alice.crt", key="alice.key"))
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click
from attrs import asdict

from replkv.cli.asking import usage
from replkv.cli.codes import OK, REFUSED, UNAVAILABLE, complain
from replkv.cli.forms import draw, print_json, table

if TYPE_CHECKING:
    from replkv.cli.authority import Authority, Entry

AUTHORITY_DAYS: Final = 3650
DAYS: Final = 825
"""The longest time that every TLS library accepts of a certificate: Apple's don't take more, not even of private authorities.  It is long
because what is made on one day ends on one day, with the cluster, if nobody renews it."""
SOON: Final = 30
LOCAL: Final = ("localhost", "127.0.0.1", "::1")
"""The hosts by which only its own machine reaches a member."""

HELP: Final = """\
Make certificates for mutual TLS, for those who have no authority.

DIR has everything, two authorities too: ca for members and client-ca for clients, so that no client passes for a member. Keep it on a
machine of its own: who has ca.key or client-ca.key can be anybody. This needs cryptography, which comes with replkv[certs].

\b
TLS in five lines; the 2nd and 4th for each member, the 3rd and 5th for each user:
  replkv certs init certs
  replkv certs member certs a --host 10.0.0.1
  replkv certs client certs alice
  Replica("a", …, tls=TLS(ca="ca.crt", cert="a.crt", key="a.key", client_ca="client-ca.crt"))
  connect("10.0.0.1:7421", tls=TLS(ca="ca.crt", cert="alice.crt", key="alice.key"))
"""


@click.group(
    "certs", help=HELP, short_help="Make certificates for mutual TLS, for those who have no authority.", invoke_without_command=True
)
@click.pass_context
def certs(context: click.Context) -> None:
    """Run one of the commands below, or say which there are."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _days(default: int, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--days", type=click.IntRange(1, 36500), default=default, show_default=True, metavar="DAYS", help=text)


_FORCE = click.option("--force", is_flag=True, help="Replace the files that are there.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
_DIRECTORY = click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))


@certs.command("init")
@_days(AUTHORITY_DAYS, "How long the authorities are valid.")
@click.option("--force", is_flag=True, help="Replace those that are there: what they have signed is worthless then.")
@_JSON
@_DIRECTORY
def init(directory: str, *, as_json: bool, **options: Any) -> int:
    """Make an authority for members and one for clients in DIR."""
    with _files():
        made = _authority(directory).init(**options)
        _say(made, f"replkv certs member {shlex.quote(directory)} NAME --host HOST, for each member", as_json=as_json)
        return OK
    return UNAVAILABLE


@certs.command("member")
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="A host name or IP address that others reach it by. May be repeated.")
@click.option("--local", is_flag=True, help="Also localhost, 127.0.0.1 and ::1.")
@_days(DAYS, "How long it is valid, but not beyond the authority.")
@_FORCE
@_JSON
@_DIRECTORY
@click.argument("name")
def member(directory: str, name: str, *, hosts: tuple[str, ...], local: bool, as_json: bool, **options: Any) -> int:
    """Make NAME.crt and NAME.key in DIR for a member.

    With this certificate a process is the member NAME, and may join the cluster as such. A member that runs takes the new files within
    moments when they are replaced. With --force and without --host it gets the hosts of the one that is replaced.
    """
    with _files():
        made = _authority(directory).member(name, (*hosts, *(LOCAL if local else ())), **options)
        tls = f'TLS(ca="ca.crt", cert="{name}.crt", key="{name}.key", client_ca="client-ca.crt")'
        _say([made], f'copy these four files to its machine, and there Replica("{name}", …, tls={tls})', as_json=as_json)
        return OK
    return UNAVAILABLE


@certs.command("client")
@_days(DAYS, "How long it is valid, but not beyond the authority.")
@_FORCE
@_JSON
@_DIRECTORY
@click.argument("user")
def client(directory: str, user: str, *, as_json: bool, **options: Any) -> int:
    """Make clients/USER.crt and clients/USER.key in DIR for a client.

    With this certificate a client is the user USER and needs no password. It is of an authority of its own: no member takes its owner for a
    member, whatever the user is called.
    """
    with _files():
        made = _authority(directory).client(user, **options)
        cert, key = (json.dumps(f"{user}.{suffix}", ensure_ascii=False) for suffix in ("crt", "key"))
        _say(
            [made],
            f'copy these three files to its machine, and there connect(…, tls=TLS(ca="ca.crt", cert={cert}, key={key}))',
            as_json=as_json,
        )
        return OK
    return UNAVAILABLE


@certs.command("show")
@click.option(
    "--within", "soon", type=click.IntRange(min=0), default=SOON, show_default=True, metavar="DAYS", help="Warn of what ends so soon."
)
@_JSON
@_DIRECTORY
def show(directory: str, *, soon: int, as_json: bool) -> int:
    """List the certificates in DIR, and until when they are valid.

    What ends soon, has ended, or is wrong otherwise is told on stderr; the exit code is 1 then.
    """
    with _files():
        entries = _authority(directory).entries(soon=soon)
        if as_json:
            print_json([_fields(entry) for entry in entries])
        else:
            draw(table(("file", "of", "name", "for", "valid until", "days left"), [_row(entry) for entry in entries], right=("days left",)))
        wrong = [entry for entry in entries if entry.troubles]
        for entry in wrong:
            complain(f"{entry.path} {'; '.join(entry.troubles)}{_remedy(directory, entry)}")
        return REFUSED if wrong else OK
    return UNAVAILABLE


def _authority(directory: str) -> Authority:
    """Return the authority of a directory.

    Raises:
        UsageError: the extra is missing.
    """
    try:
        from replkv.cli.authority import Authority  # noqa: PLC0415  # needs the extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cryptography":
            raise
        raise click.UsageError("certs needs cryptography: pip install 'replkv[certs]'") from None
    return Authority(directory)


@contextmanager
def _files() -> Iterator[None]:
    """Say what is wrong with a file.

    Raises:
        UsageError: an argument is wrong.
    """
    try:
        with usage():
            yield
    except OSError as error:
        complain(str(error).replace("force=True", "--force"))


def _say(made: Sequence[Entry], then: str, *, as_json: bool) -> None:
    """Print what was made, and what is to be done with it."""
    if as_json:
        print_json([_fields(entry) for entry in made])
        return
    for entry in made:
        files = f"{entry.path} and {entry.path.with_suffix('.key').name}"
        hosts = f" at {', '.join(entry.hosts)}" if entry.hosts else ""
        click.echo(f"{files}: {entry.kind} {entry.name}{hosts}, valid until {_date(entry)}")
    click.echo(f"next: {then}")


def _fields(entry: Entry) -> dict[str, Any]:
    begin, end = (time and time.isoformat() for time in (entry.begin, entry.end))
    return {**asdict(entry), "path": str(entry.path), "begin": begin, "end": end}


def _row(entry: Entry) -> tuple[str, ...]:
    left = "" if entry.end is None else f"{entry.left.days:,}"
    return (str(entry.path), entry.kind, entry.name, ", ".join(entry.hosts), _date(entry), left)


def _date(entry: Entry) -> str:
    return "" if entry.end is None else f"{entry.end:%Y-%m-%d}"


def _remedy(directory: str, entry: Entry) -> str:
    if entry.kind in ("member", "client"):
        return f": make it again with 'replkv certs {entry.kind} {shlex.quote(directory)} {shlex.quote(entry.path.stem)} --force'"
    return ": make a new authority in another directory; docs/CLI.md says how members come to trust it"

"""Whom a command asks, and how: the options that all commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final

import click
from attrs import frozen

from replkv import Client, Config, connect


@frozen
class Asking:
    """The options that all commands share.

    Args:
        targets: data directories and addresses.
        insecure: addresses beyond this machine may be used.
        timeout: seconds for each call, and to find a member.
        as_json: print JSON.
    """

    targets: tuple[str, ...]
    insecure: bool
    timeout: float
    as_json: bool

    @property
    def config(self) -> Config:
        """This process's choices."""
        return Config(timeout=self.timeout)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Connect, and close the connection at the end of the block.

        Raises:
            UsageError: an argument is wrong, of this or of a call in the block.
        """
        with usage(), connect(self.targets, insecure=self.insecure, config=self.config, timeout=self.timeout) as client:
            yield client


@contextmanager
def usage() -> Iterator[None]:
    """Turn the ValueErrors that calls raise for their arguments, before anything is sent, into one about the command."""
    try:
        yield
    except UnicodeError:
        raise  # which are ValueErrors, but no argument's
    except ValueError as error:
        raise click.UsageError(str(error).replace("insecure=True", "--insecure"), click.get_current_context(silent=True)) from error


def targets_of(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return whom to ask: what was given, or what the environment says.

    Raises:
        UsageError: neither says it.
    """
    if given:
        return given
    listed = [part.strip() for part in os.environ.get("REPLKV_TO", "").split(",") if part.strip()]
    if listed:
        return tuple(listed)
    if directory := os.environ.get("REPLKV_DATA_DIR"):
        return (os.path.join(directory, ""),)  # surely a path
    raise click.UsageError("say whom to ask: --to with a member's data directory, or with an address at which one serves clients")


def asking(*, output: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that gives a command the shared options, as one argument.

    Args:
        output: the command prints something, and answers within a time; else it has neither ``--json`` nor this ``--timeout``.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(*, to: tuple[str, ...], insecure: bool, as_json: bool = False, for_calls: float = TIMEOUT, **options: Any) -> Any:
            return function(Asking(targets_of(to), insecure, for_calls, as_json), **options)

        for option in reversed([*_TARGET, *_OUTPUT] if output else _TARGET):
            command = option(command)
        return command

    return decorate


TIMEOUT: Final = 5.0
_TARGET = [
    click.option(
        "--to",
        multiple=True,
        metavar="TARGET",
        help="Whom to ask: a member's data directory, or an address at which it serves clients. May be repeated. Default: what REPLKV_TO "
        "lists, separated by commas, or else REPLKV_DATA_DIR.",
    ),
    click.option(
        "--insecure",
        is_flag=True,
        envvar="REPLKV_INSECURE",
        show_envvar=True,
        help="Go beyond this machine although nothing is encrypted and nobody is authenticated there.",
    ),
]
_OUTPUT = [
    click.option(
        "--timeout",
        "for_calls",
        type=click.FloatRange(min=0, min_open=True),
        default=TIMEOUT,
        show_default=True,
        metavar="SECONDS",
        help="How long to look for a member, and to wait for each answer.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts."),
]

consistency = click.option(
    "--consistency",
    type=click.Choice(["linearizable", "lease", "local"]),
    default="linearizable",
    show_default=True,
    help="How new the answer has to be: all that was acknowledged before; the same, trusting clocks; or what the member has.",
)

BYTES = os.fsencode
"""The type of keys and values: the very bytes that the shell handed over, whether they are text or not."""
REVISION = click.IntRange(min=1)
SECONDS = click.FloatRange(min=0, min_open=True)

"""Where the demo is shown: a live table where there is a terminal and rich, else plain lines."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from attrs import Factory, define

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

PLAIN_INTERVAL = 1.0
"""Seconds between two lines of figures on a plain screen."""


@define
class Board:
    """The figures on the screen; ``members`` gives each one's process id and status, None while there is none."""

    members: dict[str, tuple[int | None, dict[str, Any] | None]] = Factory(dict)
    elapsed: float = 0.0
    acknowledged: int = 0
    writes_per_second: float = 0.0
    reads_per_second: float = 0.0
    fail_over: float | None = None

    @property
    def leader(self) -> str:
        """The leader of the newest term that any member knows of."""
        known = [(status["term"], status["leader"]) for _, status in self.members.values() if status and status["leader"]]
        return max(known)[1] if known else "none"

    @property
    def revision(self) -> int:
        """The newest revision that any member has."""
        return max((status["revision"] for _, status in self.members.values() if status), default=0)

    @property
    def fail_over_text(self) -> str:
        """The fail-over time as a person reads it."""
        return "" if self.fail_over is None else f"{self.fail_over * 1e3:.0f} ms"


class Screen(Protocol):
    """Shows events and figures; a context manager around its use."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def say(self, text: str) -> None:
        """Tell what happened."""

    def show(self, board: Board) -> None:
        """Show the figures as they are now."""


class PlainScreen:
    """One line for each event, and one of figures a second."""

    def __init__(self) -> None:
        self._shown = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def say(self, text: str) -> None:
        """Tell what happened."""
        print(f"* {text}", flush=True)

    def show(self, board: Board) -> None:
        """Show the figures, at most once a second."""
        now = time.monotonic()
        if now - self._shown < PLAIN_INTERVAL:
            return
        self._shown = now
        fail_over = f"  fail-over {board.fail_over_text}" if board.fail_over_text else ""
        print(
            f"  {board.elapsed:5.1f} s  leader {board.leader:4}  revision {board.revision:7,}  acknowledged {board.acknowledged:7,}  "
            f"{board.writes_per_second:6,.0f} writes/s  {board.reads_per_second:6,.0f} reads/s{fail_over}",
            flush=True,
        )


class LiveScreen:
    """A table of the members that changes in place, the figures below it, and the events below those."""

    def __init__(self) -> None:
        from rich.live import Live  # noqa: PLC0415  # an extra

        self._events: list[str] = []
        self._board = Board()
        self._live = Live(get_renderable=self._render, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Tell what happened."""
        self._events.append(text)

    def show(self, board: Board) -> None:
        """Show the figures as they are now."""
        self._board = board

    def _render(self) -> Group:
        from rich.console import Group  # noqa: PLC0415  # an extra
        from rich.markup import escape  # noqa: PLC0415
        from rich.padding import Padding  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        board = self._board
        figures = (
            f"[bold]{board.acknowledged:,}[/] writes acknowledged   [bold]{board.writes_per_second:,.0f}[/] writes/s   "
            f"[bold]{board.reads_per_second:,.0f}[/] reads/s   fail-over [bold]{board.fail_over_text or '-'}[/]   {board.elapsed:.1f} s"
        )
        events = [Text.from_markup(f"[green]✓[/] {escape(text)}") for text in self._events]
        return Group(self._table(), Padding(Text.from_markup(figures), (0, 1)), *events)

    def _table(self) -> Table:
        from rich.table import Table  # noqa: PLC0415  # an extra

        table = Table(title="replkv demo: three processes, one state", title_justify="left")
        for heading in ("member", "process", "state", "follows", "term", "revision"):
            table.add_column(heading, justify="right" if heading in ("process", "term", "revision") else "left", min_width=9)
        for name, (pid, status) in self._board.members.items():
            if status is None:
                table.add_row(name, str(pid or ""), "starting" if pid else "[red]down[/]")
                continue
            style = "bold green" if status["leader"] == name else ""
            cells = name, str(pid), status["state"], status["leader"] or "nobody", str(status["term"]), f"{status['revision']:,}"
            table.add_row(*cells, style=style)
        return table


def choose_screen() -> Screen:
    """Return the best screen that this terminal and this installation have."""
    if not sys.stdout.isatty():
        return PlainScreen()
    try:
        return LiveScreen()
    except ImportError:
        return PlainScreen()

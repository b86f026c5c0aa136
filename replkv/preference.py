"""When a leader makes way for a member that is wanted more: a pure decision, taken seldom.

Every change of leader costs a moment in which nothing is written, so one that is only wished for must be worth it.  A leader makes way when
it has been in office for a while, and a member of a higher priority has been fit to lead for as long.  Who takes over and loses the
leadership again, or never gets it, is tried again after twice the time, and so on: what flaps is left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Mapping

DOUBLINGS = 8
"""How often the time between two attempts is doubled at most; who leads again after twice that much has had a successor that stayed."""


@define(eq=False, repr=False)
class Preference:
    """What one member thinks of making way, over all its terms.

    Args:
        priority: its own.
        patience: seconds for which this member must have led, and the other must have been fit.
    """

    _priority: int
    _patience: float
    _term: int = field(default=0, init=False)
    _led_since: float = field(default=0.0, init=False)
    _fit_since: dict[str, float] = field(factory=dict, init=False)
    _attempts: int = field(default=0, init=False)
    _tried_at: float = field(default=float("-inf"), init=False)

    def heir(self, term: int, fit: Mapping[str, int], now: float) -> str | None:
        """Return for whom to make way now, None for nobody; to be asked again and again while this member leads.

        Args:
            term: in which it leads.
            fit: the priority by name of the other voters that could take over at once.
            now: seconds.
        """
        if term != self._term:
            self._term, self._led_since = term, now
            self._fit_since = {}
            if now - self._tried_at > 2 * self._patience * 2**DOUBLINGS:
                self._attempts = 0
        self._fit_since = {name: self._fit_since.get(name, now) for name in fit}
        if now - self._led_since < self._patience or now - self._tried_at < self._pause:
            return None
        ripe = [name for name, since in self._fit_since.items() if fit[name] > self._priority and now - since >= self._patience]
        if not ripe:
            return None
        self._attempts, self._tried_at = self._attempts + 1, now
        return min(ripe, key=lambda name: (-fit[name], name))

    @property
    def _pause(self) -> float:
        return self._patience * 2 ** min(self._attempts, DOUBLINGS) if self._attempts else 0.0

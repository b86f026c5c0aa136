"""Stop one member of a cluster everywhere, let everything legal survive, and have the cluster be well again.

Each stop is gone through with each different state that recovery makes of the disk: with the other members alive, and with all of them
losing their power at the same moment.  And from each change on the disk is full, for a while.  Afterwards everybody serves and agrees,
nothing acknowledged is missing, and the invariants of the simulator have watched every turn; then the power fails once more everywhere,
and it is all checked again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from attrs import define, evolve, field
from member_protocols import MemberProtocol
from member_stage import CALM, SEGMENT, GivenUp, Stage
from stopping import FAILURES, Stop, StoppingDisk, Tally, fingerprint, outcomes, sample, stopped, stops

from replkv.log import Log
from replkv.testing.disk import SimDisk
from replkv.testing.knobs import turned


@define
class MemberCrashes:
    """All the ends of one member in one protocol.

    Args:
        protocol: what the cluster goes through.
        victim: whose disk stops.
        limit: how many parts of what was not synced are tried at each stop.
        points: how many stops are tried, chosen by lot; None: all.
    """

    protocol: MemberProtocol
    victim: str
    limit: int
    points: int | None = None
    tally: Tally = field(factory=Tally)
    _known: set[tuple[int, bool, bytes]] = field(factory=set)

    def run(self) -> Tally:
        """Go through all stops, with everything that may come of them."""
        rehearsal = self._reach(None)
        self.tally.operations = rehearsal.changes
        for stop in sample(stops(rehearsal), self.points):
            for heir in self._heirs(stop):
                self.tally.recoveries += 1
                self._go_on(stop, heir, alone=True)
                self._go_on(stop, heir, alone=False)
        for full_from in sample(range(rehearsal.changes), self.points):
            self._fill(full_from)
        return self.tally

    def _heirs(self, stop: Stop) -> Iterator[SimDisk]:
        """Yield what a stop may leave, one for each state that recovery makes of it and was not met at this place."""
        disk = self._reach(stop)
        for left in outcomes(stopped(disk), self.limit, self.tally):
            recovered = left.copy()
            log, _ = Log.open(recovered.open(), self.victim, 1, SEGMENT)
            log.close()
            look = disk.changes, stop.end in FAILURES, fingerprint(recovered)
            if look not in self._known:
                self._known.add(look)
                yield left

    def _reach(self, stop: Stop | None) -> StoppingDisk:
        """Play the script up to a stop, and return the disk as it is there."""
        stage = self._stage(stop)
        with turned(stage.scenario.knobs), contextlib.suppress(GivenUp):
            self.protocol.script(stage)
        return stage.disk

    def _go_on(self, stop: Stop, heir: SimDisk, *, alone: bool) -> None:
        """Play the script up to a stop, and see that all is well afterwards."""
        stage = self._stage(stop, heir)
        with turned(stage.scenario.knobs):
            with contextlib.suppress(GivenUp):
                self.protocol.script(stage)
            stage.end_life()
            if not alone:
                stage.black_out()
            stage.be_well()
            stage.black_out()
            stage.be_well()
            stage._settle_account()

    def _fill(self, full_from: int) -> None:
        """Play the script with a disk that has no more room from one change on: its member lives, and all is well when there is room."""
        self.tally.recoveries += 1
        stage = self._stage(full_from=full_from)
        with turned(stage.scenario.knobs):
            with contextlib.suppress(GivenUp):
                self.protocol.script(stage)
            stage.make_room()
            stage.be_well()
            stage.black_out()
            stage.be_well()
            stage._settle_account()

    def _stage(self, stop: Stop | None = None, heir: SimDisk | None = None, full_from: int | None = None) -> Stage:
        scenario = evolve(CALM, **self.protocol.differences)
        return Stage(scenario, victim=self.victim, stop=stop, heir=heir, full_from=full_from)

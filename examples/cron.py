"""Cron that runs once per cluster: what is due on every host is done by one of them, and by the next one if that dies.

    python examples/cron.py 10       # every ten seconds; alone

Started as a cluster of three, one of them does the job every ten seconds, and the others wait.  Kill it: another one goes on.  No run is
left out, also those that fell due while nobody led, and the result of each is stored once.

The job itself may be begun twice: who does it may die before the result is stored, and nobody can tell how far it had come.  So a job that
reaches out of the cluster must bear that, or look at the number of the run and ``term.fence``, as a bank looks at the number of an order.
"""

from __future__ import annotations

import sys
import time

from replkv import Put, Replica, Term, exit_on_sigterm


def job(run: int) -> str:
    """Do what is to be done: a clean-up, a report, the bills of the month."""
    return f"report {run}"


def keep_time(replica: Replica, term: Term, period: float) -> None:
    """Do each run when it is due, for as long as this process leads."""
    last = replica.get("cron/last", timeout=None)  # as long as it takes: there is nothing else to do
    run = int(time.time() / period) if last is None else int(last.value) + 1
    while not term.lost.wait(max(0.0, run * period - time.time())):
        result = job(run)
        # The cluster looks at the guard when it stores the two: who has been replaced meanwhile stores nothing, and LockLost ends the term.
        replica.txn(then=[Put(f"cron/results/{run}", result), Put("cron/last", str(run), guard=term)], timeout=None)
        print(f"{replica.name} has done run {run}", flush=True)
        run += 1


def main(period: float) -> None:
    """Lead or wait to lead, until SIGTERM or Ctrl-C."""
    exit_on_sigterm()
    with Replica.from_env() as replica:
        replica.wait_ready()
        replica.election("cron", ttl=3).run(lambda term: keep_time(replica, term, period), value=replica.name)


if __name__ == "__main__":
    main(float(sys.argv[1]))

"""A job queue: a line that is typed into any process is a job, one of the processes does it, and its result is stored exactly once.

    python examples/job_queue.py         # alone; type some lines
    seq 100 | python examples/job_queue.py

Started as a cluster of three, jobs go to whichever process is free.  Kill one while it works: its job goes to another one when its claim
ends.  The job may be done twice then, but its result and its end come in one transaction, and only for who holds the claim.
"""

from __future__ import annotations

import sys
import threading
import uuid

from attrs import field, frozen

from replkv import Closed, LockLost, OutcomeUnknown, Put, Queue, Replica, Unavailable, exit_on_sigterm, typed


@frozen
class Job:
    """What is to be done; the id is given by who wants it, so that the result can be found under it."""

    text: str
    id: str = field(factory=lambda: uuid.uuid4().hex)


def perform(job: Job) -> str:
    """Do a job."""
    return job.text.upper()


def work(name: str, jobs: Queue) -> None:
    """Do one job after the other, until the member is closed."""
    while True:
        try:
            with jobs.claim() as claim:
                job: Job = claim.value
                try:
                    result = perform(job)
                except Exception as error:  # noqa: BLE001  # else the job would come back for ever
                    result = f"failed: {error}"
                claim.done(Put(f"results/{job.id}", result))
                print(f"{name}: {job.text} -> {result}", flush=True)
        except (LockLost, Unavailable, OutcomeUnknown):
            continue  # if it is not done, it is free again, and somebody does it
        except Closed:
            return


def main() -> None:
    """Take jobs from stdin and do jobs, until SIGTERM or Ctrl-C."""
    exit_on_sigterm()
    with Replica.from_env() as replica:
        replica.wait_ready()
        jobs = replica.queue("jobs", codec=typed(Job), ttl=3)
        worker = threading.Thread(target=work, args=(replica.name, jobs))
        worker.start()
        print(f"{replica.name} does jobs", flush=True)
        for line in sys.stdin:
            jobs.put(Job(line.strip()))
        worker.join()  # no more jobs from here; there may be from others


if __name__ == "__main__":
    main()

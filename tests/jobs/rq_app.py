"""RQ as applications use it: `python rq_app.py enqueue FIRST LAST | work NAME | repair`. REDIS_URL says where."""

import json
import os
import sys
import time
from datetime import timedelta

import redis
from rq import Queue, SimpleWorker
from rq.job import JobStatus
from rq.registry import FailedJobRegistry, StartedJobRegistry

store = redis.Redis.from_url(os.environ["REDIS_URL"])
PAUSE = float(os.environ["JOB_SECONDS"])


def work(number):
    """The job: an effect that may happen twice, and a count that tells whether it did."""
    time.sleep(PAUSE)
    with store.pipeline() as unit:
        unit.sadd("done", number).hincrby("times", number, 1).execute()


class Worker(SimpleWorker):
    """In the shipped worker a killed worker's job counts as running for its timeout and a minute more."""

    def get_heartbeat_ttl(self, job, working_time=0.0):
        return 6


def enqueue(first, last):
    queue = Queue("jobs", connection=store)
    for start in range(first, last, 200):
        numbers = range(start, min(start + 200, last))
        queue.enqueue_many([Queue.prepare_data("rq_app.work", (n,), job_id=f"job-{n}") for n in numbers])


def repair():
    """What an operator does after workers were killed; prints how many jobs it took.

    RQ moves a job whose worker died while it ran to the registry of failed jobs, when
    its heartbeat has expired; `rq requeue --all` brings those back. A job that was
    popped and not yet marked as started stays in the intermediate list.
    """
    queue = Queue("jobs", connection=store)
    StartedJobRegistry("jobs", connection=store).cleanup()
    failed = FailedJobRegistry("jobs", connection=store)
    requeued = 0
    for job_id in failed.get_job_ids():
        failed.requeue(job_id)
        requeued += 1
    between = queue.intermediate_queue
    for job_id in between.get_job_ids():
        job = queue.fetch_job(job_id)
        seen = between.get_first_seen(job_id)
        if seen is None:
            between.set_first_seen(job_id)
        elif time.time() - seen.timestamp() > timedelta(seconds=4).seconds:
            between.remove(job_id)
            if job and job.get_status() == JobStatus.QUEUED:
                queue.push_job_id(job_id)
                requeued += 1
    print(json.dumps({"requeued": requeued}))


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "enqueue":
        enqueue(*map(int, rest))
    elif what == "work":
        Worker(["jobs"], name=rest[0], connection=store, worker_ttl=30).work(logging_level="WARNING")
    else:
        repair()

"""Celery with Redis as broker and result backend; `python celery_app.py enqueue FIRST LAST`, or as `-A celery_app`."""

import os
import sys
import time

import redis
from celery import Celery

URL = os.environ["REDIS_URL"]
PAUSE = float(os.environ["JOB_SECONDS"])
app = Celery("celery_app", broker=URL, backend=URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=4,
    # Unacknowledged jobs of a killed worker come back after the first of these; by default the scan for them is
    # made every hundred seconds, and a worker killed during a scan would keep others from it for five minutes.
    broker_transport_options={
        "visibility_timeout": 8,
        "unacked_restore_limit": 1000,
        "unacked_restore_interval": 2,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 5,
    },
    broker_connection_retry_on_startup=True,
    result_expires=3600,
)
store = redis.Redis.from_url(URL)


@app.task(name="work")
def work(number):
    time.sleep(PAUSE)
    with store.pipeline() as unit:
        unit.sadd("done", number).hincrby("times", number, 1).execute()
    return number


def enqueue(first, last):
    """Every hundredth result is waited for: that subscribes, as applications do."""
    waited = []
    for number in range(first, last):
        result = work.apply_async((number,), task_id=f"task-{number}")
        if number % 100 == 0:
            waited.append(result)
    print(sum(1 for result in waited if result.get(timeout=600) is not None))


if __name__ == "__main__":
    enqueue(*map(int, sys.argv[2:]))

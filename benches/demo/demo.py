#!/usr/bin/env python3
"""One application, unchanged, directly on Redis and through respmux.

The application is `app.py` under gunicorn with gevent workers, the load is
ApacheBench, and Redis itself says how many connections it had. Progress goes to
standard error; standard output carries one Markdown table.

    DEMO_REQUESTS  requests of the two main pairs (50000); the others take a tenth
    DEMO_CLIENTS   concurrent requests (500)
    DEMO_ONLY      a regular expression: only runs whose title matches
    RESPMUX        the program to test (target/release/respmux)
"""

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from harness import (  # noqa: E402
    TARGET,
    ConnectionWatch,
    Failure,
    Redis,
    Respmux,
    Server,
    free_port,
    markdown,
    raise_open_files,
    say,
)

HERE = Path(__file__).resolve().parent
REQUESTS = int(os.environ.get("DEMO_REQUESTS", "50000"))
CLIENTS = int(os.environ.get("DEMO_CLIENTS", "500"))
ONLY = os.environ.get("DEMO_ONLY", "")
ARM_SECONDS = 240  # no single run may take longer


@dataclass(frozen=True)
class Case:
    """One pair of runs of the application."""

    title: str
    venv: str
    workers: int = 1
    share: float = 1.0
    page: str = "/"
    maxclients: int = 20000
    url_options: str = ""


# redis-py 8 limits its own pool to 100 connections and fails the 101st request at
# a time; no server and no proxy can change that, an option in REDIS_URL can.
CASES = [
    Case("redis-py 5.2, 1 worker", "demo-venv-5"),
    Case("redis-py 5.2, 4 workers", "demo-venv-5", workers=4),
    Case("redis-py 5.2, 1 worker, MULTI/EXEC", "demo-venv-5", share=0.1, page="/order"),
    Case("redis-py 5.2, 1 worker, Redis `maxclients 200`", "demo-venv-5", share=0.1, maxclients=200),
    Case("redis-py 8.1, 1 worker, its pool of 100", "demo-venv-8", share=0.1),
    Case(
        "redis-py 8.1, 1 worker, `?max_connections=1000`", "demo-venv-8", share=0.1, url_options="?max_connections=1000"
    ),
]


def gunicorn(case, redis_url):
    """The application behind gunicorn; up when it serves the page."""
    port = free_port()
    argv = [str(TARGET / case.venv / "bin" / "gunicorn"), "-k", "gevent", "--worker-connections", "1000"]
    argv += ["-w", str(case.workers), "-b", f"127.0.0.1:{port}", "--backlog", "4096"]
    argv += ["--log-level", "critical", "--no-control-socket", "app:app"]
    server = Server("gunicorn", argv, None, env={**os.environ, "REDIS_URL": redis_url}, cwd=HERE)
    server.url = f"http://127.0.0.1:{port}{case.page}"

    def serves(_server):
        with urllib.request.urlopen(server.url, timeout=2) as reply:
            return reply.status == 200

    server.probe = serves
    return server


def bench(url, requests):
    """Drive the load; returns requests per second and failures of every kind."""
    argv = ["ab", "-q", "-l", "-r", "-s", "60", "-c", str(CLIENTS), "-n", str(requests), url]
    run = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=ARM_SECONDS)

    def figure(name):
        found = re.search(rf"^{name}:\s+([\d.]+)", run.stdout, re.MULTILINE)
        return float(found.group(1)) if found else None

    rate, complete = figure("Requests per second"), figure("Complete requests")
    if rate is None or complete != requests:
        raise Failure(f"ab did not finish: {run.stderr[-400:]}{run.stdout[-200:]}")
    failed = (figure("Failed requests") or 0) + (figure("Non-2xx responses") or 0)
    return rate, int(failed)


def arm(case, through):
    """One run: fresh Redis, perhaps respmux, fresh application, one load."""
    requests = max(CLIENTS, int(REQUESTS * case.share))
    say(f"  {case.title}, {'through respmux' if through else 'direct'}: {requests} requests …")
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        redis = stack.enter_context(Redis(directory, case.maxclients))
        watch = stack.enter_context(ConnectionWatch(redis))
        port = redis.port
        if through:
            port = stack.enter_context(Respmux(directory, f"redis://127.0.0.1:{port}")).port
        app = stack.enter_context(gunicorn(case, f"redis://127.0.0.1:{port}/0{case.url_options}"))
        rate, failed = bench(app.url, requests)
        return rate, failed, *watch.finish()


def main():
    raise_open_files()
    started, rows = time.monotonic(), []
    say(f"Each run: {CLIENTS} concurrent requests by ab, the application under gunicorn/gevent.")
    for case in (case for case in CASES if re.search(ONLY, case.title)):
        for through in (False, True):
            rate, failed, peak, opened = arm(case, through)
            way = "respmux" if through else "direct"
            rows.append([case.title, way, f"{rate:.0f}", failed, peak, opened])
            say(f"    {rate:.0f} requests/s, {failed} failed, peak {peak} connections, {opened} opened")
    head = ["application", "Redis by way of", "requests/s", "failed", "peak connected_clients", "connections opened"]
    print(markdown(head, rows))
    say(f"{time.monotonic() - started:.0f} s in all.")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"demo: {failure}")

#!/usr/bin/env python3
"""Real job systems, directly on a Redis and through respmux, while their workers are killed.

RQ, Celery and BullMQ each carry JOBS jobs; every job adds its number to a set in
Redis. Meanwhile workers get SIGKILL in the middle of their jobs and are started
again. In the end every number must be there: each system's own recovery brings
jobs of killed workers back, so jobs may run twice, and none may be lost. RQ moves
such jobs among the failed ones, where an operator requeues them: `repair` in
rq_app.py does, counted as `requeued_by_hand`.

Celery takes a job from its queue with one command and enters it among the
unacknowledged with another: a kill in between loses it, directly as through
respmux (one job in 5 of 18 runs of 3,000 jobs and 3 kills, either way; between
the two commands were 1.3 ms directly and 1.6 ms through respmux). One a kill is
reported and let pass.

One JSON line a run on standard output. Exit code 1: another job was lost, or respmux
opened more connections at a time than it was given.

    JOBS            jobs of each run (10000)
    JOBS_ONLY       a regular expression: only systems whose name matches
    JOBS_ARMS       direct,respmux
    JOBS_WORKERS    worker processes (4)
    JOBS_KILL       seconds between two kills (4); at least JOBS_KILLS (3) are done
    JOBS_CAP        --max-upstream-connections (32)
    JOBS_SECONDS    no run may take longer (600)
    JOBS_QUIET      seconds without a finished job after which the rest counts as lost (60)
    RESPMUX         the program to test (target/release/respmux)
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "benches"))
from harness import (  # noqa: E402
    TARGET,
    ConnectionWatch,
    Failure,
    Progress,
    Redis,
    Respmux,
    command,
    connect,
    raise_open_files,
    say,
)

JOBS = int(os.environ.get("JOBS", "10000"))
ONLY = os.environ.get("JOBS_ONLY", "")
ARMS = os.environ.get("JOBS_ARMS", "direct,respmux").split(",")
WORKERS = int(os.environ.get("JOBS_WORKERS", "4"))
KILL_EVERY = float(os.environ.get("JOBS_KILL", "4"))
KILLS = int(os.environ.get("JOBS_KILLS", "3"))
CAP = int(os.environ.get("JOBS_CAP", "32"))
SECONDS = float(os.environ.get("JOBS_SECONDS", "600"))
QUIET = float(os.environ.get("JOBS_QUIET", "60"))
PYTHON = str(TARGET / "jobs-venv" / "bin" / "python")
JOB_SECONDS = "0.004"  # long enough that a kill finds a job under way


@dataclass(frozen=True)
class System:
    """How to start the parts of one job system."""

    name: str
    enqueue: list
    work: list  # {name} is the worker's
    repair: list = field(default_factory=list)
    gap: bool = False  # a kill may lose the job that was just taken, with or without respmux


CELERY = [PYTHON, "-m", "celery", "-A", "celery_app", "worker", "-n", "{name}@%h", "-l", "WARNING"]
SYSTEMS = [
    System(
        "rq", [PYTHON, "rq_app.py", "enqueue"], [PYTHON, "rq_app.py", "work", "{name}"], [PYTHON, "rq_app.py", "repair"]
    ),
    System("celery-solo", [PYTHON, "celery_app.py", "enqueue"], [*CELERY, "-P", "solo"], gap=True),
    System("celery-prefork", [PYTHON, "celery_app.py", "enqueue"], [*CELERY, "-P", "prefork", "-c", "2"], gap=True),
    System("bullmq", ["node", "bullmq_app.mjs", "enqueue"], ["node", "bullmq_app.mjs", "work", "{name}"]),
]


class Workers:
    """The worker processes of a run, each in a process group of its own."""

    def __init__(self, system, environment, log):
        self.system, self.environment, self.log = system, environment, log
        self.started, self.kills, self.running = 0, 0, []

    def start(self):
        self.started += 1
        argv = [word.format(name=f"worker-{self.started}") for word in self.system.work]
        self.running.append(self._spawn(argv))

    def _spawn(self, argv):
        return subprocess.Popen(
            argv, cwd=HERE, env=self.environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            process_group=0,
        )  # fmt: skip

    def kill(self):
        """SIGKILL one worker with its children, and start another in its place."""
        victim = self.running.pop(random.randrange(len(self.running)))
        end(victim)
        self.kills += 1
        self.start()

    def replace_dead(self):
        """Workers that ended by themselves: returns how many, and starts others."""
        dead = [worker for worker in self.running if worker.poll() is not None]
        for worker in dead:
            self.running.remove(worker)
            self.start()
        return len(dead)

    def __enter__(self):
        for _ in range(WORKERS):
            self.start()
        return self

    def __exit__(self, *_):
        for worker in self.running:
            end(worker)


def end(child):
    """SIGKILL a process and its group, and wait for it."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def number(sock, *words):
    return int(command(sock, *words)[1:])


def commands_used(sock):
    """The names in INFO commandstats, busiest first, with calls; without this program's own."""
    text = command(sock, "INFO", "commandstats").decode()
    calls = {name: int(count) for name, count in re.findall(r"^cmdstat_([^:]+):calls=(\d+)", text, re.MULTILINE)}
    return dict(sorted(calls.items(), key=lambda item: -item[1]))


def repair(system, environment, log):
    """Run the system's own repair; returns how many jobs it brought back."""
    run = subprocess.run(
        system.repair, cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=log, timeout=60, check=False
    )
    return json.loads(run.stdout)["requeued"] if run.returncode == 0 else 0


def drive(system, environment, sock, log):
    """Enqueue and work until all is done or time is up; returns the figures."""
    started, requeued, died = time.monotonic(), 0, 0
    with Workers(system, environment, log) as workers:
        producer = subprocess.Popen(
            [*system.enqueue, "0", str(JOBS)], cwd=HERE, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            process_group=0,
        )  # fmt: skip
        progress = Progress(f"{system.name}: jobs", JOBS)
        next_kill, next_repair, done, moved = started + KILL_EVERY, started + 5, 0, started
        try:
            while (done < JOBS or producer.poll() is None) and time.monotonic() < min(started + SECONDS, moved + QUIET):
                time.sleep(0.1)
                before, done, now = done, number(sock, "SCARD", "done"), time.monotonic()
                moved = now if done > before else moved
                progress.reach(done)
                if now >= next_kill and (done < 0.9 * JOBS or workers.kills < KILLS) and done < JOBS:
                    workers.kill()
                    next_kill = now + KILL_EVERY
                if system.repair and now >= next_repair:
                    requeued += repair(system, environment, log)
                    next_repair = time.monotonic() + 5
                died += workers.replace_dead()
            finished = producer.poll() == 0
        finally:
            end(producer)
        seconds = time.monotonic() - started
    done = number(sock, "SCARD", "done")
    values = runs(sock)
    return {
        "jobs": JOBS, "kills": workers.kills, "finished": done, "lost": JOBS - done, "duplicates": values - done,
        "requeued_by_hand": requeued, "workers_died": died, "producer_ok": finished, "seconds": round(seconds, 1),
    }  # fmt: skip


def runs(sock):
    """How often jobs ran in all."""
    script = "local sum = 0 for _, n in ipairs(redis.call('HVALS', 'times')) do sum = sum + n end return sum"
    return number(sock, "EVAL", script, 0)


def arm(system, way):
    """One run: fresh Redis, perhaps respmux, fresh workers."""
    say(f"  {system.name}, {way}: {JOBS} jobs …")
    log_path = TARGET / "jobs" / f"{system.name}-{way}.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        log = stack.enter_context(log_path.open("wb"))
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        redis = stack.enter_context(Redis(directory))
        sock = stack.enter_context(connect(redis.address))
        watch = stack.enter_context(ConnectionWatch(redis))
        port = redis.port
        if way == "respmux":
            extra = ("--max-upstream-connections", CAP)
            port = stack.enter_context(Respmux(directory, f"redis://127.0.0.1:{port}", *extra)).port
        environment = {
            **os.environ, "REDIS_URL": f"redis://127.0.0.1:{port}/0", "JOB_SECONDS": JOB_SECONDS,
            "NODE_PATH": str(TARGET / "jobs-node" / "node_modules"), "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        figures = drive(system, environment, sock, log)
        peak, opened = watch.finish()
        used = commands_used(sock)
    # The one connection that counts the finished jobs is ours too.
    return {
        "system": system.name, "way": way, **figures,
        "peak_connections": peak - 1, "opened_connections": opened, "cap": CAP if way == "respmux" else None,
        "commands": used,
    }  # fmt: skip


def main():
    raise_open_files()
    failed = False
    for system in (one for one in SYSTEMS if re.search(ONLY, one.name)):
        for way in ARMS:
            figures = arm(system, way)
            print(json.dumps(figures), flush=True)
            over = way == "respmux" and figures["peak_connections"] > CAP
            let_pass = figures["kills"] if system.gap else 0
            if figures["lost"] > let_pass or not figures["producer_ok"] or over:
                say(f"    FAILED; what it said is in {TARGET / 'jobs'}")
                failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"jobs: {failure}")

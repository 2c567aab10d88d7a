#!/usr/bin/env python3
"""What counting costs a request: the metrics of one request against everything that respmux does for it.

Two figures for a client that waits for each reply and for sixteen requests at once. Time: nanoseconds that
benches/record.rs takes for the metrics of a request, over the CPU time (user and system) that respmux takes for it under
redis-benchmark. Instructions: the same, counted by callgrind in user space alone, where the kernel's part of the work is
not seen, so that the share comes out larger than it is. Prints one line of JSON; fails above 3 % of the time.
Settings: RESPMUX (a release build), RECORD_BENCH (the built bench), COST_REQUESTS, COST_ROUNDS.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benches"))

from harness import (  # noqa: E402
    RESPMUX,
    Failure,
    Progress,
    Redis,
    Respmux,
    Server,
    answers,
    cpu_seconds,
    free_port,
    say,
)

REQUESTS = int(os.environ.get("COST_REQUESTS", "300000"))
COUNTED = REQUESTS // 15
ROUNDS = int(os.environ.get("COST_ROUNDS", "5"))
LIMIT = 0.03
RECORDED = 20_000_000


def bench_program():
    if "RECORD_BENCH" in os.environ:
        return os.environ["RECORD_BENCH"]
    argv = ["cargo", "bench", "--locked", "--bench", "record", "--no-run", "--message-format", "json"]
    built = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for line in built.splitlines():
        message = json.loads(line)
        if message.get("target", {}).get("name") == "record" and message.get("executable"):
            return message["executable"]
    raise Failure("cargo did not say where the bench is")


def load(port, requests, pipeline):
    argv = ["redis-benchmark", "-p", port, "-c", 50, "-P", pipeline, "-n", requests, "-t", "get", "-q"]
    subprocess.run([str(word) for word in argv], check=True, capture_output=True, timeout=600)


def recorded(program, times, pipeline, counted=False):
    """Nanoseconds a request; or the instructions of the whole run."""
    env = {**os.environ, "RECORD": str(times), "TOGETHER": str(pipeline)}
    if not counted:
        return float(subprocess.run([program], env=env, capture_output=True, text=True, check=True).stdout)
    return instructions([program], env)


def instructions(argv, env=None):
    said = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *map(str, argv)],
        env=env, capture_output=True, text=True, check=True,
    ).stderr  # fmt: skip
    return int(re.search(r"Collected : (\d+)", said).group(1))


class Counted(Server):
    """respmux under callgrind; `end()` stops it and gives its instructions."""

    def __init__(self, upstream):
        self.port, admin = free_port(), free_port()
        argv = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", RESPMUX, "run", "--workers", 1]
        argv += ["--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{admin}", "--upstream", upstream]
        super().__init__("respmux under callgrind", [str(word) for word in argv], answers(("127.0.0.1", self.port)))

    def end(self):
        self.process.terminate()
        self.process.wait(60)
        self.log.seek(0)
        return int(re.search(r"Collected : (\d+)", self.log.read().decode()).group(1))


def counted_run(upstream, requests, pipeline):
    with Counted(upstream) as proxy:
        load(proxy.port, requests, pipeline)
        return proxy.end()


def measure(program, directory, upstream, pipeline):
    spent, ns = [], []
    for _ in Progress(f"metrics-cost, pipelines of {pipeline}: rounds", ROUNDS).over(range(ROUNDS)):
        with Respmux(directory, upstream, "--workers", 1) as proxy:
            load(proxy.port, REQUESTS // 10, pipeline)
            before = cpu_seconds(proxy.pid)
            load(proxy.port, REQUESTS * (1 if pipeline == 1 else 4), pipeline)
            spent.append((cpu_seconds(proxy.pid) - before) * 1e9 / (REQUESTS * (1 if pipeline == 1 else 4)))
        ns.append(recorded(program, RECORDED, pipeline))
    one, all_of_it = statistics.median(ns), statistics.median(spent)
    metrics = (recorded(program, 1_100_000, pipeline, True) - recorded(program, 100_000, pipeline, True)) / 1e6
    whole = (counted_run(upstream, 3 * COUNTED, pipeline) - counted_run(upstream, COUNTED, pipeline)) / (2 * COUNTED)
    return {
        "pipeline": pipeline,
        "metrics_ns": round(one, 2),
        "request_cpu_ns": round(all_of_it),
        "share_of_cpu": round(one / all_of_it, 4),
        "metrics_instructions": round(metrics, 1),
        "request_user_instructions": round(whole),
        "share_of_user_instructions": round(metrics / whole, 4),
    }


def main():
    try:
        with ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            redis = stack.enter_context(Redis(directory))
            program, upstream = bench_program(), f"redis://127.0.0.1:{redis.port}"
            rows = [measure(program, directory, upstream, pipeline) for pipeline in (1, 16)]
    except Failure as failure:
        say(f"cost: {failure}")
        return 2
    ok = all(row["share_of_cpu"] <= LIMIT for row in rows)
    print(json.dumps({"metrics_cost": "ok" if ok else "too much", "rows": rows}), flush=True)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())

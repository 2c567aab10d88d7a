#!/usr/bin/env python3
"""What a scrape costs with a thousand clients connected, and what they notice of it.

Half of the measurements run with a scrape each second and half without, in turns, so that what else the machine does
hits both. Prints one line of JSON; fails when a scrape takes 5 ms or more of CPU, or its median 5 ms or more of time.
Settings: RESPMUX (the program), SCRAPE_CLIENTS, SCRAPE_ROUNDS, SCRAPE_SECONDS (of one measurement).
"""

import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benches"))
sys.path.insert(0, str(ROOT / "tests/limits"))

from common import Good, main  # noqa: E402
from harness import (  # noqa: E402
    Progress,
    Redis,
    Respmux,
    command,
    connect,
    cpu_seconds,
)

CLIENTS = int(os.environ.get("SCRAPE_CLIENTS", "1000"))
ROUNDS = int(os.environ.get("SCRAPE_ROUNDS", "10"))
SECONDS = float(os.environ.get("SCRAPE_SECONDS", "4"))
SCRAPES = 300
LIMIT_MS = 5.0


def scrape(port):
    """One scrape; seconds and bytes."""
    begun = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        size = len(answer.read())
    return time.perf_counter() - begun, size


def cost(proxy):
    """Of many scrapes in a row while nobody else does anything."""
    scrape(proxy.admin)
    idle_for = 3.0
    before = cpu_seconds(proxy.pid)
    time.sleep(idle_for)
    idle = (cpu_seconds(proxy.pid) - before) / idle_for
    before, begun = cpu_seconds(proxy.pid), time.monotonic()
    taken = [scrape(proxy.admin) for _ in range(SCRAPES)]
    spent = cpu_seconds(proxy.pid) - before - idle * (time.monotonic() - begun)
    times = sorted(seconds for seconds, _ in taken)
    return {
        "cpu_ms": round(1e3 * spent / SCRAPES, 2),
        "median_ms": round(1e3 * statistics.median(times), 2),
        "p99_ms": round(1e3 * times[int(0.99 * len(times))], 2),
        "bytes": taken[-1][1],
    }


def scraping(port, stop):
    while not stop.wait(1.0):
        scrape(port)


def side_by_side(proxy):
    """p50 and p99 of clients without and with scrapes, microseconds: the medians of all rounds."""
    good = Good(proxy.address)
    rounds = {"without": [], "with": []}
    for number in Progress("scrapes: rounds", 2 * ROUNDS).over(range(2 * ROUNDS)):
        # without, with, with, without: a trend hits both alike.
        name = ("without", "with", "with", "without")[number % 4]
        stop = threading.Event()
        thread = threading.Thread(target=scraping, args=(proxy.admin, stop)) if name == "with" else None
        if thread:
            thread.start()
        rounds[name].append(good.measure(SECONDS))
        stop.set()
        if thread:
            thread.join()
    good.stop()
    report = {}
    for name, measured in rounds.items():
        report[name] = {key: round(statistics.median(m[key] for m in measured)) for key in ("p50_us", "p99_us")}
        report[name]["p99_us_of_rounds"] = sorted(m["p99_us"] for m in measured)
        report[name]["requests"] = sum(m["requests"] for m in measured)
        report[name]["errors"] = sum(m["errors"] for m in measured)
    return report


def run(stack):
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    redis = stack.enter_context(Redis(directory))
    proxy = stack.enter_context(Respmux(directory, f"redis://127.0.0.1:{redis.port}", "--set", "client.accept_rate=0"))
    idle = [stack.enter_context(connect(proxy.address)) for _ in range(CLIENTS)]
    for sock in idle:
        command(sock, "SET", "small", "value")
    report = {"clients": CLIENTS, "scrape": cost(proxy), **side_by_side(proxy)}
    report["ok"] = report["scrape"]["cpu_ms"] < LIMIT_MS and report["scrape"]["median_ms"] < LIMIT_MS
    return report


if __name__ == "__main__":
    sys.exit(main("scrape", run))

#!/usr/bin/env python3
"""Redis alone, respmux and its peers: one machine, one run, interleaved rounds.

For every scenario and round it starts a fresh Redis and the target in front of it,
drives the same load, and takes throughput, latency, processor time of proxy and
Redis, memory and connections. Tables of medians go to standard output as Markdown,
the last one against the bars; everything goes to target/bench/<date>.json.

    BENCH_ROUNDS   rounds (3); ratios are taken within a round, then their median
    BENCH_SCALE    multiplies the number of requests (1.0)
    BENCH_ONLY     a regular expression: only scenarios whose title matches
    RESPMUX        the program to test (target/release/respmux)
"""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import load
from targets import ALL, MANY, PROXIES

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from harness import (  # noqa: E402
    TARGET,
    ConnectionWatch,
    Failure,
    Redis,
    command,
    connect,
    cpu_seconds,
    markdown,
    memory_bytes,
    raise_open_files,
    say,
)

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SCALE = float(os.environ.get("BENCH_SCALE", "1"))
ONLY = os.environ.get("BENCH_ONLY", "")


@dataclass(frozen=True)
class Scenario:
    title: str
    clients: int
    targets: tuple
    requests: int = 0  # 0: idle clients, measured in memory only
    pipeline: int = 1
    size: int = 32
    short_lived: bool = False  # a connection for each request

    def scaled(self):
        return Scenario(**{**self.__dict__, "requests": int(self.requests * SCALE)})


MANY_CLIENTS = Scenario("500 clients, no pipelining, 32 B", 500, tuple(ALL), 240_000)
PIPELINED = Scenario("100 clients, pipelines of 16, 32 B", 100, tuple(MANY), 1_280_000, pipeline=16)
CROWD = Scenario("4,000 clients, no pipelining, 32 B", 4000, tuple(MANY), 160_000)
LARGE = Scenario("500 clients, no pipelining, 4 KiB", 500, tuple(MANY), 120_000, size=4096)
SHORT = Scenario("50 clients, a connection for each GET", 50, tuple(MANY), 24_000, short_lived=True)
ALONE = Scenario("1 client, 32 B", 1, tuple(ALL), 20_000)
IDLE = Scenario("10,000 idle clients", 10_000, ("direct", "respmux", "nutcracker", "envoy", "haproxy"))
SCENARIOS = [MANY_CLIENTS, PIPELINED, CROWD, LARGE, SHORT, ALONE, IDLE]


def measure(scenario, target):
    """One target once; None where its program is missing or cannot do the scenario."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        redis = stack.enter_context(Redis(directory))
        proxy, address = None, redis.address
        if target != "direct":
            proxy = PROXIES[target](directory, redis, scenario)
            if proxy is None:
                return None
            stack.enter_context(proxy)
            address = proxy.address
        measured = proxy or redis
        if scenario.requests == 0:
            return {"client_bytes": load.idle_clients(address, scenario, measured.pid)}
        watch = stack.enter_context(ConnectionWatch(redis))
        calls = commands_called(redis)
        before = [cpu_seconds(server.pid) for server in (redis, measured)]
        drive = load.one_client if scenario.clients == 1 else load.redis_benchmark
        if scenario.short_lived:
            drive = load.short_lived
        figures = drive(address, scenario)
        after = [cpu_seconds(server.pid) for server in (redis, measured)]
        figures["connections"] = watch.finish()[0]
        if commands_called(redis) - calls < figures["requests"]:
            raise Failure(f"only {commands_called(redis) - calls} of {figures['requests']} requests reached Redis")
        million = figures["requests"] / 1e6
        figures["redis_cpu"] = (after[0] - before[0]) / million
        figures["proxy_cpu"] = (after[1] - before[1]) / million if proxy else 0.0
        figures["sum_cpu"] = figures["redis_cpu"] + figures["proxy_cpu"]
        figures["memory"] = memory_bytes(measured.pid, "VmHWM")
        return figures


def commands_called(redis):
    """SETs and GETs that Redis carried out: a proxy that answers with errors must not look fast."""
    with connect(redis.address) as sock:
        text = command(sock, "INFO", "commandstats").decode()
    return sum(int(count) for count in re.findall(r"cmdstat_[gs]et:calls=(\d+)", text))


SHOWN = ("ops", "p50", "proxy_cpu", "redis_cpu", "client_bytes")


def run_rounds(scenarios):
    """`{scenario title: {target: [figures of each round, or None]}}`, in interleaved order."""
    results = {scenario.title: {} for scenario in scenarios}
    for turn in range(ROUNDS):
        for scenario in scenarios:
            if scenario is IDLE and turn > 0:
                continue  # memory does not vary as time does
            for target in scenario.targets:
                start = time.monotonic()
                try:
                    figures, note = measure(scenario.scaled(), target), "skipped"
                except (Failure, OSError, subprocess.TimeoutExpired) as failure:
                    figures, note = None, f"FAILED: {failure}"
                results[scenario.title].setdefault(target, []).append(figures)
                if figures:
                    note = ", ".join(f"{key} {figures[key]:.4g}" for key in SHOWN if key in figures)
                took = time.monotonic() - start
                say(f"round {turn + 1}/{ROUNDS}, {scenario.title}, {target}: {note} ({took:.1f} s)")
    return results


def medians(rounds):
    """The median of each figure over the rounds that worked."""
    worked = [figures for figures in rounds if figures]
    return {key: statistics.median(f[key] for f in worked) for key in worked[0]} if worked else None


def table(scenario, results):
    rows = []
    for target in scenario.targets:
        found = medians(results[scenario.title][target])
        if found is None:
            rows.append([target] + ["n/a"] * (1 if scenario is IDLE else 8))
        elif scenario is IDLE:
            rows.append([target, f"{found['client_bytes']:.0f}"])
        else:
            latency = 3 if scenario is ALONE else 2
            rows.append([target, f"{found['ops']:.0f}", f"{found['p50']:.{latency}f}", f"{found['p99']:.{latency}f}"])
            rows[-1] += [f"{found[key]:.2f}" for key in ("proxy_cpu", "redis_cpu", "sum_cpu")]
            rows[-1] += [f"{found['memory'] / 2**20:.1f}", f"{found['connections']:.0f}"]
    if scenario is IDLE:
        return markdown(["", "resident bytes per client"], rows)
    head = ["", "requests/s", "p50 ms", "p99 ms", "proxy CPU", "Redis CPU", "sum", "peak MiB", "Redis connections"]
    return markdown(head, rows)


# What is asked of respmux with one worker: (scenario, what, the figure, against whom, whose figure, at most).
# Without a target to compare with, the limit is absolute.
BARS = [
    (MANY_CLIENTS, "proxy CPU / nutcracker's", "proxy_cpu", "nutcracker", "proxy_cpu", 0.9),
    (MANY_CLIENTS, "proxy + Redis CPU / Redis alone", "sum_cpu", "direct", "sum_cpu", 1.1),
    (PIPELINED, "proxy CPU / nutcracker's", "proxy_cpu", "nutcracker", "proxy_cpu", 0.35),
    (CROWD, "proxy + Redis CPU / Redis alone", "sum_cpu", "direct", "sum_cpu", 0.95),
    (SHORT, "proxy CPU / nutcracker's", "proxy_cpu", "nutcracker", "proxy_cpu", 1.0),
    (IDLE, "resident bytes per client", "client_bytes", None, None, 2048),
    (ALONE, "p50 / direct", "p50", "direct", "p50", 2.2),
]


def bars(results):
    """One row per bar: the median of the rounds' ratios, their spread, and the verdict."""
    rows = []
    for scenario, what, figure, other, others_figure, limit in BARS:
        found = results.get(scenario.title, {})
        pairs = zip(found.get("respmux", []), found.get(other or "respmux", []), strict=True)
        ratios = [ours[figure] / (theirs[others_figure] if other else 1) for ours, theirs in pairs if ours and theirs]
        row = [scenario.title, what, f"{limit:g}"]
        if not ratios:
            rows.append([*row, "-", "-", "not measured"])
            continue
        reached, digits = statistics.median(ratios), 2 if other else 0
        spread = f"{min(ratios):.{digits}f} to {max(ratios):.{digits}f}"
        rows.append([*row, f"{reached:.{digits}f}", spread, "PASS" if reached <= limit else "miss"])
    return rows


def main():
    raise_open_files()
    started = time.monotonic()
    scenarios = [scenario for scenario in SCENARIOS if re.search(ONLY, scenario.title)]
    results = run_rounds(scenarios)
    print(f"Medians of {ROUNDS} interleaved rounds, one worker or thread each, {os.cpu_count()} cores,", end=" ")
    print(f"{platform.system()} {platform.release()}. CPU: seconds per million requests, user + system.")
    for scenario in scenarios:
        print(f"\n**{scenario.title}**\n\n{table(scenario, results)}")
    verdicts = bars(results)
    print("\n**The bars** (at most)\n")
    print(markdown(["scenario", "figure", "bar", "reached", "rounds", ""], verdicts))
    out = TARGET / "bench" / time.strftime("%Y-%m-%dT%H%M%S.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"rounds": ROUNDS, "scale": SCALE, "results": results, "bars": verdicts}, indent=1))
    say(f"{time.monotonic() - started:.0f} s in all; every figure is in {out}.")
    ours = [figures for by_target in results.values() for figures in by_target.get("respmux", [])]
    if not all(ours):
        raise Failure("respmux itself failed in a round")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"bench: {failure}")

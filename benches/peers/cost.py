#!/usr/bin/env python3
"""What checking replies costs: one build with `integrity` loose, normal and strict, beside another build.

500 clients, no pipelining, one worker, interleaved rounds whose order turns; ratios are taken within a round. The
first variant is what the others are compared with: the program BEFORE (say, a build from before a change), or
`loose` where there is none. One JSON line: for each variant the medians of processor seconds per million requests
(proxy, proxy and Redis) and of their ratios.

    BEFORE         another program to compare with (none)
    COST_ROUNDS    rounds (9)
    COST_REQUESTS  requests in each (240000)
    RESPMUX        the program to test (target/release/respmux)
"""

import json
import os
import statistics
import sys

import bench
import targets

ROUNDS = int(os.environ.get("COST_ROUNDS", "9"))
REQUESTS = int(os.environ.get("COST_REQUESTS", "240000"))
BEFORE = os.environ.get("BEFORE")
FIGURES = ("proxy_cpu", "sum_cpu", "ops", "p99")


def variant(program, *settings):
    """A way to start respmux, as `targets.PROXIES` has them."""

    def start(directory, redis, _scenario):
        return targets.Respmux(directory, f"redis://127.0.0.1:{redis.port}", "--workers", 1, *settings, program=program)

    return start


def variants():
    found = {"before": variant(BEFORE)} if BEFORE else {}
    for level in ("loose", "normal", "strict"):
        found[level] = variant(None, "--set", f"integrity={level}")
    return found


def main():
    scenario = bench.Scenario("500 clients", 500, (), REQUESTS)
    programs = variants()
    targets.PROXIES.update(programs)
    names, rounds = list(programs), []
    for turn in range(ROUNDS):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        rounds.append({name: bench.measure(scenario, name) for name in order})
        bench.say(f"round {turn + 1}/{ROUNDS}: " + ", ".join(f"{n} {rounds[-1][n]['proxy_cpu']:.2f}" for n in names))
    result = {"clients": scenario.clients, "requests": REQUESTS, "rounds": ROUNDS, "compared_with": names[0]}
    for name in names:
        row = result[name] = {}
        for figure in FIGURES:
            ratios = [one[name][figure] / one[names[0]][figure] for one in rounds]
            row[figure] = round(statistics.median(one[name][figure] for one in rounds), 3)
            row[figure + "_ratio"] = round(statistics.median(ratios), 3)
        ratios = [one[name]["proxy_cpu"] / one[names[0]]["proxy_cpu"] for one in rounds]
        row["proxy_cpu_spread"] = [round(min(ratios), 3), round(max(ratios), 3)]
    print(json.dumps(result))


if __name__ == "__main__":
    bench.raise_open_files()
    sys.exit(main())

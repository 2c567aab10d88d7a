#!/usr/bin/env python3
"""Redis' own test suite against a Redis, and against respmux in front of such a Redis.

Every unit runs in the suite's external-server mode with a fresh server of its own,
once per arm. A test that passes direct and does not pass through respmux is a
difference; `known.txt` says which are expected and why. Exit code 1: a difference
is not in it.

    REDIS_SOURCE    a checkout of Redis' repository at tag 7.0.15 (only read)
    SUITE_UNITS     a regular expression: only units whose name matches
    SUITE_SECONDS   a unit without progress for this long has hung (60)
    SUITE_JOBS      units that run side by side (2)
    SUITE_ARGS      further arguments of respmux (--max-upstream-connections 256)
    SUITE_BASELINE  direct's results: "keep" takes those of the last run
    RESPMUX         the program to test (target/release/respmux)

What the suite printed is in target/suite/<arm>/<unit>.log, the results in
target/suite/results.json.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

from common import ARMS, HERE, OUT, SuiteServer, port_of, rows
from harness import RESPMUX, Failure, Progress, free_port, say

SOURCE = os.environ.get("REDIS_SOURCE", "")
UNITS = os.environ.get("SUITE_UNITS", "")
SECONDS = int(os.environ.get("SUITE_SECONDS", "60"))
JOBS = int(os.environ.get("SUITE_JOBS", "2"))
ARGS = os.environ.get("SUITE_ARGS", "--max-upstream-connections 256").split()
KEEP = os.environ.get("SUITE_BASELINE", "") == "keep"
UNIT_SECONDS = 600  # whatever happens in it
HANGS = 6  # a unit is run again without the tests that hang, this often
SPOILER = "not run: "  # how the reason of a test begins that is left out through respmux
HOW_TO = """REDIS_SOURCE is not a checkout of Redis 7.0.15. To get one:

    git clone --depth 1 --branch 7.0.15 https://github.com/redis/redis.git target/redis-7.0.15
    make prove WHAT=suite REDIS_SOURCE=target/redis-7.0.15
"""


def check_source():
    """The suite belongs to one version; its tests are no oracle for another."""
    starter = Path(SOURCE or "/nonexistent") / "tests" / "test_helper.tcl"
    version = Path(SOURCE or "/nonexistent") / "src" / "version.h"
    if not starter.is_file() or (version.is_file() and '"7.0.15"' not in version.read_text()):
        raise Failure(HOW_TO)
    return starter


def server_binary():
    found = shutil.which("redis-server")
    if not found:
        raise Failure("redis-server is not installed")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    if "v=7.0." not in said:
        raise Failure(f"the suite is that of Redis 7.0.15, and redis-server is {said.strip()}")
    return found


def all_units(starter):
    """The names in the suite's own list."""
    listed = re.search(r"set ::all_tests \{(.*?)\}", starter.read_text(), re.DOTALL).group(1).split()
    return [unit for unit in listed if re.search(UNITS, unit)]


def tree(directory, arm):
    """A copy of the suite it may write into, with the installed binaries where it looks for them."""
    top = Path(directory) / "tree"
    shutil.copytree(Path(SOURCE) / "tests", top / "tests", symlinks=True)
    (top / "tests" / "tmp").mkdir(exist_ok=True)
    (top / "src").mkdir()
    for name in ("redis-server", "redis-cli", "redis-benchmark", "redis-check-aof", "redis-check-rdb"):
        if shutil.which(name):
            (top / "src" / name).symlink_to(shutil.which(name))
    if arm == "respmux":
        starter = top / "tests" / "test_helper.tcl"
        library, start, rest = starter.read_text().rpartition("\nif {$::client} {\n")
        starter.write_text(f"{library}\nsource {{{HERE / 'past.tcl'}}}\n{start}{rest}")
    return top


def run_once(unit, arm, skip, log):
    """One run of a unit; returns what it printed and whether it ended by itself."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        top = tree(directory, arm)
        # As the suite configures a server of its own.
        configured = [server_binary(), str(Path(SOURCE) / "tests" / "assets" / "default.conf")]
        redis = stack.enter_context(SuiteServer(configured, directory))
        port = port_of(arm, redis, directory, ARGS, stack)
        environment = {**os.environ, "TERM": "dumb"}
        if arm == "respmux":
            environment["SUITE_SERVER_PORT"] = str(redis.port)
        argv = ["tclsh", "tests/test_helper.tcl", "--host", "127.0.0.1", "--port", str(port), "--single", unit]
        argv += ["--durable", "--timeout", str(SECONDS), "--baseport", str(free_port())]
        for name in skip:
            argv += ["--skiptest", name]
        with log.open("wb") as out:
            # A group of its own: the suite leaves children behind when it is stopped.
            child = subprocess.Popen(
                argv, cwd=top, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, process_group=0
            )
            try:
                child.wait(UNIT_SECONDS)
                ended = True
            except subprocess.TimeoutExpired:
                ended = False
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    return log.read_text(errors="replace"), ended


def parse(text):
    """The outcome of each test, as (name, outcome, what was said), and the test that hung."""
    found, hung = [], None
    parts = re.split(r"^\[(ok|err|exception|skip|ignore|TIMEOUT|\d+/\d+ done)\]: ", text, flags=re.MULTILINE)
    for kind, rest in zip(parts[1::2], parts[2::2], strict=True):
        body = rest.split("\n                   The End\n")[0].rstrip()
        if kind == "ok":
            found.append((re.sub(r" \(\d+ ms\)$", "", body.split("\n")[0]), "ok", ""))
        elif kind in ("err", "exception"):
            named = re.match(r"(.*?) in tests/\S+\.tcl\n?(.*)", body, re.DOTALL)
            if named:
                found.append((named.group(1), "err", named.group(2).strip()))
            else:
                # Between two tests: what follows in the block was not run.
                found.append(("(outside a test)", "exception", body))
        elif kind == "skip":
            found.append((body.split("\n")[0], "skip", ""))
        elif kind == "ignore":
            found.append((body.split("\n")[0], "ignore", ""))
        elif kind == "TIMEOUT":
            state = re.search(r"\(IN PROGRESS\) (.*)", body)
            hung = state.group(1) if state else "(outside a test)"
    return found, hung


def numbered(found):
    """A name may occur several times in a unit: the n-th is `name #n`."""
    seen, named = Counter(), {}
    for name, outcome, said in found:
        seen[name] += 1
        label = name if seen[name] == 1 else f"{name} #{seen[name]}"
        named[label] = (outcome, said)
    return named


def run_unit(unit, arm):
    """Run a unit, and again without what hung in it; returns {test: (outcome, said)}."""
    # Some known failures would take the rest of their unit with them: a script that nobody can stop, say.
    spoilers = [name for (of, name), why in known().items() if of == unit and why.startswith(SPOILER)]
    hung, log = [], OUT / arm / f"{unit.replace('/', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    while True:
        started = time.monotonic()
        text, ended = run_once(unit, arm, [*hung, *(spoilers if arm == "respmux" else [])], log)
        found, name = parse(text)
        if not ended:
            name = name or "(outside a test)"
        if name is None or name in hung or name == "(outside a test)" or len(hung) == HANGS:
            break
        shutil.copy(log, log.with_suffix(f".hang{len(hung)}.log"))
        hung.append(name)
    results = {label: result for label, result in numbered(found).items() if result[0] not in ("skip", "ignore")}
    for test in [*hung, *([name] if name else [])]:
        results[test] = ("hang", "no progress")
    if not re.search(r"\d+/\d+ done\]", text) and not name:
        results["(outside a test)"] = ("exception", text[-300:])
    tally = dict(Counter(outcome for outcome, _ in results.values()))
    say(f"  {arm:8} {unit:32} {time.monotonic() - started:5.0f} s  {tally or 'nothing for an external server'}")
    return results


def known():
    """`known.txt`: {(unit, test): reason}."""
    return {(unit, test): reason for unit, test, reason in rows("known.txt")}


def base_name(test):
    return re.sub(r" #\d+$", "", test)


def differences(results, unit):
    """What passes direct and does not through respmux: (test, outcome, said)."""
    direct, through = results["direct"].get(unit, {}), results["respmux"].get(unit, {})
    for test, (outcome, _) in direct.items():
        if outcome == "ok" and through.get(test, ("not run", ""))[0] != "ok":
            yield test, *through.get(test, ("not run", ""))


def report(results, units):
    """Print both counts and every difference; returns the differences that nobody expected."""
    expected, new, differing, met = known(), [], [], set()
    for unit in units:
        for test, outcome, said in differences(results, unit):
            key = (unit, base_name(test))
            met.add(key)
            differing.append({"unit": unit, "test": test, "outcome": outcome, "known": expected.get(key)})
            print(f"{'known' if key in expected else 'NEW'}  {unit}: {test} [{outcome}]")
            print(f"         {expected.get(key) or ' '.join(said.split())[:300]}")
            if key not in expected:
                new.append(key)
    counts = {arm: dict(Counter(o for u in units for o, _ in results[arm].get(u, {}).values())) for arm in ARMS}
    for unit, test in sorted(key for key in expected if key[0] in units and key not in met):
        print(f"gone   {unit}: {test} is in known.txt and makes no difference any more")
    for arm in ARMS:
        print(f"{arm:8} {counts[arm]}")
    print(f"{len(differing)} differences, {len(new)} of them not in known.txt")
    print(
        json.dumps({"suite": "redis 7.0.15", "respmux": RESPMUX, **counts, "differences": differing, "new": len(new)})
    )
    return new


def main():
    starter = check_source()
    units, saved = all_units(starter), OUT / "results.json"
    OUT.mkdir(parents=True, exist_ok=True)
    results = {arm: {} for arm in ARMS}
    if KEEP and saved.is_file():
        results["direct"] = json.loads(saved.read_text())["direct"]
    work = [(unit, arm) for unit in units for arm in ARMS if unit not in results[arm]]
    say(f"{len(units)} units, {JOBS} at a time")
    with ThreadPoolExecutor(JOBS) as pool:
        outcomes = pool.map(lambda one: run_unit(*one), work)
        for (unit, arm), found in zip(Progress("suite: units", len(work)).over(work), outcomes, strict=True):
            results[arm][unit] = found
    saved.write_text(json.dumps(results, indent=1))
    return 1 if report(results, units) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"suite: {failure}")

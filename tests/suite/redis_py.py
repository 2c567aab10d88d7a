#!/usr/bin/env python3
"""redis-py's own test suite against a Redis, and against respmux in front of such a Redis.

Each arm has a fresh server and a fresh proxy. A test that passes direct and does not
pass through respmux is run again by itself, three times: one that passes then was not
respmux' fault but the suite's (it shares one database and reads clocks); it is counted
as `unsteady` and named. What is left is a difference; `redis_py.txt` says which are
expected and why. Exit code 1: a difference is not in it.

    REDIS_PY_SOURCE  a checkout of redis-py's repository at tag v5.2.1 (only read)
    SUITE_SERVER     the server (redis-server from PATH)
    SUITE_PROTOCOL   2 or 3 (2)
    SUITE_ARGS       further arguments of respmux (--max-upstream-connections 64)
    RESPMUX          the program to test (target/release/respmux)

What the suite printed is in target/suite/redis-py-<arm>.log.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

from common import ARMS, OUT, SuiteServer, port_of, rows
from harness import RESPMUX, TARGET, Failure, Progress, say

SOURCE = os.environ.get("REDIS_PY_SOURCE", "")
VERSION = "5.2.1"
SERVER = os.environ.get("SUITE_SERVER") or shutil.which("redis-server") or "redis-server"
PROTOCOL = os.environ.get("SUITE_PROTOCOL", "2")
ARGS = os.environ.get("SUITE_ARGS", "--max-upstream-connections 64").split()
VENV = TARGET / "venv-redis-py-suite"
# Of another kind of server, or of modules, or of fixtures that only its own containers have.
MARKS = "not onlycluster and not redismod and not ssl and not replica"
IGNORED = (
    "test_cluster.py",
    "test_graph.py",
    "test_asyncio/test_cluster.py",
    "test_asyncio/test_graph.py",
    "test_asyncio/test_sentinel_managed_connection.py",
)
SECONDS = 30
AGAIN = 3
HOW_TO = f"""REDIS_PY_SOURCE is not a checkout of redis-py {VERSION}. To get one:

    git clone --depth 1 --branch v{VERSION} https://github.com/redis/redis-py.git target/redis-py
    make prove WHAT=suite-redis-py REDIS_PY_SOURCE=target/redis-py
"""


def check_source():
    """The suite belongs to one version of the library; a newer one tests what this one does not have."""
    top = Path(SOURCE or "/nonexistent")
    setup = top / "setup.py"
    if not (top / "tests" / "conftest.py").is_file() or f'version="{VERSION}"' not in setup.read_text():
        raise Failure(HOW_TO)
    return top


def venv():
    """The library and what its suite imports, under target/."""
    python = VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    wanted = [f"redis=={VERSION}", "pytest<9", "pytest-asyncio>=0.23,<0.24", "pytest-timeout", "pytest-cov"]
    wanted += ["packaging", "mock", "ujson", "numpy", "uvloop", "cachetools", "cryptography"]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    subprocess.run(pip, check=True, stdout=sys.stderr)
    return python


def pytest(python, arm, selected):
    """One run; returns {test: (outcome, what was said)}."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(SuiteServer([SERVER, "--bind", "127.0.0.1", "--save", ""], directory))
        port = port_of(arm, server, directory, ARGS, stack)
        tree, report = directory / "tree", directory / "report.xml"
        # Without the package itself: the installed one is tested, and the tree stays as it is.
        shutil.copytree(Path(SOURCE) / "tests", tree / "tests")
        shutil.copy(Path(SOURCE) / "pytest.ini", tree)
        argv = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", MARKS, f"--junitxml={report}"]
        argv += [f"--redis-url=redis://127.0.0.1:{port}/0", f"--protocol={PROTOCOL}"]
        argv += [f"--timeout={SECONDS}", "--timeout-method=signal", "-o", "junit_family=xunit1"]
        argv += [f"--ignore=tests/{path}" for path in IGNORED] + list(selected)
        log = OUT / f"redis-py-{arm}.log"
        with log.open("ab" if selected else "wb") as out:
            child = subprocess.Popen(argv, cwd=tree, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            progress = Progress(f"redis-py, {arm}: percent", 100)
            while child.poll() is None:
                time.sleep(0.2)
                progress.reach(percent_of(log))
        if not report.is_file():
            raise Failure(f"pytest wrote no report; see {log}")
        return parse(report)


def percent_of(log):
    """How far pytest says it is."""
    found = re.findall(r"\[ *(\d+)%\]", log.read_text(errors="replace"))
    return int(found[-1]) if found else 0


def parse(report):
    results = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('file')}::{case.get('classname').rpartition('.')[2]}::{case.get('name')}"
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        if bad is not None:
            results[name] = (bad.tag, bad.get("message") or "")
        else:
            results[name] = ("skipped" if case.find("skipped") is not None else "passed", "")
    return results


def selector(name):
    """A name of `parse` as pytest takes it: functions outside classes have the module's name for a class."""
    path, klass, test = name.split("::", 2)
    return f"{path}::{test}" if klass == Path(path).stem else name


def known():
    """`redis_py.txt`: {test: reason}."""
    return dict(rows("redis_py.txt"))


def settle(python, names):
    """Those that fail through respmux also by themselves; the others are unsteady."""
    steady, unsteady = [], []
    for name in names:
        runs = [pytest(python, "respmux", [selector(name)]).get(name, ("not run", "")) for _ in range(AGAIN)]
        failed = [run for run in runs if run[0] != "passed"]
        (steady if failed else unsteady).append((name, failed[0][1] if failed else ""))
    return steady, unsteady


def main():
    check_source()
    OUT.mkdir(parents=True, exist_ok=True)
    python = venv()
    results = {arm: pytest(python, arm, []) for arm in ARMS}
    counts = {arm: dict(Counter(outcome for outcome, _ in found.values())) for arm, found in results.items()}
    say(f"direct {counts['direct']}, respmux {counts['respmux']}")
    passing = [name for name, (outcome, _) in results["direct"].items() if outcome == "passed"]
    differing = [name for name in passing if results["respmux"].get(name, ("not run",))[0] != "passed"]
    steady, unsteady = settle(python, differing)
    expected = known()
    new = [name for name, _ in steady if name not in expected]
    for name, said in steady:
        print(f"{'known' if name in expected else 'NEW'}  {name}")
        print(f"         {expected.get(name) or ' '.join(said.split())[:300]}")
    for name, _ in unsteady:
        print(f"unsteady  {name}")
    for name in sorted(set(expected) - {name for name, _ in steady}):
        print(f"gone   {name} is in redis_py.txt and makes no difference any more")
    summary = {"suite": f"redis-py {VERSION}", "respmux": RESPMUX, "protocol": PROTOCOL, **counts}
    summary |= {"differences": len(steady), "unsteady": len(unsteady), "new": len(new)}
    print(json.dumps(summary))
    return 1 if new else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"suite: {failure}")

"""What every Python client script shares: arguments, assertions that count, one line of JSON.

A script registers its checks with `@suite.check`, runs them in that order, and ends with one JSON line
on standard output. A mismatch ends the run with exit status 1 and names the check.
"""

import argparse
import inspect
import json
import os
import sys
import time
import traceback


class Mismatch(AssertionError):
    """A reply was not what the server itself would have given."""


class Suite:
    """Runs the checks of one client library and counts what they compared."""

    def __init__(self, client, version):
        self.client = client
        self.version = version
        self.checks = []
        self.compared = 0
        self.skipped = []
        self.args = self._arguments()
        self.prefix = self.args.prefix or f"{client}-{os.getpid()}-{time.time_ns()}"

    @staticmethod
    def _arguments():
        parser = argparse.ArgumentParser()
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, required=True)
        parser.add_argument("--direct-host", default="127.0.0.1")
        parser.add_argument("--direct-port", type=int, required=True)
        parser.add_argument("--protocol", type=int, choices=(2, 3), default=2)
        parser.add_argument("--level", choices=("full", "short"), default="full")
        parser.add_argument("--prefix", default="")
        parser.add_argument("--only", default="", help="run only the checks whose name contains this")
        parser.add_argument("--tls-ca", default="", help="speak TLS; the authority of the certificate")
        return parser.parse_args()

    def key(self, name):
        return f"{self.prefix}:{name}"

    def size(self, full, short):
        """How many repetitions: fuller runs on one server, shorter ones on the others."""
        return full if self.args.level == "full" else short

    def check(self, function):
        self.checks.append(function)
        return function

    def equal(self, got, expected, what=""):
        self.compared += 1
        if got != expected:
            raise Mismatch(f"{what or 'value'}: got {got!r}, expected {expected!r}"[:2000])

    def true(self, condition, what):
        self.compared += 1
        if not condition:
            raise Mismatch(what)

    def raises(self, kind, text, call):
        self.compared += 1
        try:
            got = call()
        except kind as error:
            if text not in str(error):
                raise Mismatch(f"error text {str(error)!r} has no {text!r}") from error
            return
        raise Mismatch(f"expected {kind.__name__} with {text!r}, got {got!r}")

    def skip(self, name, why):
        self.skipped.append(f"{name}: {why}")

    def eventually(self, what, probe, seconds=10.0):
        """Polls until `probe()` is true; a deadline turns waiting into a mismatch."""
        end = time.monotonic() + seconds
        while not probe():
            if time.monotonic() > end:
                raise Mismatch(f"not within {seconds} s: {what}")
            time.sleep(0.01)
        self.compared += 1

    def _report(self, started, failed):
        line = {
            "client": self.client,
            "version": self.version,
            "protocol": self.args.protocol,
            "level": self.args.level,
            "checks": len(self.checks),
            "compared": self.compared,
            "skipped": self.skipped,
            "failed": failed,
            "seconds": round(time.monotonic() - started, 2),
        }
        print(json.dumps(line), flush=True)

    def _chosen(self):
        return [check for check in self.checks if self.args.only in check.__name__]

    def _fail(self, name, error):
        traceback.print_exc(file=sys.stderr)
        return f"{name}: {type(error).__name__}: {error}"[:600]

    def run(self):
        started, failed = time.monotonic(), []
        for check in self._chosen():
            try:
                check()
            except Exception as error:  # every failure of a check is the finding
                failed.append(self._fail(check.__name__, error))
        self._report(started, failed)
        sys.exit(1 if failed or not self.compared else 0)

    async def run_async(self):
        started, failed = time.monotonic(), []
        for check in self._chosen():
            try:
                outcome = check()
                if inspect.isawaitable(outcome):
                    await outcome
            except Exception as error:  # every failure of a check is the finding
                failed.append(self._fail(check.__name__, error))
        self._report(started, failed)
        return 1 if failed or not self.compared else 0

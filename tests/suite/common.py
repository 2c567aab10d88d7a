"""What the runs of foreign test suites share: a server that allows everything, and respmux in front of it."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "benches"))
from harness import TARGET, Respmux, Server, connect, free_port, info  # noqa: E402

OUT = TARGET / "suite"
ARMS = ("direct", "respmux")
# A suite's logins fail on purpose, all from one address: that is not to cost it time, or the next login.
NO_THROTTLE = ("--set", "auth.failure_delay=0s", "--set", "auth.max_failures=0")


class SuiteServer(Server):
    """A server of the run's own, with `argv` and DEBUG allowed."""

    def __init__(self, argv, directory):
        self.port = free_port()
        argv = [*argv, "--port", str(self.port), "--dir", str(directory), "--enable-debug-command", "yes"]
        super().__init__("server", argv, self._is_ours)

    def _is_ours(self, _server):
        with connect(("127.0.0.1", self.port), 1.0) as sock:
            return info(sock, "server", "process_id") == self.process.pid


def port_of(arm, server, directory, arguments, stack):
    """Where the suite of `arm` connects: to the server, or to a respmux in front of it."""
    if arm == "direct":
        return server.port
    upstream = f"redis://127.0.0.1:{server.port}"
    return stack.enter_context(Respmux(directory, upstream, *NO_THROTTLE, *arguments)).port


def rows(name):
    """The columns of each row of a list of known differences."""
    lines = (HERE / name).read_text().splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]

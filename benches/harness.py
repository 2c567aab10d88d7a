"""What `make demo` and `make bench` share: servers of their own, and what they cost.

Standard library only. Every server listens on a free loopback port, belongs to
this process and is stopped at the end of its `with` block, whatever happens.
"""

import os
import random
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
RESPMUX = os.environ.get("RESPMUX", str(TARGET / "release" / "respmux"))
TICKS = os.sysconf("SC_CLK_TCK")


class Failure(RuntimeError):
    """Something the run needs did not start or did not answer."""


def free_port():
    """A loopback port nobody uses, below the range of outgoing connections."""
    for _ in range(200):
        port = random.randint(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Failure("no free port between 20000 and 32000")


def raise_open_files():
    """Raise the soft limit of open files to the hard one; returns it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def cpu_seconds(pid):
    """User + system seconds of a process and all its threads (10 ms ticks)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_bytes(pid, field="VmRSS"):
    """Resident memory of a process now (`VmRSS`) or at its highest (`VmHWM`)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) * 1024 if found else 0


def connect(address, timeout=5.0):
    """A socket to `(host, port)` or to a unix socket's path."""
    if isinstance(address, tuple):
        return socket.create_connection(address, timeout)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout)
    sock.connect(address)
    return sock


def command(sock, *words):
    """Send one command; returns the raw reply: a line, or a bulk string's body."""
    frame = b"*%d\r\n" % len(words)
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        frame += b"$%d\r\n%s\r\n" % (len(data), data)
    sock.sendall(frame)
    data = b""
    while b"\r\n" not in data:
        data += _more(sock)
    line, rest = data.split(b"\r\n", 1)
    if line[:1] != b"$" or line == b"$-1":
        return line
    size = int(line[1:])
    while len(rest) < size + 2:
        rest += _more(sock)
    return rest[:size]


def _more(sock):
    data = sock.recv(65536)
    if not data:
        raise Failure("connection closed while waiting for a reply")
    return data


def info(sock, section, field):
    """One number from INFO."""
    text = command(sock, "INFO", section).decode()
    found = re.search(rf"^{field}:(\d+)", text, re.MULTILINE)
    if not found:
        raise Failure(f"INFO {section} has no {field}")
    return int(found.group(1))


class Server:
    """A child process, up when `probe()` says so and stopped with SIGTERM."""

    def __init__(self, name, argv, probe, env=None, cwd=None):
        self.name, self.argv, self.probe, self.env, self.cwd = name, argv, probe, env, cwd
        self.process, self.log = None, None

    @property
    def pid(self):
        return self.process.pid

    def __enter__(self):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self.argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=self.env, cwd=self.cwd
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if self.probe(self):
                    return self
            except (OSError, Failure, ValueError):
                pass
            time.sleep(0.05)
        self.log.seek(0)
        said = self.log.read().decode(errors="replace")[-800:]
        self.__exit__()
        raise Failure(f"{self.name} did not come up: {' '.join(map(str, self.argv))}\n{said}")

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


def answers(address):
    """A probe: a GET is answered at this address (every proxy here can do GET)."""

    def probe(_server):
        with connect(address, 1.0) as sock:
            return command(sock, "GET", "bench:probe")[:1] in (b"$", b"+")

    return probe


def redis_binary():
    for name in ("redis-server", "valkey-server"):
        if shutil.which(name):
            return name
    raise Failure("neither redis-server nor valkey-server is installed")


class Redis(Server):
    """A Redis of our own on TCP and on a unix socket, with nothing on disk."""

    def __init__(self, directory, maxclients=20000):
        self.port = free_port()
        self.address = ("127.0.0.1", self.port)
        self.path = str(Path(directory) / "redis.sock")
        argv = [redis_binary(), "--port", self.port, "--bind", "127.0.0.1", "--unixsocket", self.path]
        argv += ["--save", "", "--appendonly", "no", "--dir", directory, "--maxclients", maxclients]
        argv += ["--tcp-backlog", 4096]
        super().__init__("redis", [str(word) for word in argv], self._is_ours)

    def _is_ours(self, _server):
        with connect(self.address, 1.0) as sock:
            return info(sock, "server", "process_id") == self.process.pid


class Respmux(Server):
    """respmux in front of `upstream`, on TCP and on a unix socket."""

    def __init__(self, directory, upstream, *extra, program=None):
        program = program or RESPMUX
        if not os.access(program, os.X_OK):
            raise Failure(f"{program} is not there: build it with `cargo build --release`")
        self.port, self.admin = free_port(), free_port()
        self.address = ("127.0.0.1", self.port)
        self.path = str(Path(directory) / "respmux.sock")
        argv = [program, "run", "--listen", f"127.0.0.1:{self.port}", "--listen", f"unix:{self.path}"]
        argv += ["--upstream", upstream, "--admin", f"127.0.0.1:{self.admin}", *map(str, extra)]
        super().__init__("respmux", argv, answers(self.address))


class ConnectionWatch:
    """Samples `connected_clients` of a Redis on a connection of its own, not counted."""

    def __init__(self, redis, every=0.05):
        self.sock, self.every = connect(redis.address), every
        self.first = info(self.sock, "stats", "total_connections_received")
        self.peak, self.stop = 0, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self.stop.wait(self.every):
            self.peak = max(self.peak, info(self.sock, "clients", "connected_clients") - 1)

    def __enter__(self):
        self.thread.start()
        return self

    def finish(self):
        """Stop sampling; returns the peak and the connections opened since the start."""
        self.stop.set()
        self.thread.join()
        return self.peak, info(self.sock, "stats", "total_connections_received") - self.first

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.sock.close()


def markdown(head, rows):
    """A Markdown table, padded so that it also reads well in a terminal."""
    table = [list(map(str, head)), *[list(map(str, row)) for row in rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def say(text):
    print(text, file=sys.stderr, flush=True)


class Progress:
    """A line on standard error every five seconds: how many of how many, how many a second, and the time left. `what` is
    counted, in the plural; the run ends after `total` of them or after `seconds`. As `kit::Progress` of the Rust tests."""

    EVERY = 5.0

    def __init__(self, what, total=None, seconds=None):
        self.what, self.total, self.seconds, self.done = what, total, seconds, 0
        self.begun = self.told = time.monotonic()

    def add(self, more=1):
        self.reach(self.done + more)

    def reach(self, done):
        self.done, now = done, time.monotonic()
        if now >= self.told + self.EVERY:
            self.told = now
            say(self.line(now - self.begun))

    def over(self, items):
        """The `items`, each counted when the next one is asked for."""
        for done, item in enumerate(items):
            self.reach(done)
            yield item

    def line(self, passed):
        rate, parts = self.done / passed, []
        if self.done or self.total:
            of = f" of {self.total:,}" if self.total else ""
            parts.append(f" {self.done:,}{of}, {rate:,.1f}/s" if rate < 10 else f" {self.done:,}{of}, {rate:,.0f}/s")
        left = [(self.total - self.done) / rate] if self.total and self.done else []
        left += [self.seconds - passed] if self.seconds else []
        if left:
            parts.append(f" {spoken(max(0, min(left)))} left")
        return f"{self.what}:{','.join(parts)}"


def spoken(seconds):
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

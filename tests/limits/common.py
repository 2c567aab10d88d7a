"""What the memory wall and the head-of-line run share: clients that are measured, and clients that misbehave."""

import json
import multiprocessing
import os
import selectors
import socket
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "benches"))

from harness import Failure, Progress, raise_open_files, say  # noqa: E402

CONTEXT = multiprocessing.get_context("fork")
MIB = 1 << 20


def encode(*words):
    """One command as multibulk."""
    frame = b"*%d\r\n" % len(words)
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        frame += b"$%d\r\n%s\r\n" % (len(data), data)
    return frame


def percentile(sorted_values, share):
    """The value below which `share` of all are; 0 when there is none."""
    if not sorted_values:
        return 0.0
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


def open_socket(address, receive=0):
    """A blocking TCP socket; `receive` is the size of the kernel's buffer for a slow reader."""
    sock = socket.socket()
    if receive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    sock.settimeout(10)
    sock.connect(address)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _good(address, connections, pipe):
    """Well-behaved clients: one small GET at a time, each on the next connection, about a thousand a second."""
    socks = [open_socket(address) for _ in range(connections)]
    request = encode("GET", "small")
    pipe.send("ready")
    while True:
        seconds = pipe.recv()
        if seconds is None:
            return
        took, errors, turn, until = [], 0, 0, time.monotonic() + seconds
        while time.monotonic() < until:
            turn = (turn + 1) % connections
            sock, begun = socks[turn], time.perf_counter()
            try:
                sock.sendall(request)
                if not sock.recv(4096).startswith(b"$5\r\nvalue\r\n"):
                    raise OSError("not the value")
            except OSError:
                errors += 1
                sock.close()
                socks[turn] = open_socket(address)
                continue
            took.append(time.perf_counter() - begun)
            time.sleep(0.0007)
        pipe.send((sorted(took), errors))


class Good:
    """Measures on demand, in a process of its own so that no other client's work is in the figures."""

    def __init__(self, address, connections=20):
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_good, args=(address, connections, theirs), daemon=True)
        self.process.start()
        self.pipe.recv()

    def begin(self, seconds):
        self.pipe.send(seconds)

    def end(self, progress=None):
        """`{"p50_us", "p99_us", "requests", "errors"}` of what was begun."""
        while progress and not self.pipe.poll(1):
            progress.reach(0)
        took, errors = self.pipe.recv()
        return {
            "p50_us": round(percentile(took, 0.50) * 1e6),
            "p99_us": round(percentile(took, 0.99) * 1e6),
            "max_us": round(percentile(took, 1.0) * 1e6),
            "requests": len(took),
            "errors": errors,
        }

    def measure(self, seconds, what=None):
        """With `what`, the time left is told meanwhile."""
        self.begin(seconds)
        return self.end(what and Progress(what, seconds=seconds))

    def stop(self):
        self.pipe.send(None)
        self.process.join(5)


class Background:
    """`work(stop, *arguments)` in a process of its own; what it returns is the result. It is nice: the load that
    misbehaving clients make on this machine would be elsewhere in earnest."""

    def __init__(self, work, *arguments):
        self.stop_event = CONTEXT.Event()
        self.pipe, theirs = CONTEXT.Pipe()

        def run():
            os.nice(10)
            theirs.send(work(self.stop_event, *arguments))

        self.process = CONTEXT.Process(target=run, daemon=True)
        self.process.start()

    def finish(self):
        self.stop_event.set()
        result = self.pipe.recv() if self.pipe.poll(30) else None
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
        return result


def metrics(port):
    """All series of /metrics: name with labels to value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def total(series, name, *labels):
    """The sum of the series of `name` that have all of `labels` (`key="value"`)."""
    matching = (v for k, v in series.items() if k.split("{")[0] == name and all(label in k for label in labels))
    return sum(matching)


def trickle(stop, socks, each, pause):
    """Reads up to `each` bytes from every socket, then pauses, until told to stop; how many the peer has closed."""
    closed, selector = 0, selectors.DefaultSelector()
    for sock in socks:
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
    while not stop.is_set():
        for key, _ in selector.select(0.05):
            try:
                gone = not key.fileobj.recv(each)
            except BlockingIOError:
                continue
            except OSError:
                gone = True
            if gone:
                closed += 1
                selector.unregister(key.fileobj)
                key.fileobj.close()
        time.sleep(pause)
    return closed


def main(name, run):
    """Prints what `run(stack)` reports as one line of JSON; the exit code says whether it is all well."""
    raise_open_files()
    try:
        with ExitStack() as stack:
            report = run(stack)
    except Failure as failure:
        say(f"{name}: {failure}")
        return 2
    print(json.dumps(report), flush=True)
    return 0 if report["ok"] else 1

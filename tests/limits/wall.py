#!/usr/bin/env python3
"""The memory wall: clients that do not read, and clients that do not finish, against a hard limit of memory.

respmux runs in a memory cgroup of WALL_LIMIT_MIB, with its settings as they are by default. WALL_READERS clients ask
for a reply of 10 MiB and read it at a trickle, as many say `*3 $10000000` and nothing more, and WALL_SUBSCRIBERS
subscribe to messages of 100 KiB and do not read them. WALL_WRITERS write pipelines of ECHO without end, read nothing, and
come back when they are closed. Meanwhile well-behaved clients are measured.

One JSON line on standard output. Exit code 1: respmux was killed or restarted, peak memory was above 90 % of the
limit, a good client had an error, or the good clients' p99 was above twice that of the baseline.

    WALL_LIMIT_MIB    the cgroup's limit (128)
    WALL_READERS      slow readers, and as many header-only clients (1000)
    WALL_SUBSCRIBERS  subscribers (50)
    WALL_WRITERS      clients that only write (20)
    WALL_RATE         slow readers that begin each second (10)
    WALL_SECONDS      of the baseline, and of the time after the last reader has begun (15)
    RESPMUX           the program to test (target/release/respmux)
"""

import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from common import MIB, Background, Good, encode, main, metrics, open_socket, total, trickle
from harness import RESPMUX, Redis, Respmux, command, connect, memory_bytes

LIMIT = int(os.environ.get("WALL_LIMIT_MIB", "128")) * MIB
READERS = int(os.environ.get("WALL_READERS", "1000"))
SUBSCRIBERS = int(os.environ.get("WALL_SUBSCRIBERS", "50"))
WRITERS = int(os.environ.get("WALL_WRITERS", "20"))
RATE = float(os.environ.get("WALL_RATE", "10"))
SECONDS = float(os.environ.get("WALL_SECONDS", "15"))


class Cgroup:
    """A memory cgroup of our own, of either version; `kind` is `none` where none may be made."""

    def __init__(self):
        self.folder, self.kind = None, "none"
        name = f"respmux-wall-{os.getpid()}"
        for kind, root, limit in (
            ("cgroup v2", Path("/sys/fs/cgroup"), "memory.max"),
            ("cgroup v1", Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        ):
            if not (root / "cgroup.procs").exists():
                continue
            folder = root / name
            try:
                folder.mkdir()
                (folder / limit).write_text(str(LIMIT))
            except OSError:
                with suppress(OSError):
                    folder.rmdir()
                continue
            self.folder, self.kind = folder, kind
            with suppress(OSError):
                (folder / "memory.swap.max").write_text("0")
            return

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.folder:
            for _ in range(50):
                try:
                    self.folder.rmdir()
                    return
                except OSError:
                    time.sleep(0.1)

    def peak(self):
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            with suppress(OSError, TypeError):
                return int((self.folder / name).read_text())
        return None

    def kills(self):
        for name in ("memory.events", "memory.oom_control"):
            with suppress(OSError, TypeError):
                lines = (self.folder / name).read_text().splitlines()
                return sum(int(line.split()[1]) for line in lines if line.split()[0] == "oom_kill")
        return None

    def wrapper(self, directory):
        """A program that is respmux inside the cgroup, or under a limit of its own where there is none."""
        script = Path(directory) / "respmux-walled"
        into = f"echo $$ >{self.folder}/cgroup.procs" if self.folder else "true"
        script.write_text(f'#!/bin/sh\n{into} && exec "{RESPMUX}" "$@"\n')
        script.chmod(0o755)
        return str(script)


def readers(stop, address, count, rate):
    socks = []
    for _ in range(count):
        if stop.is_set():
            break
        with suppress(OSError):  # refused while memory is short, and closed at once
            sock = open_socket(address, receive=4096)
            sock.sendall(encode("GET", "big"))
            socks.append(sock)
        time.sleep(1 / rate)
    return trickle(stop, socks, 1024, 0.5), len(socks)


def headers(stop, address, count):
    socks = []
    for _ in range(count):
        with suppress(OSError):
            sock = open_socket(address)
            sock.sendall(b"*3\r\n$10000000\r\n")
            socks.append(sock)
    stop.wait()
    return len(socks)


def subscribers(stop, address, count):
    socks = []
    for _ in range(count):
        with suppress(OSError):
            sock = open_socket(address, receive=4096)
            sock.sendall(encode("SUBSCRIBE", "news"))
            socks.append(sock)
    stop.wait()
    return len(socks)


def writers(stop, address, count):
    """How many bytes they wrote, and how often one was closed."""
    socks, outs, request, sent, closed = {}, {}, encode("ECHO", "x" * 4096) * 16, 0, 0
    while not stop.wait(0.2):
        for number in range(count):
            try:
                if number not in socks:
                    socks[number] = open_socket(address, receive=4096)
                    socks[number].setblocking(False)
                    outs[number] = memoryview(request)
                done = socks[number].send(outs[number])
                sent += done
                outs[number] = outs[number][done:] or memoryview(request)
            except BlockingIOError:
                pass
            except OSError:  # closed for its limit, or refused while memory is short
                closed += 1
                socks.pop(number, None)
    return {"sent": sent, "closed": closed}


def publisher(stop, address):
    sock, message, sent = connect(address), b"m" * 100_000, 0
    while not stop.is_set():
        command(sock, "PUBLISH", "news", message)
        sent += 1
        time.sleep(0.05)
    return sent


def run(stack):
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    redis = stack.enter_context(Redis(directory))
    with connect(redis.address) as sock:
        command(sock, "SET", "small", "value")
        command(sock, "SET", "big", b"x" * (10 * MIB))
    cgroup = stack.enter_context(Cgroup())
    import harness

    harness.RESPMUX = cgroup.wrapper(directory)
    settings = ["--set", "client.partial_timeout=0s"]  # the header-only clients stay
    if cgroup.kind == "none":
        settings += ["--set", f"memory.limit={LIMIT // 4}B"]
    respmux = stack.enter_context(Respmux(directory, f"redis://127.0.0.1:{redis.port}", *settings))
    good = Good(respmux.address)
    stack.callback(good.stop)
    good.measure(2)
    baseline = good.measure(SECONDS, "memory-wall, before")
    idle = memory_bytes(respmux.pid)
    attack = [
        Background(headers, respmux.address, READERS),
        Background(subscribers, respmux.address, SUBSCRIBERS),
        Background(publisher, redis.address),
        Background(writers, respmux.address, WRITERS),
        Background(readers, respmux.address, READERS, RATE),
    ]
    during = good.measure(READERS / RATE, "memory-wall, readers come")
    after = good.measure(SECONDS, "memory-wall, after")
    series = metrics(respmux.admin)
    results = [work.finish() for work in attack]
    alive = respmux.process.poll() is None
    peak_rss = memory_bytes(respmux.pid, "VmHWM") if alive else 0
    time.sleep(2)
    calm = memory_bytes(respmux.pid) if alive else 0
    peak = max(cgroup.peak() or 0, peak_rss)
    report = {
        "test": "memory-wall",
        "wall": cgroup.kind,
        "limit": LIMIT,
        "buffer_limit": total(series, "respmux_buffered_bytes_max"),
        "readers": READERS,
        "readers_begun": results[4] and results[4][1],
        "headers": results[0],
        "subscribers": results[1],
        "messages": results[2],
        "writers": results[3],
        "killed": (not alive) or bool(cgroup.kills()),
        "peak": peak,
        "peak_rss": peak_rss,
        "peak_share": round(peak / LIMIT, 3),
        "rss_before": idle,
        "rss_afterwards": calm,
        "buffered": total(series, "respmux_buffered_bytes"),
        "shed": {step: total(series, "respmux_shed_total", f'step="{step}"') for step in ("pause", "refuse", "close")},
        "baseline": baseline,
        "while_readers_begin": during,
        "afterwards": after,
        "p99_ratio": round(after["p99_us"] / max(1, baseline["p99_us"]), 2),
        "p99_ratio_while_readers_begin": round(during["p99_us"] / max(1, baseline["p99_us"]), 2),
    }
    errors = baseline["errors"] + during["errors"] + after["errors"]
    report["ok"] = not report["killed"] and peak <= 0.9 * LIMIT and errors == 0 and report["p99_ratio"] <= 2
    return report


if __name__ == "__main__":
    sys.exit(main("wall", run))

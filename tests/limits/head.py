#!/usr/bin/env python3
"""Head of line: what one client that behaves badly costs the others behind the same respmux.

Well-behaved clients are measured alone, then beside each of these:
  a  one client asks for a reply of 100 MiB and does not read it
  b  one client sends a SET of 512 MiB at 1 KiB/s, unfinished for the whole time
  c  one client pipelines 10,000 GETs at a time, over and over
  e  one client writes 32 MiB of ECHO whole before it reads a reply, over and over
  d  one client sends KEYS * on HEAD_KEYS keys, once a second; the same is done without respmux, as the control
and 100 equal clients share respmux, alone and beside c: Jain's index of the requests that each got done.

One JSON line on standard output. Exit code 1: in a, b, c or e the p99 is above twice the baseline, in d above twice the
control's, or an index is below 0.95.

    HEAD_SECONDS   of each measurement (10)
    HEAD_KEYS      keys for KEYS * (1000000)
    HEAD_ONLY      scenarios, as in `abcdj` (all but e, whose bar is not proved yet)
    RESPMUX        the program to test (target/release/respmux)
"""

import os
import selectors
import sys
import tempfile
import time

from common import MIB, Background, Good, encode, main, open_socket
from harness import Redis, Respmux, command, connect, cpu_seconds

SECONDS = float(os.environ.get("HEAD_SECONDS", "10"))
KEYS = int(os.environ.get("HEAD_KEYS", "1000000"))
ONLY = os.environ.get("HEAD_ONLY", "abcdj")
EQUAL = 100


def unread(stop, address):
    sock = open_socket(address, receive=4096)
    sock.sendall(encode("GET", "huge"))
    stop.wait()
    sock.settimeout(0.5)
    return {"open": bool(sock.recv(1024))}


def endless(stop, address):
    sock, sent = open_socket(address), 0
    sock.sendall(b"*3\r\n$3\r\nSET\r\n$7\r\nendless\r\n$536870912\r\n")
    while not stop.wait(1):
        sock.sendall(b"x" * 1024)
        sent += 1
    return {"sent_kib": sent}


def pipeliner(stop, address):
    sock, rounds = open_socket(address), 0
    request, reply = encode("GET", "small") * 10_000, len(b"$5\r\nvalue\r\n") * 10_000
    sock.setblocking(False)
    while not stop.is_set():
        out, due = memoryview(request), reply
        while due and not stop.is_set():
            moved = False
            if out:
                try:
                    out = out[sock.send(out) :]
                    moved = True
                except BlockingIOError:
                    pass
            try:
                due -= len(sock.recv(1 << 18))
                moved = True
            except BlockingIOError:
                pass
            if not moved:
                time.sleep(0.0002)
        rounds += 1
    return {"rounds_of_10000": rounds}


def whole(stop, address):
    sock, rounds = open_socket(address), 0
    count, text = 32 * 1024, "x" * 1024
    request, reply = encode("ECHO", text) * count, len(b"$1024\r\n\r\n") + 1024
    while not stop.is_set():
        sock.sendall(request)
        due = reply * count
        while due:
            due -= len(sock.recv(1 << 18))
        rounds += 1
    return {"rounds_of_32_mib": rounds}


def keys(stop, address):
    sock, rounds = open_socket(address), 0
    sock.settimeout(60)
    while not stop.wait(1):
        sock.sendall(encode("KEYS", "*"))
        head = b""
        while b"\r\n" not in head:
            head += sock.recv(64)
        count = int(head.split(b"\r\n")[0][1:])
        ends = count * 2 - head.split(b"\r\n", 1)[1].count(b"\n")
        while ends:
            ends -= sock.recv(1 << 18).count(b"\n")
        rounds += 1
    return {"rounds": rounds, "keys": count if rounds else 0}


def jain(address, seconds):
    """100 clients with one request at a time each, all in one loop: requests done by each, and their index."""
    selector, done = selectors.DefaultSelector(), [0] * EQUAL
    request = encode("GET", "small")
    socks = [open_socket(address) for _ in range(EQUAL)]
    for number, sock in enumerate(socks):
        selector.register(sock, selectors.EVENT_READ, number)
        sock.sendall(request)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for key, _ in selector.select(1):
            key.fileobj.recv(256)
            done[key.data] += 1
            key.fileobj.sendall(request)
    for sock in socks:
        sock.close()
    index = sum(done) ** 2 / (EQUAL * sum(n * n for n in done))
    return {"index": round(index, 4), "least": min(done), "most": max(done), "requests": sum(done)}


def beside(good, name, work, *arguments):
    """The good clients' figures while `work` goes on, and what it says."""
    background = Background(work, *arguments)
    time.sleep(0.2)
    figures = good.measure(SECONDS, f"head-of-line, {name}")
    figures["other"] = background.finish()
    return figures


def ratio(figures, baseline):
    return round(figures["p99_us"] / max(1, baseline["p99_us"]), 2)


def run(stack):
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    redis = stack.enter_context(Redis(directory))
    admin = connect(redis.address, 120)
    command(admin, "SET", "small", "value")
    command(admin, "SET", "huge", b"x" * (100 * MIB))
    respmux = stack.enter_context(Respmux(directory, f"redis://127.0.0.1:{redis.port}"))
    good, control = Good(respmux.address), Good(redis.address)
    for clients in (good, control):
        stack.callback(clients.stop)
        clients.measure(1)
    report, bars = {"test": "head-of-line", "seconds": SECONDS}, []
    for name, work in (
        ("a_unread_100mib", unread),
        ("b_endless_set", endless),
        ("c_pipeline_10000", pipeliner),
        ("e_written_whole_32mib", whole),
    ):
        if name[0] in ONLY:
            # A baseline each: the machine may have other work than this.
            baseline = good.measure(SECONDS / 2)
            report[name] = beside(good, name, work, respmux.address) | {"baseline_p99_us": baseline["p99_us"]}
            report[name]["p99_ratio"] = ratio(report[name], baseline)
            bars.append(report[name]["p99_ratio"] <= 2 and not report[name]["errors"])
    if "j" in ONLY:
        report["jain"] = jain(respmux.address, SECONDS)
        background = Background(pipeliner, respmux.address)
        time.sleep(0.2)
        report["jain_beside_c"] = jain(respmux.address, SECONDS)
        background.finish()
        report["jain_direct"] = jain(redis.address, SECONDS)
        bars += [report["jain"]["index"] >= 0.95, report["jain_beside_c"]["index"] >= 0.95]
    if "d" in ONLY:
        fill = "for i = ARGV[1], ARGV[1] + 99999 do redis.call('SET', 'key:' .. i, 'v') end"
        for first in range(0, KEYS, 100_000):
            command(admin, "EVAL", fill, 0, first)
        direct = beside(control, "d_keys direct", keys, redis.address)
        through = beside(good, "d_keys", keys, respmux.address)
        report["d_keys"] = through | {"control": direct, "p99_ratio": ratio(through, direct)}
        bars.append(report["d_keys"]["p99_ratio"] <= 2 and not through["errors"])
    report["respmux_cpu_seconds"] = round(cpu_seconds(respmux.pid), 2)
    report["ok"] = all(bars)
    return report


if __name__ == "__main__":
    sys.exit(main("head", run))

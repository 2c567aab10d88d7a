#!/usr/bin/env python3
"""What respmux needs: memory by clients and workers, processor time by requests, connections by workers.

deploy/sizing.md has the formulas; these are their numbers. Tables go to standard output as Markdown, and at the end one
line of JSON with every figure. A private Redis, loopback addresses only, about two minutes.

    SIZING_CLIENTS   idle clients at which memory is read (1000,5000,10000), and SIZING_TLS with TLS (500,2000)
    SIZING_REQUESTS  requests for each figure of processor time (200000)
    RESPMUX          the program to measure (target/release/respmux)
"""

import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "peers")]
from harness import (  # noqa: E402
    RESPMUX,
    Failure,
    Redis,
    Respmux,
    connect,
    cpu_seconds,
    free_port,
    markdown,
    memory_bytes,
    raise_open_files,
    say,
)
from load import read_exactly  # noqa: E402

CLIENTS = [int(count) for count in os.environ.get("SIZING_CLIENTS", "1000,5000,10000").split(",")]
TLS_CLIENTS = [int(count) for count in os.environ.get("SIZING_TLS", "500,2000").split(",")]
REQUESTS = int(os.environ.get("SIZING_REQUESTS", "200000"))
WAVE = 500
KIB = 1024


@contextmanager
def proxy(*extra, clients=0):
    """A Redis and respmux before it, both fresh: memory that was once used would hide what is measured."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        redis = stack.enter_context(Redis(directory))
        limit = ["--set", f"client.max_connections={max(clients + 1000, 10000)}"]
        yield stack.enter_context(Respmux(directory, f"redis://127.0.0.1:{redis.port}", *limit, *extra))


def settled(server):
    """Resident memory when buffers that nobody needs any more have been let go of."""
    time.sleep(3)
    return memory_bytes(server.pid)


# --- memory


def certificate(directory):
    key, cert = Path(directory, "tls.key"), Path(directory, "tls.crt")
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-subj", "/CN=sizing", "-days", "2", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(made, check=True, capture_output=True)
    return ["--set", f"tls.cert_file={cert}", "--set", f"tls.key_file={key}"]


def encrypted(address):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connect(address))


def idle(server, opened, counts):
    """`{clients: resident bytes}`: each client has sent commands, and is then silent but connected."""
    get = b"*2\r\n$3\r\nGET\r\n$4\r\nidle\r\n"
    packets = [(b"*3\r\n$3\r\nSET\r\n$4\r\nidle\r\n$32\r\n%s\r\n" % (b"x" * 32), 5), (get, 39), (get * 10, 390)]
    found, clients = {0: settled(server)}, []
    try:
        for wanted in counts:
            while len(clients) < wanted:
                wave = [opened() for _ in range(min(WAVE, wanted - len(clients)))]
                clients += wave
                for packet, expected in packets:
                    for sock in wave:
                        sock.sendall(packet)
                    for sock in wave:
                        read_exactly(sock, expected)
            found[wanted] = settled(server)
            say(f"{wanted} clients: {found[wanted] / KIB / KIB:.1f} MiB")
    finally:
        for sock in clients:
            sock.close()
    return found


def idle_memory():
    with proxy("--workers", 1, clients=max(CLIENTS)) as server:
        plain = idle(server, lambda: connect(server.address), CLIENTS)
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        extra = ["--workers", 1, "--listen", f"tls:127.0.0.1:{port}", *certificate(directory)]
        with proxy(*extra, clients=max(TLS_CLIENTS)) as server:
            tls = idle(server, lambda: encrypted(("127.0.0.1", port)), TLS_CLIENTS)
    return {"plain": plain, "TLS": tls}


def pipelining(depth, size, clients=200):
    """Bytes that a client takes that asks for `depth` values of `size` bytes at once and reads them."""
    value = b"v" * size
    with proxy("--workers", 1) as server, connect(server.address) as first:
        first.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nv\r\n$%d\r\n%s\r\n" % (size, value))
        read_exactly(first, 5)
        sockets = [connect(server.address) for _ in range(clients)]
        before = settled(server)
        request, reply = b"*2\r\n$3\r\nGET\r\n$1\r\nv\r\n" * depth, depth * (len(b"$%d\r\n\r\n" % size) + size)
        peak = before
        for _ in range(5):
            for sock in sockets:
                sock.sendall(request)
            for sock in sockets:
                read_exactly(sock, reply)
            peak = max(peak, memory_bytes(server.pid, "VmHWM"))
        after = settled(server)
        for sock in sockets:
            sock.close()
    return {"peak": (peak - before) / clients, "after": (after - before) / clients}


# --- processor time


def per_request(clients, pipeline, extra=(), tls=False):
    """Microseconds of respmux' processor time for one request, half SET, half GET, 32 bytes."""
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        listen = ["--listen", f"tls:127.0.0.1:{port}", *certificate(directory)] if tls else []
        with proxy("--workers", 1, *listen, *extra, clients=clients) as server:
            where = ["-p", str(port), "--tls", "--insecure"] if tls else ["-p", str(server.port)]
            argv = ["redis-benchmark", "-h", "127.0.0.1", *where, "-c", str(clients), "-P", str(pipeline), "-d", "32"]
            argv += ["-n", str(REQUESTS // 2), "-r", "100000", "-t", "set,get", "--csv"]
            before = cpu_seconds(server.pid)
            run = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=300)
            used = cpu_seconds(server.pid) - before
    rows = re.findall(r'^"(?:SET|GET)","([0-9.]+)"', run.stdout, re.MULTILINE)
    if len(rows) != 2:
        raise Failure(f"redis-benchmark: {run.stderr[-300:]}{run.stdout[-300:]}")
    rate = 2 / sum(1 / float(row) for row in rows)
    figures = {"us": used / REQUESTS * 1e6, "rate": rate}
    say(f"{clients} clients, pipelines of {pipeline}{', TLS' if tls else ''}: {figures['us']:.1f} µs a request")
    return figures


# --- connections


def upstream_connections(workers, cap):
    """Upstream connections by kind: with idle clients, and under load, beside the cap."""
    with proxy("--workers", workers, "--max-upstream-connections", cap) as server:
        sockets = [connect(server.address) for _ in range(200)]
        for sock in sockets:
            sock.sendall(b"PING\r\n")
            read_exactly(sock, 7)
        quiet = kinds(server)
        argv = [
            "redis-benchmark",
            "-h",
            "127.0.0.1",
            "-p",
            str(server.port),
            "-c",
            "200",
            "-n",
            "50000",
            "-t",
            "get",
            "-q",
        ]
        subprocess.run(argv, check=True, capture_output=True, timeout=120)
        busy, memory = kinds(server), memory_bytes(server.pid)
        for sock in sockets:
            sock.close()
    return {"quiet": quiet, "busy": busy, "memory": memory}


def kinds(server):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.admin}/metrics", timeout=5) as page:
        text = page.read().decode()
    found = {}
    for kind, count in re.findall(
        r'^respmux_upstream_connections\{[^}]*kind="(\w+)"[^}]*\} ([0-9.]+)', text, re.MULTILINE
    ):
        found[kind] = found.get(kind, 0) + int(float(count))
    return {kind: count for kind, count in found.items() if count}


# --- what is printed


def memory_table(idle_found):
    rows = [
        [f"{count} {kind}", f"{size / KIB / KIB:.1f}", f"{(size - found[0]) / count:.0f}" if count else ""]
        for kind, found in idle_found.items()
        for count, size in found.items()
    ]
    return markdown(["idle clients", "MiB resident", "bytes per client"], rows)


def main():
    raise_open_files()
    started = time.monotonic()
    figures = {"idle": idle_memory(), "pipelining": {}, "cpu": {}, "connections": {}}
    for depth, size in ((16, 32), (128, 32), (16, 4096), (128, 4096)):
        figures["pipelining"][f"{depth} x {size} B"] = pipelining(depth, size)
    for clients, pipeline, tls in (
        (1, 1, 0),
        (50, 1, 0),
        (500, 1, 0),
        (50, 16, 0),
        (500, 16, 0),
        (50, 1, 1),
        (500, 1, 1),
    ):
        name = (
            f"{clients} client{'s' * (clients > 1)}"
            + (f", pipelines of {pipeline}" if pipeline > 1 else "")
            + (", TLS" if tls else "")
        )
        figures["cpu"][name] = per_request(clients, pipeline, tls=bool(tls))
    for workers, cap in ((1, 6), (1, 8), (2, 32), (4, 32), (4, 64)):
        figures["connections"][f"{workers} worker{'s' * (workers > 1)}, cap {cap}"] = upstream_connections(workers, cap)

    print("**Idle clients, one worker**\n")
    print(memory_table(figures["idle"]))
    print("\n**200 clients with pipelines, one worker**\n")
    rows = [[name, f"{f['peak']:.0f}", f"{f['after']:.0f}"] for name, f in figures["pipelining"].items()]
    print(markdown(["GETs in one packet", "bytes per client, at the peak", "3 s later"], rows))
    print("\n**Processor time, one worker**\n")
    rows = [[name, f"{f['us']:.1f}", f"{1e6 / f['us']:.0f}", f"{f['rate']:.0f}"] for name, f in figures["cpu"].items()]
    print(markdown(["load", "µs of respmux a request", "requests/s a core", "requests/s reached here"], rows))
    print("\n**Upstream connections, 200 clients**\n")
    rows = [
        [name, *(", ".join(f"{count} {kind}" for kind, count in f[when].items()) for when in ("quiet", "busy"))]
        + [f"{f['memory'] / KIB / KIB:.1f}"]
        for name, f in figures["connections"].items()
    ]
    print(markdown(["", "after one PING each", "under load", "MiB resident"], rows))
    say(f"{time.monotonic() - started:.0f} s with {RESPMUX}")
    print("\n" + json.dumps({"requests": REQUESTS, **figures}))


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"sizing: {failure}")

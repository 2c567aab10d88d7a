"""The load: redis-benchmark, one client that takes its own time, and idle clients."""

import gc
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from harness import Failure, command, connect, memory_bytes  # noqa: E402

KEYS = 100_000  # key:000000000000 to key:000000099999, as redis-benchmark names them


def redis_benchmark(address, scenario):
    """SET, then GET, on random keys; half of the scenario's requests each."""
    return _drive(address, scenario, ["set", "get"])


def short_lived(address, scenario):
    """A connection for each GET, as php-fpm without persistent connections makes them.

    The client closes first, so its port rests for a minute: there are fewer requests than ports, and every
    target listens on a port of its own.
    """
    return _drive(address, scenario, ["get"], "-k", "0")


def _drive(address, scenario, tests, *options):
    where = ["-s", address] if isinstance(address, str) else ["-h", address[0], "-p", str(address[1])]
    each = scenario.requests // len(tests)
    argv = ["redis-benchmark", *where, "-c", str(scenario.clients), "-P", str(scenario.pipeline), *options]
    argv += ["-n", str(each), "-d", str(scenario.size), "-r", str(KEYS), "-t", ",".join(tests), "--csv"]
    run = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120)
    rows = [line.replace('"', "").split(",") for line in run.stdout.splitlines() if line.startswith(('"SET"', '"GET"'))]
    if len(rows) != len(tests) or run.returncode:
        raise Failure(f"redis-benchmark: {run.stderr[-300:]}{run.stdout[-300:]}")
    seconds = sum(each / float(row[1]) for row in rows)
    # CSV columns: test, requests/s, then average, minimum, p50, p95, p99, maximum in milliseconds.
    p50, p99 = (statistics.mean(float(row[i]) for row in rows) for i in (4, 6))
    requests = each * len(tests)
    return {"ops": requests / seconds, "p50": p50, "p99": p99, "requests": requests}


def one_client(address, scenario):
    """One client, one request at a time: redis-benchmark's 8 µs steps are too coarse here."""
    rounds = scenario.requests // 2
    set_frame = b"*3\r\n$3\r\nSET\r\n$5\r\nalone\r\n$%d\r\n%s\r\n" % (scenario.size, b"x" * scenario.size)
    get_frame, taken = b"*2\r\n$3\r\nGET\r\n$5\r\nalone\r\n", []
    clock = time.perf_counter_ns
    gc.disable()
    with connect(address) as sock:
        send, receive = sock.sendall, sock.recv
        for step in range(rounds + 200):
            for frame in (set_frame, get_frame):
                start = clock()
                send(frame)
                reply = receive(4096)
                if step >= 200:
                    taken.append(clock() - start)
                if not reply.endswith(b"\r\n") or reply[:1] not in b"+$":
                    raise Failure(f"unexpected reply {reply[:60]!r}")
    gc.enable()
    taken.sort()
    p50, p99 = (taken[int(len(taken) * part)] / 1e6 for part in (0.5, 0.99))
    return {"ops": len(taken) / (sum(taken) / 1e9), "p50": p50, "p99": p99, "requests": len(taken)}


def idle_clients(address, scenario, pid):
    """Bytes of resident memory that each client adds after it has sent commands.

    Each sends a SET, a GET and ten GETs in one packet, 500 clients at a time; then all
    stay connected. Three seconds are left for the server to let go of buffers.
    """
    get = b"*2\r\n$3\r\nGET\r\n$4\r\nidle\r\n"
    packets = [b"*3\r\n$3\r\nSET\r\n$4\r\nidle\r\n$32\r\n%s\r\n" % (b"x" * 32), get, get * 10]
    replies = [5, 39, 390]
    with connect(address) as first:
        command(first, "SET", "idle", "x" * 32)
        before = memory_bytes(pid)
        clients = []
        try:
            while len(clients) < scenario.clients:
                wave = [connect(address) for _ in range(min(500, scenario.clients - len(clients)))]
                clients += wave
                for packet, expected in zip(packets, replies, strict=True):
                    for sock in wave:
                        sock.sendall(packet)
                    for sock in wave:
                        read_exactly(sock, expected)
            time.sleep(3)
            return (memory_bytes(pid) - before) / scenario.clients
        finally:
            for sock in clients:
                sock.close()


def read_exactly(sock, size):
    while size > 0:
        data = sock.recv(size)
        if not data:
            raise Failure("an idle client was disconnected")
        size -= len(data)

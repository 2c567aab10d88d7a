"""What is measured: Redis alone, respmux, and the peers, each in front of one Redis.

Every peer runs with one thread and one upstream connection where it has the notion,
and otherwise as its package ships it.
"""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from harness import TARGET, Respmux, Server, answers, free_port, raise_open_files  # noqa: E402

# Debian keeps the daemons where an ordinary user's PATH does not look.
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

NUTCRACKER = """\
redis:
  listen: 127.0.0.1:{port}
  hash: fnv1a_64
  distribution: ketama
  redis: true
  backlog: 4096
  server_connections: 1
  servers:
   - 127.0.0.1:{redis}:1
"""

HAPROXY = """\
global
  maxconn {maxconn}
  nbthread 1
defaults
  mode tcp
  timeout connect 5s
  timeout client 300s
  timeout server 300s
listen redis
  bind 127.0.0.1:{port} backlog 4096
  server redis 127.0.0.1:{redis}
"""

ENVOY = """\
static_resources:
  listeners:
  - name: redis
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    tcp_backlog_size: 4096
    filter_chains:
    - filters:
      - name: envoy.filters.network.redis_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy
          stat_prefix: redis
          settings: {{op_timeout: 5s, max_buffer_size_before_flush: {buffer}, buffer_flush_timeout: 0.001s}}
          prefix_routes: {{catch_all_route: {{cluster: redis}}}}
  clusters:
  - name: redis
    type: STATIC
    connect_timeout: 1s
    circuit_breakers: {{thresholds: [{{max_pending_requests: 100000, max_requests: 100000}}]}}
    load_assignment:
      cluster_name: redis
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {redis}}}}}}}
"""


def configured(directory, name, text, argv):
    """A peer that reads its configuration from a file; `{file}` in argv is its path."""
    path = Path(directory) / name
    path.write_text(text)
    return [word.replace("{file}", str(path)) for word in argv]


def peer(name, argv, port):
    address = ("127.0.0.1", port)
    server = Server(name, argv, answers(address))
    server.address = address
    return server


def nutcracker(directory, redis, _scenario):
    program = shutil.which("nutcracker", path=PATH)
    if not program:
        return None
    port, stats = free_port(), free_port()
    text = NUTCRACKER.format(port=port, redis=redis.port)
    argv = [program, "-c", "{file}", "-a", "127.0.0.1", "-s", str(stats)]
    return peer("nutcracker", configured(directory, "nutcracker.yml", text, argv), port)


def haproxy(directory, redis, scenario):
    program = shutil.which("haproxy", path=PATH)
    maxconn = raise_open_files() // 2 - 100  # two descriptors a client
    if not program or scenario.clients > maxconn:
        return None
    port = free_port()
    text = HAPROXY.format(port=port, redis=redis.port, maxconn=min(maxconn, 20000))
    argv = [program, "-f", "{file}", "-db"]
    return peer("haproxy", configured(directory, "haproxy.cfg", text, argv), port)


def envoy(directory, redis, scenario):
    found = sorted(TARGET.glob("bench-venv/lib/python*/site-packages/envoy/_bin/envoy"))
    program = str(found[0]) if found else shutil.which("envoy")
    if not program:
        return None
    port = free_port()
    # Batching (1 KiB or 1 ms) is what makes Envoy fast with many clients; one alone would wait for it.
    buffer = 0 if scenario.clients == 1 else 1024
    text = ENVOY.format(port=port, redis=redis.port, buffer=buffer)
    argv = [program, "-c", "{file}", "--concurrency", "1", "-l", "error", "--disable-hot-restart"]
    return peer("envoy", configured(directory, "envoy.yaml", text, argv), port)


def respmux(directory, redis, scenario):
    # The default limit of clients is there to be met; these scenarios are about something else.
    limit = ["--set", f"client.max_connections={scenario.clients + 1000}"] if scenario.clients > 4000 else []
    return Respmux(directory, f"redis://127.0.0.1:{redis.port}", "--workers", 1, *limit)


def respmux_upstream_unix(directory, redis, _scenario):
    return Respmux(directory, f"unix://{redis.path}", "--workers", 1)


def respmux_unix(directory, redis, _scenario):
    server = Respmux(directory, f"unix://{redis.path}", "--workers", 1)
    server.address = server.path
    return server


PROXIES = {
    "respmux": respmux,
    "nutcracker": nutcracker,
    "envoy": envoy,
    "haproxy": haproxy,
    "respmux, upstream unix": respmux_upstream_unix,
    "respmux, both unix": respmux_unix,
}
MANY = ["direct", "respmux", "nutcracker", "envoy", "haproxy"]
ALL = [*MANY, "respmux, upstream unix", "respmux, both unix"]

#!/usr/bin/env python3
"""A real Prometheus scrapes respmux and evaluates deploy/prometheus/rules.yml while the upstream goes away and returns.

The rules are ours but for their patience: `for` is shortened to seconds. RespmuxUpstreamDown must be silent, then fire,
then be silent again; no other critical alert may fire before; every recording rule must give a value; and what
Prometheus scraped must please `promtool check metrics`. Prints one line of JSON. RESPMUX names the program.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benches"))

from harness import Failure, Redis, Respmux, Server, command, connect, free_port, say  # noqa: E402

ALERT = "RespmuxUpstreamDown"
PATIENCE = 30


def get(port, path, **query):
    url = f"http://127.0.0.1:{port}{path}" + ("?" + urllib.parse.urlencode(query) if query else "")
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def until(what, question):
    begun = time.monotonic()
    while time.monotonic() - begun < PATIENCE:
        answer = question()
        if answer:
            return answer, time.monotonic() - begun
        time.sleep(0.1)
    raise Failure(f"waited {PATIENCE} s in vain until {what}")


class Prometheus(Server):
    """Scrapes one target each second and evaluates the rules as often."""

    def __init__(self, programs, directory, target):
        self.port = free_port()
        rules = re.sub(r"\bfor: \d+[smh]", "for: 2s", (ROOT / "deploy/prometheus/rules.yml").read_text())
        (directory / "rules.yml").write_text(rules)
        (directory / "prometheus.yml").write_text(f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
scrape_configs:
  - job_name: respmux
    static_configs: [{{targets: ['127.0.0.1:{target}']}}]
""")
        argv = [
            programs / "prometheus",
            f"--config.file={directory}/prometheus.yml",
            f"--storage.tsdb.path={directory}/data",
        ]
        argv += [f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"]
        super().__init__("prometheus", [str(word) for word in argv], lambda _: get(self.port, "/-/ready"))

    def value(self, expression):
        """The values of an instant query."""
        result = json.loads(get(self.port, "/api/v1/query", query=expression))["data"]["result"]
        return [float(sample["value"][1]) for sample in result]

    def alerts(self, state="firing"):
        """Alerts in this state: name to severity."""
        alerts = json.loads(get(self.port, "/api/v1/alerts"))["data"]["alerts"]
        return {a["labels"]["alertname"]: a["labels"]["severity"] for a in alerts if a["state"] == state}


def check_scrape(programs, text):
    """What promtool says of a scrape: nothing, if all is well."""
    run = subprocess.run(
        [programs / "promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    if run.returncode or run.stdout or run.stderr:
        raise Failure(f"promtool: {run.stdout}{run.stderr}")
    return len(re.findall("^# TYPE ", text, re.MULTILINE))


def recorded():
    return re.findall(r"- record: (\S+)", (ROOT / "deploy/prometheus/rules.yml").read_text())


def run(stack):
    programs = Path(
        subprocess.run(
            [ROOT / "deploy/prometheus/programs.sh"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    redis = stack.enter_context(Redis(str(directory)))
    proxy = stack.enter_context(Respmux(str(directory), f"redis://127.0.0.1:{redis.port}"))
    metrics = check_scrape(programs, get(proxy.admin, "/metrics"))
    prometheus = stack.enter_context(Prometheus(programs, directory, proxy.admin))
    client = stack.enter_context(connect(proxy.address))
    until("respmux is scraped", lambda: prometheus.value('up{job="respmux"}') == [1.0])
    for _ in range(100):
        command(client, "GET", "k")

    def all_recorded():
        command(client, "GET", "k")
        return all(prometheus.value(name) for name in recorded())

    until("every recording rule has a value", all_recorded)
    until("the upstream is up", lambda: prometheus.value("respmux_upstream_up") == [1.0])
    critical = [name for name, severity in prometheus.alerts().items() if severity == "critical"]
    if critical:
        raise Failure(f"while all is well these fire: {critical}")

    redis.process.kill()
    redis.process.wait()
    killed = time.monotonic()
    until(f"{ALERT} fires", lambda: ALERT in prometheus.alerts())
    fired = time.monotonic() - killed
    others = sorted(set(prometheus.alerts()) - {ALERT})
    again = stack.enter_context(
        Server("redis again", redis.argv, lambda _: connect(redis.address, 1.0).close() or True)
    )
    _, resolved = until(f"{ALERT} is resolved", lambda: ALERT not in prometheus.alerts())
    return {
        "ok": again.process.poll() is None,
        "metrics": metrics,
        "recording_rules": len(recorded()),
        "fired_after_s": round(fired, 1),
        "resolved_after_s": round(resolved, 1),
        "also_fired": others,
    }


def main():
    try:
        with ExitStack() as stack:
            report = run(stack)
    except Failure as failure:
        say(f"alert: {failure}")
        return 1
    print(json.dumps({"prometheus": report.pop("ok") and "ok", **report}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

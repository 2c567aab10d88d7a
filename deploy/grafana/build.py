#!/usr/bin/env python3
"""Writes the Grafana dashboard: `build.py > respmux.json`, `build.py --check respmux.json` in CI.

One row a question of the person on call. Import it in Grafana, or let the Helm chart make a ConfigMap
of it (`metrics.dashboard.enabled`).
"""

import json
import sys

WHERE = '{job=~"$job",instance=~"$instance"}'


def where(more=""):
    return '{job=~"$job",instance=~"$instance"' + ("," + more if more else "") + "}"


def rate(metric, by, more=""):
    return f"sum by ({by}) (rate({metric}{where(more)}[$__rate_interval]))"


def level(metric, by, more=""):
    return f"sum by ({by}) ({metric}{where(more)})"


def quantile(share, metric, more=""):
    return f"histogram_quantile({share}, {rate(metric + '_bucket', 'le', more)})"


def mean(metric):
    prompt = 'class!~"blocking|pubsub"'
    return f"{rate(metric + '_sum', 'job', prompt)} / clamp_min({rate(metric + '_count', 'job', prompt)}, 1e-9)"


# A row's title, then its panels: title, unit, kind, width, and (legend, expression) pairs.
ROWS = [
    (
        "Is it well",
        [
            ("Upstream", "none", "stat", 4, [("{{upstream}}", f"min by (upstream) (respmux_upstream_up{WHERE})")]),
            (
                "Clients for one upstream connection",
                "none",
                "stat",
                5,
                [
                    (
                        "ratio",
                        f"sum(respmux_client_connections{WHERE})"
                        f" / clamp_min(sum(respmux_upstream_connections{WHERE}), 1)",
                    )
                ],
            ),
            ("Commands a second", "ops", "stat", 5, [("all", rate("respmux_commands_total", "job"))]),
            (
                "Errors of the proxy's own",
                "percentunit",
                "stat",
                5,
                [
                    (
                        "share",
                        rate("respmux_command_errors_total", "job", 'origin="proxy"')
                        + " / clamp_min("
                        + rate("respmux_commands_total", "job")
                        + ", 1)",
                    )
                ],
            ),
            ("Draining", "none", "stat", 5, [("instances", f"sum(respmux_draining{WHERE})")]),
        ],
    ),
    (
        "Multiplexing",
        [
            (
                "Clients here, connections at Redis",
                "none",
                "timeseries",
                12,
                [
                    ("clients of respmux", f"sum(respmux_client_connections{WHERE})"),
                    ("connections of respmux", f"sum(respmux_upstream_connections{WHERE})"),
                    (
                        "the cap",
                        f"sum(respmux_upstream_connections_max{where('kind=' + chr(34) + 'total' + chr(34))})",
                    ),
                    ("connected_clients of Redis (redis_exporter)", "sum(redis_connected_clients)"),
                ],
            ),
            (
                "Upstream connections by kind",
                "none",
                "timeseries",
                6,
                [("{{kind}} {{state}}", level("respmux_upstream_connections", "kind, state"))],
            ),
            (
                "Clients with a connection of their own",
                "none",
                "timeseries",
                6,
                [("{{reason}}", level("respmux_client_pinned_connections", "reason"))],
            ),
        ],
    ),
    (
        "Traffic",
        [
            (
                "Commands by name",
                "ops",
                "timeseries",
                12,
                [("{{cmd}}", f"topk(12, {rate('respmux_commands_total', 'cmd')})")],
            ),
            (
                "Bytes",
                "Bps",
                "timeseries",
                6,
                [
                    ("from clients", rate("respmux_client_received_bytes_total", "job")),
                    ("to clients", rate("respmux_client_sent_bytes_total", "job")),
                ],
            ),
            (
                "Commands in one write to Redis",
                "none",
                "timeseries",
                6,
                [
                    ("p50", quantile(0.5, "respmux_upstream_batch_commands")),
                    ("p99", quantile(0.99, "respmux_upstream_batch_commands")),
                ],
            ),
        ],
    ),
    (
        "Latency",
        [
            (
                "Command, without blocking ones",
                "s",
                "timeseries",
                8,
                [
                    (f"p{100 * share:g}", quantile(share, "respmux_command_duration_seconds", 'class!="blocking"'))
                    for share in (0.5, 0.99, 0.999)
                ],
            ),
            (
                "p99 by class",
                "s",
                "timeseries",
                8,
                [
                    (
                        "{{class}}",
                        f"histogram_quantile(0.99, {rate('respmux_command_duration_seconds_bucket', 'le, class')})",
                    )
                ],
            ),
            (
                "Mean: the upstream's part, and what respmux adds",
                "s",
                "timeseries",
                8,
                [
                    ("upstream", mean("respmux_upstream_duration_seconds")),
                    (
                        "respmux",
                        f"{mean('respmux_command_duration_seconds')} - {mean('respmux_upstream_duration_seconds')}",
                    ),
                ],
            ),
        ],
    ),
    (
        "Waiting for a connection",
        [
            (
                "Clients in line",
                "none",
                "timeseries",
                8,
                [
                    ("pool", f"sum(respmux_pool_waiters{WHERE})"),
                    ("blocked together: {{state}}", level("respmux_blocking_waiters", "state")),
                ],
            ),
            (
                "Wait for the pool, p99",
                "s",
                "timeseries",
                8,
                [("p99", quantile(0.99, "respmux_pool_wait_duration_seconds"))],
            ),
            (
                "Waited in vain; reading paused",
                "ops",
                "timeseries",
                8,
                [
                    ("timeouts", rate("respmux_pool_timeouts_total", "job")),
                    ("paused: {{reason}}", rate("respmux_client_stalls_total", "reason")),
                ],
            ),
        ],
    ),
    (
        "Errors",
        [
            (
                "Error replies",
                "ops",
                "timeseries",
                12,
                [("{{origin}} {{code}}", rate("respmux_command_errors_total", "origin, code"))],
            ),
            (
                "Refused by the proxy",
                "ops",
                "timeseries",
                6,
                [("{{reason}}", rate("respmux_commands_rejected_total", "reason"))],
            ),
            (
                "Connections not to be trusted",
                "none",
                "timeseries",
                6,
                [
                    (
                        "{{reason}}",
                        f"sum by (reason) (increase(respmux_integrity_violations_total{WHERE}[$__rate_interval]))",
                    ),
                    (
                        "failed self-checks",
                        f"sum(increase(respmux_lane_canary_failures_total{WHERE}[$__rate_interval]))",
                    ),
                ],
            ),
        ],
    ),
    (
        "Upstream",
        [
            (
                "Connects that failed",
                "ops",
                "timeseries",
                8,
                [("{{reason}}", rate("respmux_upstream_connect_errors_total", "reason"))],
            ),
            (
                "Connections opened and closed",
                "ops",
                "timeseries",
                8,
                [
                    ("opened {{kind}}", rate("respmux_upstream_connections_opened_total", "kind")),
                    ("closed {{reason}}", rate("respmux_upstream_connections_closed_total", "reason")),
                ],
            ),
            (
                "In flight",
                "none",
                "timeseries",
                8,
                [("{{instance}}", level("respmux_upstream_inflight_commands", "instance"))],
            ),
        ],
    ),
    (
        "Pub/sub",
        [
            (
                "Messages to subscribers",
                "ops",
                "timeseries",
                12,
                [("messages", rate("respmux_pubsub_messages_total", "job"))],
            ),
            (
                "Subscribers and channels",
                "none",
                "timeseries",
                12,
                [
                    ("subscribers", f"sum(respmux_pubsub_subscribers{WHERE})"),
                    ("channels", f"sum(respmux_pubsub_channels{WHERE})"),
                ],
            ),
        ],
    ),
    (
        "Process",
        [
            ("CPU", "none", "timeseries", 6, [("{{instance}}", rate("process_cpu_seconds_total", "instance"))]),
            (
                "Workers busy",
                "percentunit",
                "timeseries",
                6,
                [("{{instance}} {{worker}}", rate("respmux_worker_busy_seconds_total", "instance, worker"))],
            ),
            (
                "Memory",
                "bytes",
                "timeseries",
                6,
                [("{{instance}}", level("process_resident_memory_bytes", "instance"))],
            ),
            (
                "File descriptors",
                "none",
                "timeseries",
                6,
                [
                    ("{{instance}}", level("process_open_fds", "instance")),
                    ("limit {{instance}}", level("process_max_fds", "instance")),
                ],
            ),
            (
                "Clients closed",
                "ops",
                "timeseries",
                12,
                [("{{reason}}", rate("respmux_client_connections_closed_total", "reason"))],
            ),
            (
                "Configurations in use",
                "none",
                "timeseries",
                12,
                [("{{sha256}}", f"count by (sha256) (respmux_config_hash_info{WHERE})")],
            ),
        ],
    ),
]

SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def target(index, legend, expression):
    return {"datasource": SOURCE, "expr": expression, "legendFormat": legend, "refId": chr(ord("A") + index)}


def panel(number, place, described):
    title, unit, kind, _, targets = described
    field = {"unit": unit}
    if kind == "timeseries":
        field["custom"] = {"fillOpacity": 8, "lineWidth": 1, "showPoints": "never"}
    return {
        "id": number,
        "type": kind,
        "title": title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": field, "overrides": []},
        "options": {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]}}
        if kind == "timeseries"
        else {"reduceOptions": {"calcs": ["lastNotNull"]}},
        "targets": [target(index, *pair) for index, pair in enumerate(targets)],
    }


def panels():
    made, top = [], 0
    for title, row in ROWS:
        made.append(
            {
                "id": len(made) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": top, "w": 24, "h": 1},
            }
        )
        top, left, height = top + 1, 0, 4 if row[0][2] == "stat" else 8
        for described in row:
            width = described[3]
            if left + width > 24:
                top, left = top + height, 0
            place = {"x": left, "y": top, "w": width, "h": height}
            made.append(panel(len(made) + 1, place, described))
            left += width
        top += height
    return made


def variable(name, label):
    query = f"label_values(respmux_build_info{'' if name == 'job' else '{job=~' + chr(34) + '$job' + chr(34) + '}'}, {name})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "includeAll": True,
        "multi": True,
        "refresh": 2,
        "sort": 1,
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard():
    return {
        "title": "respmux",
        "uid": "respmux",
        "tags": ["redis", "respmux"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                variable("job", "Job"),
                variable("instance", "Instance"),
            ]
        },
        "annotations": {"list": []},
        "panels": panels(),
    }


def main():
    text = json.dumps(dashboard(), indent=2) + "\n"
    if sys.argv[1:2] == ["--check"]:
        with open(sys.argv[2], encoding="utf-8") as file:
            if file.read() != text:
                sys.exit(f"{sys.argv[2]} is not what deploy/grafana/build.py writes")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()

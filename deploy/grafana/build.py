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


OWN = rate("respmux_command_errors_total", "job", 'origin="proxy"')
COMMANDS = rate("respmux_commands_total", "job")
NOT_BLOCKING = 'class!="blocking"'
PROMPT = 'class!~"blocking|pubsub"'
DURATION = "respmux_command_duration_seconds"
UPSTREAM = "respmux_upstream_duration_seconds"


def mean(metric):
    return f"{rate(metric + '_sum', 'job', PROMPT)} / clamp_min({rate(metric + '_count', 'job', PROMPT)}, 1e-9)"


# A row's title, then its panels: title, unit, kind, width, and (legend, expression) pairs.
ROWS = [
    (
        "Is it well",
        [
            ("Upstream", "none", "updown", 3, [("{{upstream}}", f"min by (upstream) (respmux_upstream_up{WHERE})")]),
            ("Instances", "none", "stat", 3, [("up", f"count(respmux_build_info{WHERE})")]),
            ("Version", "none", "name", 3, [("{{version}}", f"count by (version) (respmux_build_info{WHERE})")]),
            (
                "Clients for one upstream connection",
                "none",
                "stat",
                4,
                [
                    (
                        "ratio",
                        f"sum(respmux_client_connections{WHERE})"
                        f" / clamp_min(sum(respmux_upstream_connections{WHERE}), 1)",
                    )
                ],
            ),
            ("Commands a second", "ops", "stat", 4, [("all", f"sum({COMMANDS})")]),
            (
                "Errors of the proxy's own",
                "percentunit",
                "stat",
                4,
                [("share", f"sum({OWN}) / clamp_min(sum({COMMANDS}), 1)")],
            ),
            ("Draining", "none", "stat", 3, [("instances", f"sum(respmux_draining{WHERE})")]),
        ],
    ),
    (
        "Does it multiplex",
        [
            (
                "Clients here, connections at Redis",
                "none",
                "timeseries",
                16,
                [
                    ("clients of respmux", f"sum(respmux_client_connections{WHERE})"),
                    ("connected_clients of Redis (redis_exporter)", "sum(redis_connected_clients)"),
                    ("connections of respmux", f"sum(respmux_upstream_connections{WHERE})"),
                    (
                        "the cap",
                        f"sum(respmux_upstream_connections_max{where('kind=' + chr(34) + 'total' + chr(34))})",
                    ),
                ],
            ),
            (
                "Clients for one upstream connection",
                "none",
                "timeseries",
                8,
                [
                    (
                        "{{job}}",
                        f"{level('respmux_client_connections', 'job')} / clamp_min({level('respmux_upstream_connections', 'job')}, 1)",
                    )
                ],
            ),
            (
                "Upstream connections by kind",
                "none",
                "timeseries",
                8,
                [("{{kind}} {{state}}", level("respmux_upstream_connections", "kind, state"))],
            ),
            (
                "Clients with a connection of their own",
                "none",
                "timeseries",
                8,
                [("{{reason}}", level("respmux_client_pinned_connections", "reason"))],
            ),
            (
                "Clients by state",
                "none",
                "timeseries",
                8,
                [("{{state}}", level("respmux_client_connections", "state"))],
            ),
        ],
    ),
    (
        "How much traffic",
        [
            (
                "Commands by class",
                "ops",
                "timeseries",
                6,
                [("{{class}}", rate("respmux_command_duration_seconds_count", "class"))],
            ),
            (
                "Commands by name",
                "ops",
                "timeseries",
                6,
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
                    ("to Redis", rate("respmux_upstream_sent_bytes_total", "job")),
                    ("from Redis", rate("respmux_upstream_received_bytes_total", "job")),
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
        "How slow, and whose time it is",
        [
            (
                "Command, without blocking ones",
                "s",
                "timeseries",
                8,
                [(f"p{100 * share:g}", quantile(share, DURATION, NOT_BLOCKING)) for share in (0.5, 0.99, 0.999)],
            ),
            (
                "With Redis, without blocking ones",
                "s",
                "timeseries",
                8,
                [(f"p{100 * share:g}", quantile(share, UPSTREAM, NOT_BLOCKING)) for share in (0.5, 0.99, 0.999)],
            ),
            (
                "Mean: the upstream's part, and what respmux adds",
                "s",
                "timeseries",
                8,
                [("upstream", mean(UPSTREAM)), ("respmux", f"{mean(DURATION)} - {mean(UPSTREAM)}")],
            ),
            (
                "p99 by class",
                "s",
                "timeseries",
                24,
                [
                    (
                        "{{class}}",
                        f"histogram_quantile(0.99, {rate('respmux_command_duration_seconds_bucket', 'le, class')})",
                    )
                ],
            ),
        ],
    ),
    (
        "Who waits",
        [
            (
                "Clients in line",
                "none",
                "timeseries",
                6,
                [
                    ("pool", f"sum(respmux_pool_waiters{WHERE})"),
                    ("blocked together: {{state}}", level("respmux_blocking_waiters", "state")),
                ],
            ),
            (
                "Wait for the pool",
                "s",
                "timeseries",
                6,
                [(f"p{100 * share:g}", quantile(share, "respmux_pool_wait_duration_seconds")) for share in (0.5, 0.99)],
            ),
            (
                "Waited in vain; reading paused",
                "ops",
                "timeseries",
                6,
                [
                    ("timeouts", rate("respmux_pool_timeouts_total", "job")),
                    ("paused: {{reason}}", rate("respmux_client_stalls_total", "reason")),
                ],
            ),
            (
                "Buffers",
                "bytes",
                "timeseries",
                6,
                [
                    ("{{kind}}", level("respmux_buffered_bytes", "kind")),
                    ("limit", f"sum(respmux_buffered_bytes_max{WHERE})"),
                    ("not read by clients", f"sum(respmux_client_output_buffer_bytes{WHERE})"),
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
                8,
                [("{{origin}} {{code}}", rate("respmux_command_errors_total", "origin, code"))],
            ),
            (
                "Refused by the proxy",
                "ops",
                "timeseries",
                5,
                [("{{reason}}", rate("respmux_commands_rejected_total", "reason"))],
            ),
            (
                "Logins",
                "ops",
                "timeseries",
                5,
                [
                    ("{{result}}", rate("respmux_client_logins_total", "result")),
                    ("made to wait", rate("respmux_client_logins_delayed_total", "job")),
                ],
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
        "Is the upstream there",
        [
            (
                "Health checks answered; circuits not closed",
                "none",
                "timeseries",
                6,
                [
                    ("{{instance}} up", f"min by (instance) (respmux_upstream_up{WHERE})"),
                    (
                        "{{instance}} circuit {{state}}",
                        level("respmux_upstream_circuit_workers", "instance, state", 'state!="closed"'),
                    ),
                ],
            ),
            (
                "Connects that failed",
                "ops",
                "timeseries",
                6,
                [("{{reason}}", rate("respmux_upstream_connect_errors_total", "reason"))],
            ),
            (
                "Connections opened and closed",
                "ops",
                "timeseries",
                6,
                [
                    ("opened {{kind}}", rate("respmux_upstream_connections_opened_total", "kind")),
                    ("closed {{reason}}", rate("respmux_upstream_connections_closed_total", "reason")),
                ],
            ),
            (
                "In flight",
                "none",
                "timeseries",
                6,
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
        "What came and went",
        [
            (
                "Clients accepted and closed",
                "ops",
                "timeseries",
                8,
                [
                    ("accepted", rate("respmux_client_connections_opened_total", "job")),
                    ("closed: {{reason}}", rate("respmux_client_connections_closed_total", "reason")),
                ],
            ),
            (
                "Clients refused",
                "ops",
                "timeseries",
                4,
                [("{{reason}}", rate("respmux_client_connections_rejected_total", "reason"))],
            ),
            (
                "Draining, paused, sent elsewhere",
                "none",
                "timeseries",
                4,
                [
                    ("{{instance}} draining", level("respmux_draining", "instance")),
                    ("{{instance}} paused", level("respmux_paused", "instance")),
                    (
                        "sent away: {{result}}",
                        f"sum by (result) (increase(respmux_client_handoffs_total{WHERE}[$__rate_interval]))",
                    ),
                ],
            ),
            (
                "Configurations in use",
                "none",
                "timeseries",
                4,
                [
                    ("{{sha256}}", f"count by (sha256) (respmux_config_hash_info{WHERE})"),
                    ("could not be read", f"sum(1 - respmux_config_last_reload_successful{WHERE})"),
                    ("keys that wait for a restart", f"sum(respmux_config_pending_restart_keys{WHERE})"),
                ],
            ),
            (
                "Certificates: time left",
                "s",
                "timeseries",
                4,
                [
                    (
                        "{{instance}} {{side}}",
                        f"min by (instance, side) (respmux_tls_certificate_expiry_timestamp_seconds{WHERE} > 0) - time()",
                    )
                ],
            ),
        ],
    ),
    (
        "Does the process have what it needs",
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
        ],
    ),
]

SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def target(index, legend, expression):
    return {"datasource": SOURCE, "expr": expression, "legendFormat": legend, "refId": chr(ord("A") + index)}


UP_DOWN = [
    {
        "type": "value",
        "options": {
            "0": {"text": "down", "color": "red", "index": 0},
            "1": {"text": "up", "color": "green", "index": 1},
        },
    }
]


def panel(number, place, described):
    title, unit, kind, _, targets = described
    field = {"unit": unit}
    if kind == "timeseries":
        field["custom"] = {"fillOpacity": 8, "lineWidth": 1, "showPoints": "never"}
        options = {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]}}
        options["tooltip"] = {"mode": "multi", "sort": "desc"}
    else:
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "name" if kind == "name" else "auto"}
    if kind == "updown":
        field["mappings"] = UP_DOWN
    return {
        "id": number,
        "type": "timeseries" if kind == "timeseries" else "stat",
        "title": title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": field, "overrides": []},
        "options": options,
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
        top, left, height = top + 1, 0, 8 if row[0][2] == "timeseries" else 4
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

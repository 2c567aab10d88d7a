//! What is shown of a snapshot: a head of a few lines, and tables. The same for the live view and for plain text.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::snapshot::{Fields, Snapshot, SnapshotPart, field};

/// A table as texts.
#[derive(Debug)]
pub(super) struct Table {
    pub title: &'static str,
    pub heads: &'static [&'static str],
    pub rows: Vec<Vec<String>>,
    /// What is shown in place of rows, when there are none.
    pub note: Option<String>,
}

/// The lines above the tables.
pub(super) fn head(snapshot: &Snapshot) -> Vec<String> {
    let info = |name: &str| snapshot.info(name);
    let number = |name: &str| info(name).parse::<f64>().unwrap_or(0.0);
    let (clients, upstream) = (number("clients"), number("upstream_connections"));
    // With few clients the ratio says nothing of the multiplexing: some connections are there in any case.
    let cap = info("upstream_connections_max");
    let connections = if clients > upstream && upstream > 0.0 {
        format!(
            "{clients:.0} clients over {upstream:.0} upstream connections ({:.1} : 1, cap {cap})",
            clients / upstream
        )
    } else {
        format!("{clients:.0} clients, {upstream:.0} of {cap} upstream connections")
    };
    let state = match (info("upstream_up"), info("upstream_circuit")) {
        ("1", "closed") => "up".to_owned(),
        ("1", circuit) => format!("up, circuit {circuit}"),
        (_, circuit) => {
            let why = Some(info("upstream_last_error")).filter(|why| !why.is_empty());
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            format!("DOWN for {}{why}, circuit {circuit}", time(number("upstream_away_seconds")))
        }
    };
    let draining = if info("draining") == "1" { ", draining" } else { "" };
    vec![
        format!(
            "respmux {}, up {}, {} workers, pid {}{draining}",
            info("respmux_version"),
            time(number("uptime_in_seconds")),
            info("workers"),
            info("process_id")
        ),
        format!(
            "{connections}; {} {} at {} {state}",
            info("upstream_flavour"),
            info("upstream_version"),
            info("upstream")
        ),
        format!(
            "{:.0} requests/s, p50 {}, p99 {}, {} in flight, {:.1} own and {:.1} upstream errors/s",
            snapshot.stat("requests_per_s"),
            micros(snapshot.stat("p50_us")),
            micros(snapshot.stat("p99_us")),
            info("commands_in_flight"),
            snapshot.stat("own_errors_per_s"),
            snapshot.stat("upstream_errors_per_s")
        ),
        format!(
            "clients in {}/s out {}/s, upstream in {}/s out {}/s, buffers {} of {}",
            bytes(snapshot.stat("client_in_bytes_per_s")),
            bytes(snapshot.stat("client_out_bytes_per_s")),
            bytes(snapshot.stat("upstream_in_bytes_per_s")),
            bytes(snapshot.stat("upstream_out_bytes_per_s")),
            bytes(number("buffers")),
            bytes(number("buffers_max"))
        ),
    ]
}

/// All tables. Rates of clients need a snapshot `before`.
pub(super) fn tables(snapshot: &Snapshot, before: Option<&Snapshot>) -> Vec<Table> {
    let columns = |fields: &Fields, names: &[&str]| names.iter().map(|name| field(fields, name).to_owned()).collect();
    let lanes = |fields: &Fields| {
        let mut marks = Vec::new();
        for (name, mark) in [("suspect", "suspect"), ("retired", "retired")] {
            if field(fields, name) == "1" {
                marks.push(mark);
            }
        }
        let mut row: Vec<String> =
            columns(fields, &["worker", "lane", "user", "resp", "db", "in_flight", "oldest_ms", "clients", "queued"]);
        row.push(format!("{} {}", field(fields, "phase"), marks.join(" ")).trim_end().to_owned());
        row
    };
    let slow = |fields: &Fields| {
        let micro = |name: &str| micros(field(fields, name).parse().unwrap_or(0.0));
        let what = match field(fields, "key") {
            "" => field(fields, "command").to_owned(),
            key => format!("{} {key}", field(fields, "command")),
        };
        let mut row = vec![micro("duration_us"), micro("upstream_us"), what];
        row.extend(columns(fields, &["arguments", "bytes", "addr", "user"]));
        row
    };
    let rates = rates(snapshot, before);
    let clients = |fields: &Fields| {
        let mut row: Vec<String> =
            columns(fields, &["id", "addr", "user", "state", "pin", "cmd", "age", "idle", "omem"]);
        let total = |name: &str| bytes(field(fields, name).parse().unwrap_or(0.0));
        row.extend([total("tot-net-in"), total("tot-net-out")]);
        row.push(rates.get(field(fields, "id")).map_or_else(|| "-".to_owned(), |rate| format!("{}/s", bytes(*rate))));
        row
    };
    let mut tables = vec![
        pools(&snapshot.pools),
        table(
            "Lanes",
            &["worker", "lane", "user", "resp", "db", "in flight", "oldest ms", "clients", "queued", "state"],
            &snapshot.lanes,
            lanes,
        ),
        table(
            "Clients",
            &["id", "address", "user", "state", "pin", "command", "age", "idle", "unread", "in", "out", "traffic"],
            &snapshot.clients,
            clients,
        ),
        table(
            "Slow requests",
            &["total", "upstream", "command", "args", "bytes", "client", "user"],
            &snapshot.slow,
            slow,
        ),
    ];
    if let Ok(hot) = &snapshot.hot {
        let hot = Ok(hot.iter().skip(1).cloned().collect());
        tables.push(table("Hot keys", &["key", "db", "share", "at least"], &hot, |fields| {
            columns(fields, &["key", "db", "share", "at_least"])
        }));
    }
    tables
}

fn table(
    title: &'static str,
    heads: &'static [&'static str],
    part: &SnapshotPart,
    row: impl Fn(&Fields) -> Vec<String>,
) -> Table {
    match part {
        Ok(lines) => Table { title, heads, rows: lines.iter().map(row).collect(), note: None },
        Err(error) => Table { title, heads, rows: Vec::new(), note: Some(error.clone()) },
    }
}

/// The kinds over all workers, those with people in line first.
fn pools(part: &SnapshotPart) -> Table {
    const HEADS: &[&str] = &["kind", "max", "open", "in use", "waiting", "longest ms", "waits", "timeouts"];
    let mut table = table("Pools", HEADS, part, |_| Vec::new());
    table.rows.clear();
    for kind in ["pool", "lane", "hub", "login", "control"] {
        let lines: Vec<&Fields> = part.iter().flatten().filter(|fields| field(fields, "kind") == kind).collect();
        let numbers = |name: &str| lines.iter().filter_map(|line| field(line, name).parse().ok()).collect::<Vec<u64>>();
        let sum = |name: &str| numbers(name).iter().sum::<u64>().to_string();
        if lines.is_empty() {
            continue;
        }
        table.rows.push(vec![
            kind.to_owned(),
            sum("max"),
            sum("open"),
            sum("in_use"),
            sum("waiting"),
            numbers("longest_wait_ms").iter().max().copied().unwrap_or(0).to_string(),
            sum("waits"),
            sum("timeouts"),
        ]);
    }
    table
}

/// Bytes a second of each client in both directions, by id.
fn rates<'a>(snapshot: &'a Snapshot, before: Option<&Snapshot>) -> HashMap<&'a str, f64> {
    let Some(before) = before else { return HashMap::new() };
    let seconds = (snapshot.at - before.at).as_secs_f64().max(1e-3);
    let traffic = |fields: &Fields| {
        ["tot-net-in", "tot-net-out"].iter().filter_map(|name| field(fields, name).parse::<f64>().ok()).sum::<f64>()
    };
    let old: HashMap<&str, f64> =
        before.clients.iter().flatten().map(|fields| (field(fields, "id"), traffic(fields))).collect();
    let rate = |fields: &'a Fields| {
        let id = field(fields, "id");
        old.get(id).map(|old| (id, (traffic(fields) - old).max(0.0) / seconds))
    };
    snapshot.clients.iter().flatten().filter_map(rate).collect()
}

/// The whole snapshot as plain text.
pub(super) fn text(snapshot: &Snapshot) -> String {
    let mut text = head(snapshot).join("\n") + "\n";
    for table in tables(snapshot, None) {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{}\n", table.title);
        if let Some(note) = &table.note {
            let _ = writeln!(text, "  {note}");
            continue;
        }
        let widths = widths(&table);
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let cells = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect::<Vec<_>>();
            format!("  {}", cells.join("  ")).trim_end().to_owned()
        };
        let _ = writeln!(text, "{}", line(&mut table.heads.iter().copied()));
        for row in &table.rows {
            let _ = writeln!(text, "{}", line(&mut row.iter().map(String::as_str)));
        }
    }
    text
}

/// The width of each column, characters.
pub(super) fn widths(table: &Table) -> Vec<usize> {
    let of = |column: usize| {
        let cells = table.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([table.heads[column].len()]).max().unwrap_or(0)
    };
    (0..table.heads.len()).map(of).collect()
}

/// As few digits as a person reads.
fn micros(micros: f64) -> String {
    match micros {
        none if none <= 0.0 => "-".to_owned(),
        long if long >= 1e7 => ">10s".to_owned(), // the last bound of the buckets
        short if short < 1e3 => format!("{short:.0}us"),
        middle if middle < 1e6 => format!("{:.1}ms", middle / 1e3),
        long => format!("{:.1}s", long / 1e6),
    }
}

fn bytes(bytes: f64) -> String {
    let units = ["B", "K", "M", "G"];
    let mut value = bytes;
    for unit in units {
        if value < 1000.0 || unit == "G" {
            return if unit == "B" { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") };
        }
        value /= 1024.0;
    }
    unreachable!("the last unit takes everything")
}

fn time(seconds: f64) -> String {
    match seconds {
        short if short < 120.0 => format!("{short:.0}s"),
        middle if middle < 7200.0 => format!("{:.0}m", middle / 60.0),
        long if long < 172_800.0 => format!("{:.0}h", long / 3600.0),
        days => format!("{:.0}d", days / 86_400.0),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// A busy proxy.
    pub(in crate::tools::top) fn example(sent: &str, at: Instant) -> Snapshot {
        let pool = |worker: &str, waiting: &str| {
            fields(&[
                ("worker", worker),
                ("kind", "pool"),
                ("max", "8"),
                ("open", "6"),
                ("in_use", "6"),
                ("waiting", waiting),
                ("longest_wait_ms", waiting),
                ("waits", "9"),
                ("timeouts", "1"),
            ])
        };
        Snapshot {
            at,
            info: fields(&[
                ("respmux_version", "9.9"),
                ("workers", "2"),
                ("uptime_in_seconds", "7300"),
                ("clients", "1000"),
                ("upstream_connections", "10"),
                ("upstream_connections_max", "32"),
                ("upstream_up", "1"),
                ("upstream_circuit", "closed"),
                ("upstream_flavour", "redis"),
                ("upstream_version", "7.0"),
                ("upstream", "db:6379"),
                ("buffers", "2048"),
            ]),
            stats: Ok(vec![fields(&[
                ("class", "all"),
                ("requests_per_s", "1234.4"),
                ("p50_us", "100"),
                ("p99_us", "2500"),
            ])]),
            pools: Ok(vec![pool("0", "3"), pool("1", "4")]),
            servers: Ok(vec![]),
            lanes: Ok(vec![fields(&[
                ("worker", "0"),
                ("lane", "1"),
                ("user", "app"),
                ("phase", "ready"),
                ("suspect", "1"),
            ])]),
            clients: Ok(vec![fields(&[
                ("id", "17"),
                ("addr", "10.0.0.1:5"),
                ("state", "open"),
                ("tot-net-in", "100"),
                ("tot-net-out", sent),
            ])]),
            slow: Ok(vec![fields(&[
                ("duration_us", "25000"),
                ("upstream_us", "900"),
                ("command", "keys"),
                ("bytes", "20"),
            ])]),
            hot: Err("ERR no commands are looked at".to_owned()),
        }
    }

    #[test]
    fn the_text_says_what_matters() {
        let text = text(&example("0", Instant::now()));
        for wanted in [
            "respmux 9.9, up 2h, 2 workers",
            "1000 clients over 10 upstream connections (100.0 : 1, cap 32); redis 7.0 at db:6379 up",
            "1234 requests/s, p50 100us, p99 2.5ms",
            "buffers 2.0K of 0B",
            "pool  16   12    12      7        4           18     2",
            "ready suspect",
            "25.0ms  900us     keys",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
        assert!(!text.contains("Hot keys"), "they are off:\n{text}");
    }

    #[test]
    fn traffic_is_what_came_between_two_looks() {
        let start = Instant::now();
        let (before, now) = (example("1000", start), example("5000", start + Duration::from_secs(2)));
        let clients = &tables(&now, Some(&before))[2];
        assert_eq!(clients.rows[0].last().map(String::as_str), Some("2.0K/s"));
        let first = &tables(&now, None)[2];
        assert_eq!(first.rows[0].last().map(String::as_str), Some("-"));
    }

    #[test]
    fn a_part_that_is_refused_says_so() {
        let mut snapshot = example("0", Instant::now());
        snapshot.clients = Err("NOPERM no".to_owned());
        assert!(text(&snapshot).contains("Clients\n  NOPERM no"));
    }
}

//! Scenario T-4.1: whatever a client sends, the proxy answers and closes exactly as the server does
//! (docs/design/semantics.md 4.1).
//!
//! No expectation is written down: each row goes to the server and through the proxy, at many packet splits, and both
//! conversations must be the same bytes with the same end.

use std::time::{Duration, Instant};

use kit::{Address, Flavour, PATIENCE, Proxy, ProxyOptions, ReadEnd, RealRedis, Shown, TestClient, encode, pause};

/// How long the server may be silent before it is taken to have said all.
const SILENCE: Duration = Duration::from_millis(60);
/// The same for the proxy, once it has said as much as the server did; before that it is waited for.
const AFTERWARDS: Duration = Duration::from_millis(15);
/// Places at which a long write is cut, besides its last bytes.
const CUTS: usize = 8;

/// One thing to send. The parts are written with a pause between them, so that the server has judged the first
/// before the second arrives; only the last part is cut.
struct Row {
    name: &'static str,
    parts: Vec<Vec<u8>>,
    /// Servers disagree here and the proxy is as lenient as Redis 7.0 (rule F1): that is what it is compared with.
    lenient: bool,
}

/// What came back, and whether the connection was closed at the end.
#[derive(PartialEq, Eq)]
struct Heard {
    bytes: Vec<u8>,
    closed: bool,
}

impl std::fmt::Debug for Heard {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:?}{}", Shown(&self.bytes), if self.closed { " EOF" } else { "" })
    }
}

fn row(name: &'static str, bytes: impl Into<Vec<u8>>) -> Row {
    Row { name, parts: vec![bytes.into()], lenient: false }
}

fn filled(head: &str, byte: u8, count: usize) -> Vec<u8> {
    [head.as_bytes(), &vec![byte; count]].concat()
}

/// Rows for a client that is let in.
fn open_rows() -> Vec<Row> {
    let mut rows = vec![
        row("good commands", "PING\r\n*1\r\n$4\r\nPING\r\n"),
        row("replies before the error", "PING\r\n*1\r\n$4\r\nPING\r\n*x\r\nPING\r\n"),
        row("inline of 65537 without an end", filled("", b'a', 65537)),
        row("count string of 65537", filled("*", b'1', 65536)),
        row("bulk count string of 65537", filled("*1\r\n$", b'1', 65536)),
        row("most arguments possible, none sent", "*2147483647\r\n"),
        row("largest bulk allowed, not sent", "*1\r\n$536870912\r\n"),
        row("bulk one above the limit", "*1\r\n$536870913\r\nPING\r\n"),
        row("bulk far above", "*1\r\n$99999999999999999999\r\n"),
        row("double quote not closed", "SET a \"b\r\n"),
        row("single quote not closed", "SET a 'b\r\n"),
        row("quote in a word", "SET a b\"c\r\n"),
        row("quotes with all escapes", "ECHO \"\\x00\\x41\\n\\r\\t\\b\\a\\\\\\\"\"\r\n"),
        row("hex escape cut short", "ECHO \"\\x4\"\r\n"),
        row("single quotes", "ECHO 'a\\'b\\n'\r\n"),
        row("empty quotes", "ECHO \"\"\r\n"),
        row("line feed alone ends an inline", "PING\nECHO a\n"),
        row("line feed in the count line", "*1\n$4\r\nPING\r\n"),
        Row { lenient: true, ..row("any byte after the carriage return", "*1\rX$4\rXPING\rX") },
        row("nothing at all", "*0\r\n*-1\r\n*-5\r\n\r\n   \r\nPING\r\n"),
        row("empty command name", "*1\r\n$0\r\n\r\n"),
        row("empty argument", "*2\r\n$4\r\nECHO\r\n$0\r\n\r\n"),
        row("unknown command", "FOO a b\r\n*1\r\n$3\r\nFOO\r\n"),
        row("half a command", "*2\r\n$4\r\nECHO\r\n$3\r\nab"),
        Row { lenient: true, ..row("bulk not followed by a line end", "*1\r\n$4\r\nPINGxxPING\r\n") },
        Row {
            name: "65536 bytes pending are fine",
            parts: vec![filled("", b'a', 65536), b"\n".to_vec()],
            lenient: false,
        },
        Row {
            name: "65536 bytes of a count line are fine",
            parts: vec![filled("*", b'0', 65535), b"\r\nPING\r\n".to_vec()],
            lenient: false,
        },
    ];
    rows.extend(malformed_rows());
    rows
}

/// Counts, lengths and beginnings that are not what they should be, each behind a command that is answered.
fn malformed_rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for count in
        ["abc", "+1", "01", " 1", "1 ", "1.0", "2147483648", "-2147483649", "", "-", "--1", "99999999999999999999"]
    {
        rows.push(row("multibulk length", format!("PING\r\n*{count}\r\nPING\r\n")));
    }
    for length in ["abc", "-1", "+1", "01", " 1", "1 ", "1.0", "", "-"] {
        rows.push(row("bulk length", format!("PING\r\n*2\r\n$4\r\nECHO\r\n${length}\r\nPING\r\n")));
    }
    for other in [":1\r\n", "\r\n", "\n\n", "x\r\n", "+OK\r\n", " $4\r\n", "\"\r\n", "'\r\n"] {
        rows.push(row("not a bulk", format!("PING\r\n*1\r\n{other}PING\r\n")));
    }
    rows
}

/// Rows for a client that has not authenticated.
fn locked_rows() -> Vec<Row> {
    let arguments =
        |count: usize| (1..count).fold(format!("*{count}\r\n$4\r\nMGET\r\n"), |text, _| text + "$1\r\na\r\n");
    vec![
        row("ten arguments", arguments(10)),
        row("eleven arguments", arguments(11)),
        row("eleven announced", "PING\r\n*11\r\n"),
        row("eleven inline", "MGET 1 2 3 4 5 6 7 8 9 10\r\n"),
        row("bulk of 16385", "PING\r\n*2\r\n$4\r\nECHO\r\n$16385\r\n"),
        row("bulk of 16384", [&b"*2\r\n$4\r\nECHO\r\n"[..], &filled("$16384\r\n", b'x', 16384), b"\r\n"].concat()),
        row("multibulk length", "*x\r\n"),
        row("unknown command, wrong arity", "FOO\r\nGET\r\nCLIENT FOO\r\nGET a\r\nEXEC\r\nQUIT\r\n"),
    ]
}

/// Sends one row, its last part cut at `cut`, and listens until the close or silence; if it is known what will be
/// heard, at least until that was.
fn converse(address: &Address, row: &Row, cut: usize, known: Option<&Heard>) -> Heard {
    let mut client = TestClient::connect(address);
    let (last, first) = row.parts.split_last().expect("a row has parts");
    for part in first {
        client.send(part);
        listen(&mut client, SILENCE);
    }
    client.send(&last[..cut]);
    if cut > 0 && cut < last.len() {
        pause(Duration::from_micros(300));
    }
    client.send(&last[cut..]);
    let deadline = Instant::now() + PATIENCE;
    let unheard = |client: &TestClient, closed: bool| {
        known.is_some_and(|known| client.received().len() < known.bytes.len() || (known.closed && !closed))
    };
    let mut closed = false;
    while unheard(&client, closed) && !closed && Instant::now() < deadline {
        closed = listen(&mut client, AFTERWARDS);
    }
    let closed = closed || listen(&mut client, known.map_or(SILENCE, |_| AFTERWARDS));
    Heard { bytes: client.received().to_vec(), closed }
}

/// Reads until the close (true) or until nothing has come for `silence`.
fn listen(client: &mut TestClient, silence: Duration) -> bool {
    loop {
        match client.read_some(Instant::now() + silence) {
            Ok(()) => {}
            Err(end) => return end == ReadEnd::Eof,
        }
    }
}

fn cuts(length: usize) -> Vec<usize> {
    let mut cuts: Vec<_> =
        if length <= 30 { (0..length).collect() } else { (0..CUTS).map(|part| part * length / CUTS).collect() };
    cuts.extend(length.saturating_sub(4)..length);
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// Sends the rows of one server to both sides; the cuts of a row run at the same time, each on its own connection.
fn compare(rows: &[Row], server: &Address, lenient: &Address, proxy: &Address) -> Vec<String> {
    let mut differences = Vec::new();
    for row in rows {
        let judge = if row.lenient { lenient } else { server };
        let wanted = converse(judge, row, 0, None);
        let wanted = &wanted;
        let length = row.parts.last().expect("a row has parts").len();
        let heard: Vec<_> = std::thread::scope(|scope| {
            let cuts = cuts(length);
            let threads: Vec<_> = cuts
                .into_iter()
                .map(|cut| (cut, scope.spawn(move || converse(proxy, row, cut, Some(wanted)))))
                .collect();
            threads.into_iter().map(|(cut, thread)| (cut, thread.join().unwrap())).collect()
        });
        if let Some((cut, heard)) = heard.into_iter().find(|(_, heard)| heard != wanted) {
            let shown = Shown(row.parts.last().expect("a row has parts"));
            differences
                .push(format!("{}, {shown:?} cut at {cut}:\n    server {wanted:?}\n    proxy  {heard:?}", row.name));
        }
    }
    differences
}

fn protocol_errors_are_the_servers(flavour: Flavour) {
    let lenient = RealRedis::start(Flavour::Redis70, &[]);
    let mut differences = Vec::new();
    for (rows, arguments) in [(open_rows(), &[][..]), (locked_rows(), &["--requirepass", "s"])] {
        let redis = RealRedis::start(flavour, arguments);
        let proxy = Proxy::start(&redis, &ProxyOptions::tight());
        differences.extend(compare(&rows, &redis.address(), &lenient.address(), &proxy.address()));
    }
    let name = flavour.name();
    assert!(differences.is_empty(), "{} rows differ on {name}:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn on_redis_7_0() {
    protocol_errors_are_the_servers(Flavour::Redis70);
}

#[test]
fn on_redis_8_2() {
    protocol_errors_are_the_servers(Flavour::Redis82);
}

#[test]
fn on_valkey_9() {
    protocol_errors_are_the_servers(Flavour::Valkey9);
}

/// The rows tell servers apart from a parser that takes everything: most of them are refused, in words.
#[test]
fn the_rows_are_refused_by_a_real_server() {
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let address = redis.address();
    let heard: Vec<_> = open_rows().iter().map(|row| converse(&address, row, 0, None)).collect();
    let refused = heard
        .iter()
        .filter(|heard| heard.closed && heard.bytes.windows(14).any(|text| text == b"Protocol error"))
        .count();
    assert!(refused >= 30, "{refused} of {} rows are refused: {heard:?}", heard.len());
    assert!(heard.iter().filter(|heard| !heard.closed).count() >= 10, "some rows are good: {heard:?}");
}

/// A first request that respmux answers itself is no smaller than the server allows: whether the client must log in is
/// asked when that decides.
#[test]
fn a_large_proxy_command_asks_who_sends_it() {
    let explain = format!("PROXY EXPLAIN SET k {}", "x".repeat(20_000));
    let redis = RealRedis::start(Flavour::Redis70, &[]);
    let proxy = Proxy::start(&redis, &ProxyOptions::tight());
    // Passes by, so that respmux asks the server anew whether strangers must log in.
    assert_eq!(proxy.connect().ask("CONFIG SET hz 11").as_str(), "OK");
    let told = proxy.connect().ask(&explain);
    assert!(!told.is_error(), "{}", told.as_str());
    assert_eq!(proxy.connect().ask("CONFIG SET requirepass pw").as_str(), "OK");
    let mut stranger = proxy.connect();
    stranger.send(&encode(&explain.split(' ').collect::<Vec<_>>()));
    stranger.expect(b"-ERR Protocol error: unauthenticated bulk length\r\n");
}

//! PROXY SLOWLOG and HOTKEYS.

use bytes::BytesMut;

use super::{Answered, ProxyAnswer};
use crate::client::directory::peers::Peers;
use crate::client::error_reply;
use crate::client::request::{Request, number};
use crate::command::token_is;
use crate::resp::encode;
use crate::router::Args;
use crate::upstream::{SlowRequest, merged};

/// Slow requests that are shown when nobody says how many.
const SLOW_SHOWN: usize = 10;
/// Hot keys that are shown when nobody says how many.
const HOT_SHOWN: usize = 16;

/// PROXY SLOWLOG GET and LEN. `resp` is the client's protocol.
pub(super) async fn requests(peers: &Peers, request: &Request, resp: u8) -> Answered {
    let mut frame = BytesMut::new();
    let word = if request.count() > 2 { request.nth(2) } else { b"GET" };
    if token_is(word, "LEN") {
        if request.count() != 3 {
            return Err(error_reply::wrong_arity("proxy|slowlog|len"));
        }
        let (length, _) = peers.slow_requests(0).await;
        encode::integer(&mut frame, i64::try_from(length).unwrap_or(i64::MAX));
        return Ok(ProxyAnswer::Frame(frame));
    }
    if !token_is(word, "GET") {
        return Err(error_reply::unknown_word("PROXY", request.nth(2)));
    }
    let count = match request.count() {
        2 | 3 => SLOW_SHOWN,
        // As with SLOWLOG GET, -1 is all.
        4 if request.nth(3) == b"-1" => usize::MAX,
        4 => number(request.nth(3)).ok_or("ERR count should be greater than or equal to -1")?,
        _ => return Err(error_reply::wrong_arity("proxy|slowlog|get")),
    };
    let (_, mut slow) = peers.slow_requests(count).await;
    // Each worker has sent its newest few: the newest of all are among them.
    slow.sort_by_key(|one| std::cmp::Reverse((one.unix_millis, one.id)));
    slow.truncate(count);
    encode::array_header(&mut frame, slow.len());
    for one in &slow {
        show(&mut frame, one, resp);
    }
    Ok(ProxyAnswer::Frame(frame))
}

/// A map, of which the key is there only where one was kept.
fn show(frame: &mut BytesMut, slow: &SlowRequest, resp: u8) {
    let micros = |time: std::time::Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let numbers = [
        ("id", whole(slow.id)),
        ("time", whole(slow.unix_millis / 1000)),
        ("duration_us", micros(slow.total)),
        ("upstream_us", micros(slow.upstream)),
        ("arguments", slow.arguments.into()),
        ("bytes", whole(slow.bytes)),
        ("client_id", whole(slow.client)),
    ];
    let key = slow.key.as_ref().map(|key| escaped(key));
    let mut texts = vec![("command", slow.command.clone())];
    texts.extend(key.map(|key| ("key", key)));
    texts.push(("addr", slow.addr.clone()));
    texts.push(("user", String::from_utf8_lossy(&slow.user).into_owned()));
    encode::map_header(frame, numbers.len() + texts.len(), resp);
    for (name, number) in numbers {
        encode::bulk(frame, name.as_bytes());
        encode::integer(frame, number);
    }
    for (name, text) in texts {
        encode::bulk(frame, name.as_bytes());
        encode::bulk(frame, text.as_bytes());
    }
}

/// PROXY SLOWLOG RESET.
pub(super) async fn reset_requests(peers: &Peers, request: &Request) -> Answered {
    if request.count() != 3 {
        return Err(error_reply::wrong_arity("proxy|slowlog|reset"));
    }
    peers.forget_slow_requests().await;
    Ok(done())
}

/// PROXY HOTKEYS.
pub(super) async fn hot_keys(peers: &Peers, every: u32, request: &Request) -> Answered {
    let count = match request.count() {
        2 => HOT_SHOWN,
        3 => number(request.nth(2)).filter(|count| *count > 0).ok_or("ERR count must be a positive number")?,
        _ => return Err(error_reply::wrong_arity("proxy|hotkeys")),
    };
    // An empty list would say that no key is hot.
    if every == 0 {
        return Err(b"ERR no commands are looked at: hotkeys.sample is 0".to_vec());
    }
    let (samples, keys) = merged(peers.hot_keys().await);
    let mut lines = vec![format!("samples={samples} one_in={every} keys={}", keys.len())];
    for hot in keys.iter().take(count) {
        lines.push(format!(
            "key={} db={} share={:.2}% at_least={:.2}% samples={}",
            escaped(&hot.key),
            hot.db,
            percent(hot.count, samples),
            percent(hot.count - hot.error, samples),
            hot.count
        ));
    }
    Ok(ProxyAnswer::Lines(lines))
}

/// PROXY HOTKEYS RESET.
pub(super) async fn reset_hot_keys(peers: &Peers, request: &Request) -> Answered {
    if request.count() != 3 {
        return Err(error_reply::wrong_arity("proxy|hotkeys|reset"));
    }
    peers.forget_hot_keys().await;
    Ok(done())
}

fn done() -> ProxyAnswer {
    ProxyAnswer::Frame(BytesMut::from(&b"+OK\r\n"[..]))
}

#[allow(clippy::cast_precision_loss)] // a share of 2^53 samples is exact enough
fn percent(count: u64, samples: u64) -> f64 {
    100.0 * count as f64 / samples.max(1) as f64
}

/// As redis-cli shows bytes, in quotes: a key may hold anything.
fn escaped(key: &[u8]) -> String {
    format!("\"{}\"", key.escape_ascii())
}

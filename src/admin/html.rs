//! The status page: one document that loads nothing but `/status.json`, from here.

use std::fmt::Write as _;
use std::sync::LazyLock;

use serde_json::Value;
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// What the page may do: its own style and script, by their hashes, and questions to this port. Nothing else.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| format!("'sha256-{}'", base64(&Sha256::digest(text.as_bytes())));
    format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// The page. Without a script it shows the few lines of `status`, and comes again by itself.
pub(super) fn page(status: &Value) -> String {
    PAGE.replace("{style}", STYLE).replace("{script}", SCRIPT).replace("{plain}", &escaped(&plain(status)))
}

/// The status in a few lines of text.
pub(super) fn plain(status: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<12} {value}");
    };
    let at = |path: &str| status.pointer(path).cloned().unwrap_or_default();
    let number = |path: &str| at(path).as_f64().unwrap_or_default();
    line("respmux", format!("{} {}", word(&at("/version")), word(&at("/state"))));
    line("clients", format!("{} of at most {}", at("/clients/now"), at("/clients/max")));
    let up = if at("/upstream/up") == Value::Bool(true) { "answers" } else { "does not answer" };
    line("connections", format!("{}, cap {}", at("/upstream/connections"), at("/upstream/max")));
    line("upstream", format!("{} {up}", word(&at("/upstream/endpoint"))));
    if let (Some(since), Some(now)) = (at("/upstream/away_since").as_f64(), at("/time").as_f64()) {
        line("away for", format!("{:.0} s", (now - since).max(0.0)));
    }
    if let (Some(time), Some(now)) = (at("/upstream/last_error/time").as_f64(), at("/time").as_f64()) {
        let ago = (now - time).max(0.0);
        line("last error", format!("{} ({ago:.0} s ago)", word(&at("/upstream/last_error/text"))));
    }
    line("commands/s", format!("{:.0}", number("/rates/commands")));
    let millis = |path: &str| format!("{:.3} ms", 1e3 * number(path));
    line("p50, p99", format!("{}, {}", millis("/latency/p50"), millis("/latency/p99")));
    line("in line", at("/pools").as_array().map_or(0, |all| sum(all, "waiting")).to_string());
    line("buffers", format!("{} bytes of {}", at("/memory/buffers"), at("/memory/limit")));
    for event in at("/events").as_array().into_iter().flatten().take(8) {
        line("event", format!("{} ×{}", word(&event["text"]), event["count"]));
    }
    text
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn sum(all: &[Value], name: &str) -> u64 {
    all.iter().filter_map(|one| one[name].as_u64()).sum()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// As the policy wants its hashes.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let byte = |index: usize| u32::from(part.get(index).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let index = (group >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= part.len() { char::from(DIGITS[index]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn the_page_is_whole_and_loads_nothing() {
        let page = page(&serde_json::json!({ "version": "<1>", "state": "serving" }));
        for (open, close) in [("<style>", "</style>"), ("<script>", "</script>")] {
            let inner = page.split_once(open).unwrap().1.split_once(close).unwrap().0;
            let hash = base64(&Sha256::digest(inner.as_bytes()));
            assert!(POLICY.contains(&hash), "{open} is not what the policy allows");
        }
        assert!(page.contains("respmux      &lt;1&gt; serving"), "no line for people without scripts");
        for loaded in ["src=", "@import", "url(", "http://", "https://", "style=\"", "onclick"] {
            let found = page.match_indices(loaded).map(|(at, _)| &page[at..(at + 60).min(page.len())]);
            let found: Vec<_> = found.filter(|text| !text.starts_with("http://www.w3.org/2000/svg")).collect();
            assert!(found.is_empty(), "{found:?}");
        }
        assert!(!page.contains("{style}") && !page.contains("{script}") && !page.contains("{plain}"));
    }
}

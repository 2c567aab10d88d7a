//! The upstream as a URL.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::super::secret::{REDACTED, Secret};
use super::{Endpoint, socket_path};

/// What a user name is printed without; a path keeps its slashes.
const IN_USER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const IN_PATH: &AsciiSet = &IN_USER.remove(b'/');

/// `redis://[user[:password]@]host[:port][/db]`, `valkey://` alike, both with an `s` for TLS,
/// `unix://[user[:password]@]path[?db=n]`.
///
/// Prints with the password as `***`. No error quotes the text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamUrl {
    pub(in crate::config) endpoint: Endpoint,
    pub(in crate::config) tls: bool,
    pub(in crate::config) db: Option<u32>,
    pub(in crate::config) username: Option<String>,
    pub(in crate::config) password: Option<Secret>,
}

impl UpstreamUrl {
    pub(in crate::config) fn parse(text: &str) -> Result<Self, String> {
        const FORMS: &str = "write redis[s]://[user:password@]host[:port][/db], valkey[s]://… or unix:///path[?db=n]";
        if text.contains('#') {
            return Err("'#' has no meaning here; in a password write it as %23".to_owned());
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return match text.strip_prefix("unix:") {
                Some(rest) => Self::parse_unix(rest),
                None => Err(format!("this is no URL with a scheme; {FORMS}")),
            };
        };
        match scheme.to_ascii_lowercase().as_str() {
            "redis" | "valkey" => Self::parse_tcp(rest),
            "rediss" | "valkeys" => Self::parse_tcp(rest).map(|url| Self { tls: true, ..url }),
            "unix" => Self::parse_unix(rest),
            _ => Err(format!("the scheme is not known; {FORMS}")),
        }
    }

    fn parse_tcp(rest: &str) -> Result<Self, String> {
        let (rest, mut query) = split_query(rest)?;
        if let Some((name, _)) = query.next() {
            return Err(format!("unknown query key {name:?}: a redis:// URL takes none"));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.contains('@') {
            return Err(escaped('/', "%2F"));
        }
        let (credentials, address) = split_credentials(authority);
        let (username, password) = parse_credentials(credentials)?;
        let db = if path.is_empty() { None } else { Some(parse_db(path)?) };
        Ok(Self { endpoint: Endpoint::parse(address)?, tls: false, db, username, password })
    }

    fn parse_unix(rest: &str) -> Result<Self, String> {
        let (rest, query) = split_query(rest)?;
        let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, _) = split_credentials(authority);
        // Taken for a path, the password would be printed with it.
        if credentials.is_none() && authority.contains(':') && rest.contains('@') {
            return Err(escaped('/', "%2F"));
        }
        let path = credentials.map_or(rest, |c| &rest[c.len() + 1..]);
        let (username, password) = parse_credentials(credentials)?;
        let mut db = None;
        for (name, value) in query {
            match value {
                Some(number) if name == "db" && db.is_none() => db = Some(parse_db(number)?),
                Some(_) if name == "db" => return Err("the query names db twice".to_owned()),
                _ => return Err(format!("unknown query key {name:?}: a unix:// URL takes db only")),
            }
        }
        let endpoint = Endpoint::Unix(socket_path(decode_text(path, "path")?)?);
        Ok(Self { endpoint, tls: false, db, username, password })
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (&self.endpoint, self.tls) {
            (_, true) => "rediss://",
            (Endpoint::Unix(_), false) => "unix://",
            (Endpoint::Tcp { .. }, false) => "redis://",
        })?;
        if self.username.is_some() || self.password.is_some() {
            let user = utf8_percent_encode(self.username.as_deref().unwrap_or_default(), IN_USER);
            let password = if self.password.is_some() { format!(":{REDACTED}") } else { String::new() };
            write!(f, "{user}{password}@")?;
        }
        match (&self.endpoint, self.db) {
            (Endpoint::Unix(path), db) => {
                write!(f, "{}", utf8_percent_encode(&path.to_string_lossy(), IN_PATH))?;
                db.map_or(Ok(()), |db| write!(f, "?db={db}"))
            }
            (endpoint, Some(db)) => write!(f, "{endpoint}/{db}"),
            (endpoint, None) => write!(f, "{endpoint}"),
        }
    }
}

/// Reads an upstream URL as the setting `upstream.url` does: where it leads, and how it prints, without its password.
///
/// # Errors
/// What is wrong with it; never quotes a password.
pub fn read_upstream(text: &str) -> Result<(Endpoint, String), String> {
    UpstreamUrl::parse(text).map(|url| (url.endpoint.clone(), url.to_string()))
}

/// The parts of a `redis://` URL: address, user, password.
///
/// # Errors
/// What is wrong with it, without the password.
pub(crate) fn parse_url(text: &str) -> Result<(Endpoint, Option<String>, Option<Secret>), String> {
    let url = UpstreamUrl::parse(text)?;
    if url.tls {
        return Err("only redis:// here, without TLS".to_owned());
    }
    Ok((url.endpoint, url.username, url.password))
}

/// What stands before the first `?`, and names and values after it. A query with an `@` anywhere is the end of a
/// password, so none of its names may be quoted.
fn split_query(rest: &str) -> Result<(&str, impl Iterator<Item = (&str, Option<&str>)>), String> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if query.contains('@') {
        return Err(escaped('?', "%3F"));
    }
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    Ok((rest, pairs.map(|pair| pair.split_once('=').map_or((pair, None), |(name, value)| (name, Some(value))))))
}

/// What stands before the last `@`, and after it.
fn split_credentials(authority: &str) -> (Option<&str>, &str) {
    authority.rsplit_once('@').map_or((None, authority), |(credentials, address)| (Some(credentials), address))
}

fn parse_credentials(credentials: Option<&str>) -> Result<(Option<String>, Option<Secret>), String> {
    let credentials = credentials.unwrap_or_default();
    if credentials.contains('@') {
        return Err(escaped('@', "%40"));
    }
    let (user, password) = match credentials.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (credentials, None),
    };
    let username = if user.is_empty() { None } else { Some(decode_text(user, "user name")?) };
    let password = password.map(|text| parse_password(decode(text)?)).transpose()?;
    Ok((username, password))
}

/// Refuses what a password can only be by mistake.
pub(in crate::config) fn parse_password(bytes: Vec<u8>) -> Result<Secret, String> {
    if bytes.is_empty() {
        return Err("the password is empty".to_owned());
    }
    if bytes == REDACTED.as_bytes() {
        return Err(
            "*** is how respmux prints a password; write the password itself or use upstream.password_file".to_owned()
        );
    }
    Ok(Secret::new(bytes))
}

fn parse_db(text: &str) -> Result<u32, String> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|db| digits && *db <= i32::MAX as u32);
    number.ok_or_else(|| "the database must be a whole number such as 0".to_owned())
}

fn escaped(character: char, code: &str) -> String {
    format!("'{character}' in a user name or password must be written as {code}")
}

fn decode_text(text: &str, what: &str) -> Result<String, String> {
    String::from_utf8(decode(text)?).map_err(|_| format!("the {what} is not UTF-8"))
}

/// Percent-decoding, which leaves no `%` as it is.
fn decode(text: &str) -> Result<Vec<u8>, String> {
    let is_code = |rest: &[u8]| rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit);
    if !text.as_bytes().split(|byte| *byte == b'%').skip(1).all(is_code) {
        return Err("'%' must be followed by two hexadecimal digits (%25 is '%')".to_owned());
    }
    Ok(percent_decode_str(text).collect())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn urls_and_how_they_print() {
        let unix = |path: &str| Endpoint::Unix(PathBuf::from(path));
        type Expected<'a> = (Endpoint, Option<u32>, Option<&'a str>, Option<&'a [u8]>);
        let cases: [(&str, Expected<'_>, &str); 12] = [
            ("redis://h", (tcp("h", 6379), None, None, None), "redis://h:6379"),
            ("valkey://h:7000/3", (tcp("h", 7000), Some(3), None, None), "redis://h:7000/3"),
            ("rediss://h/1", (tcp("h", 6379), Some(1), None, None), "rediss://h:6379/1"),
            ("valkeys://:p@h", (tcp("h", 6379), None, None, Some(b"p")), "rediss://:***@h:6379"),
            ("REDIS://h/", (tcp("h", 6379), None, None, None), "redis://h:6379"),
            ("redis://[::1]:1", (tcp("::1", 1), None, None, None), "redis://[::1]:1"),
            ("redis://u@h", (tcp("h", 6379), None, Some("u"), None), "redis://u@h:6379"),
            ("redis://:p@h", (tcp("h", 6379), None, None, Some(b"p")), "redis://:***@h:6379"),
            (
                "redis://a%20b:%40%3a%00%ff@h/0",
                (tcp("h", 6379), Some(0), Some("a b"), Some(b"@:\0\xff")),
                "redis://a%20b:***@h:6379/0",
            ),
            ("unix:///run/r.sock?db=2", (unix("/run/r.sock"), Some(2), None, None), "unix:///run/r.sock?db=2"),
            ("unix:a%20b", (unix("a b"), None, None, None), "unix://a%20b"),
            ("unix://u:p@/r.sock", (unix("/r.sock"), None, Some("u"), Some(b"p")), "unix://u:***@/r.sock"),
        ];
        for (text, (endpoint, db, username, password), printed) in cases {
            let url = UpstreamUrl::parse(text).unwrap();
            assert_eq!(url.endpoint, endpoint, "{text}");
            assert_eq!(url.tls, printed.starts_with("rediss"), "{text}");
            assert_eq!(url.db, db, "{text}");
            assert_eq!(url.username.as_deref(), username, "{text}");
            assert_eq!(url.password.as_ref().map(Secret::expose), password, "{text}");
            assert_eq!(url.to_string(), printed);
        }
    }

    #[test]
    fn bad_urls_say_why_and_never_quote_the_password() {
        let cases = [
            ("rediss://:hunter2@h:0", "the port must be 1 to 65535"),
            ("http://:hunter2@h", "the scheme is not known"),
            ("user:hunter2@h:6379", "no URL with a scheme"),
            ("redis://", "no host is named"),
            ("redis://:hunter2@:6379", "no host is named"),
            ("redis://h:0", "the port must be 1 to 65535"),
            ("redis://h:hunter2", "the port must be 1 to 65535"),
            ("redis://h:65536", "the port must be 1 to 65535"),
            ("redis://::1", "no host is named"),
            ("redis://:hunt/er2@h", "%2F"),
            ("unix://:hunter2/@", "%2F"),
            ("unix://u:hunt/er2@/s", "%2F"),
            ("redis://:hunt?er2@h", "%3F"),
            ("redis://:hunt?hunter2&x@h", "%3F"),
            ("unix://u:p?hunter2&db=1@/s", "%3F"),
            ("redis://[::1", "neither a name nor an IP address"),
            ("redis://[h]:1", "neither a name nor an IP address"),
            ("redis://h h", "neither a name nor an IP address"),
            ("redis://h/one", "the database must be a whole number"),
            ("redis://h/+1", "the database must be a whole number"),
            ("redis://h/4294967295", "the database must be a whole number"),
            ("redis://h?db=1", "unknown query key \"db\""),
            ("unix:///s?timeout=hunter2", "unknown query key \"timeout\""),
            ("unix:///s?db=1&db=2", "the query names db twice"),
            ("unix://", "no path is named"),
            ("redis://:hunt@er2@h", "must be written as %40"),
            ("redis://:hunt#er2@h", "%23"),
            ("redis://:hunter2%4@h", "two hexadecimal digits"),
            ("redis://%ff:hunter2@h", "the user name is not UTF-8"),
            ("redis://u:@h", "the password is empty"),
            ("redis://u:***@h", "how respmux prints a password"),
        ];
        for (text, expected) in cases {
            let reason = UpstreamUrl::parse(text).unwrap_err();
            assert!(reason.contains(expected), "{text}: {reason}");
            let clean = !reason.contains("hunter2") && !reason.contains("er2");
            assert!(clean, "{text}: {reason}");
        }
    }

    #[test]
    fn what_is_local() {
        for (text, local) in [
            ("redis://localhost", true),
            ("redis://127.9.9.9", true),
            ("redis://[::1]", true),
            ("redis://[::ffff:127.0.0.1]", true),
            ("unix:/s", true),
            ("redis://redis", false),
            ("redis://10.0.0.1", false),
        ] {
            assert_eq!(UpstreamUrl::parse(text).unwrap().endpoint.is_local(), local, "{text}");
        }
    }
}

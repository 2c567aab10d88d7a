//! Where clients come in, and where the upstream is. Pure.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::secret::{REDACTED, Secret};

/// The port of a URL that names none.
const DEFAULT_PORT: u16 = 6379;

/// `sockaddr_un.sun_path` on Linux has 108 bytes with the closing zero.
const SOCKET_PATH_LIMIT: usize = 107;

/// One address to accept clients on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An IP address and port; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// The same, and clients speak TLS.
    Tls(SocketAddr),
    /// A unix socket, relative to the working directory.
    Unix(PathBuf),
}

impl Listen {
    /// Reads `ADDRESS:PORT`, `[ADDRESS]:PORT`, either after `tls:`, or `unix:PATH`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return socket_path(Path::new(path)).map(Self::Unix);
        }
        let (kind, address): (fn(SocketAddr) -> Self, _) = match text.strip_prefix("tls:") {
            Some(address) => (Self::Tls, address),
            None => (Self::Tcp, text),
        };
        let address = address.parse().map_err(|_| {
            format!("expected IP:PORT (\"127.0.0.1:6380\", \"[::1]:6380\"), tls:IP:PORT or unix:PATH, got {text:?}")
        })?;
        Ok(kind(address))
    }

    /// Whether its clients speak TLS.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Whether other machines can reach it.
    pub(crate) fn is_remote(&self) -> bool {
        match self {
            Self::Tcp(address) | Self::Tls(address) => !address.ip().is_loopback(),
            Self::Unix(_) => false,
        }
    }
}

impl Listen {
    /// The address, where it is one of TCP; port 0 is any, and so the same as no other.
    fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) | Self::Tls(address) => Some(*address).filter(|address| address.port() != 0),
            Self::Unix(_) => None,
        }
    }

    /// Whether both cannot be listened on at once.
    pub(super) fn is_in_the_way_of(&self, other: &Self) -> bool {
        match (self, other, self.tcp(), other.tcp()) {
            (Self::Unix(one), Self::Unix(two), ..) => one == two,
            (_, _, Some(one), Some(two)) => one.port() == two.port() && (covers(one, two) || covers(two, one)),
            _ => false,
        }
    }

    /// Whether what connects to `upstream` would meet this very listener, as far as that can be known without a
    /// look-up.
    pub(super) fn answers(&self, upstream: &Endpoint) -> bool {
        match (self, upstream) {
            (Self::Unix(path), Endpoint::Unix(upstream)) => path == upstream,
            (_, Endpoint::Tcp { host, port }) => self.tcp().is_some_and(|address| {
                let named = host.parse::<IpAddr>().ok();
                let same = match named.map(|ip| ip.to_canonical()) {
                    Some(ip) => ip == address.ip().to_canonical(),
                    None => false,
                };
                let loopback = address.ip().is_unspecified() || address.ip().to_canonical().is_loopback();
                let local = host.eq_ignore_ascii_case("localhost") && loopback;
                let any = address.ip().is_unspecified() && upstream.is_local();
                *port == address.port() && (same || local || any)
            }),
            _ => false,
        }
    }
}

/// What listens on `all` gets what is meant for `one`.
fn covers(all: SocketAddr, one: SocketAddr) -> bool {
    match all.ip() {
        ip if ip.to_canonical() == one.ip().to_canonical() => true,
        IpAddr::V4(ip) => ip.is_unspecified() && one.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(), // a socket for both families, unless the system is set otherwise
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            // Two slashes at the start are not part of a path when it is read.
            Self::Unix(path) if path.as_os_str().as_encoded_bytes().starts_with(b"//") => {
                write!(f, "unix://{}", path.display())
            }
            Self::Tls(address) => write!(f, "tls:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The address of a Redis or Valkey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A name or an IP address (IPv6 without brackets), looked up at each connect.
    Tcp {
        /// Name or address.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// A unix socket, relative to the working directory.
    Unix(PathBuf),
}

impl Endpoint {
    /// Whether the upstream sees its clients as local: then what it allows to local clients only
    /// is allowed to every client of ours (rule A9).
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => {
                host.eq_ignore_ascii_case("localhost")
                    || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
            }
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `redis://[user[:password]@]host[:port][/db]`, `valkey://` alike, both with an `s` for TLS,
/// `unix://[user[:password]@]path[?db=n]`.
///
/// Prints with the password as `***`. No error quotes the text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamUrl {
    pub(super) endpoint: Endpoint,
    pub(super) tls: bool,
    pub(super) db: Option<u32>,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
}

impl UpstreamUrl {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
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
        let (rest, query) = split_query(rest)?;
        if let Some(pair) = query_pairs(query).next() {
            return Err(unknown_query_key(pair, "a redis:// URL takes none"));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.contains('@') {
            return Err("'/' in a user name or password must be written as %2F".to_owned());
        }
        let (credentials, address) = split_credentials(authority);
        let (username, password) = parse_credentials(credentials)?;
        let db = if path.is_empty() { None } else { Some(parse_db(path)?) };
        Ok(Self { endpoint: parse_host_port(address)?, tls: false, db, username, password })
    }

    fn parse_unix(rest: &str) -> Result<Self, String> {
        let (rest, query) = split_query(rest)?;
        let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, _) = split_credentials(authority);
        // Taken for a path, the password would be printed with it.
        if credentials.is_none() && authority.contains(':') && rest.contains('@') {
            return Err("'/' in a user name or password must be written as %2F".to_owned());
        }
        let path = credentials.map_or(rest, |c| &rest[c.len() + 1..]);
        let (username, password) = parse_credentials(credentials)?;
        let mut db = None;
        for pair in query_pairs(query) {
            match pair.split_once('=') {
                Some(("db", number)) if db.is_none() => db = Some(parse_db(number)?),
                Some(("db", _)) => return Err("the query names db twice".to_owned()),
                _ => return Err(unknown_query_key(pair, "a unix:// URL takes db only")),
            }
        }
        let path = decode_text(path, "path")?;
        Ok(Self { endpoint: Endpoint::Unix(socket_path(Path::new(&path))?), tls: false, db, username, password })
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unix = matches!(self.endpoint, Endpoint::Unix(_));
        f.write_str(match self.tls {
            true => "rediss://",
            false if unix => "unix://",
            false => "redis://",
        })?;
        if self.username.is_some() || self.password.is_some() {
            let user = encode(self.username.as_deref().unwrap_or_default(), "");
            let password = if self.password.is_some() { format!(":{REDACTED}") } else { String::new() };
            write!(f, "{user}{password}@")?;
        }
        match (&self.endpoint, self.db) {
            (Endpoint::Unix(path), db) => {
                f.write_str(&encode(&path.to_string_lossy(), "/"))?;
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

/// What stands before the first `?`, and after it. A query with an `@` anywhere is the end of a password.
fn split_query(rest: &str) -> Result<(&str, &str), String> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if query.contains('@') {
        return Err("'?' in a user name or password must be written as %3F".to_owned());
    }
    Ok((rest, query))
}

fn query_pairs(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter(|pair| !pair.is_empty())
}

/// Quotes the name only: the caller has made sure that the query is not the end of a password.
fn unknown_query_key(pair: &str, allowed: &str) -> String {
    let name = pair.split('=').next().unwrap_or_default();
    format!("unknown query key {name:?}: {allowed}")
}

/// What stands before the last `@`, and after it.
fn split_credentials(authority: &str) -> (Option<&str>, &str) {
    match authority.rsplit_once('@') {
        Some((credentials, address)) => (Some(credentials), address),
        None => (None, authority),
    }
}

fn parse_credentials(credentials: Option<&str>) -> Result<(Option<String>, Option<Secret>), String> {
    let Some(credentials) = credentials else {
        return Ok((None, None));
    };
    if credentials.contains('@') {
        return Err("'@' in a user name or password must be written as %40".to_owned());
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
pub(super) fn parse_password(bytes: Vec<u8>) -> Result<Secret, String> {
    if bytes.is_empty() {
        return Err("the password is empty".to_owned());
    }
    if bytes == REDACTED.as_bytes() {
        return Err("*** is how respmux prints a password; write the password itself or use \
                    upstream.password_file"
            .to_owned());
    }
    Ok(Secret::new(bytes))
}

fn parse_db(text: &str) -> Result<u32, String> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { text.parse().ok().filter(|db| *db <= i32::MAX as u32) } else { None };
    number.ok_or_else(|| "the database must be a whole number such as 0".to_owned())
}

fn parse_host_port(text: &str) -> Result<Endpoint, String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or("expected :port after ']'")?)),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err("no host is named".to_owned());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_ipv6 = text.starts_with('[') && host.parse::<std::net::Ipv6Addr>().is_ok();
    if !is_ipv6 && (text.starts_with('[') || !host.chars().all(plain)) {
        return Err("the host is neither a name nor an IP address (IPv6 stands in [ ])".to_owned());
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => port.parse().ok().filter(|p| *p != 0).ok_or("the port must be 1 to 65535")?,
    };
    Ok(Endpoint::Tcp { host: host.to_owned(), port })
}

pub(super) fn socket_path(path: &Path) -> Result<PathBuf, String> {
    let length = path.as_os_str().len();
    if length == 0 {
        return Err("no path is named after unix:".to_owned());
    }
    if length > SOCKET_PATH_LIMIT {
        return Err(format!("a socket path has at most {SOCKET_PATH_LIMIT} bytes, this one {length}"));
    }
    Ok(path.to_owned())
}

fn decode_text(text: &str, what: &str) -> Result<String, String> {
    String::from_utf8(decode(text)?).map_err(|_| format!("the {what} is not UTF-8"))
}

/// Percent-decoding.
fn decode(text: &str) -> Result<Vec<u8>, String> {
    let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => decoded.push((high * 16 + low) as u8),
            _ => {
                return Err("'%' must be followed by two hexadecimal digits (%25 is '%')".to_owned());
            }
        }
    }
    Ok(decoded)
}

/// Percent-encoding of all but letters, digits, `-._~` and the bytes of `kept`.
fn encode(text: &str, kept: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || kept.as_bytes().contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
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
    fn listen_addresses() {
        for text in ["127.0.0.1:6380", "[::1]:0", "unix:/run/r.sock", "unix:////r"] {
            assert_eq!(Listen::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Listen::parse("unix:///r").unwrap(), Listen::Unix(PathBuf::from("/r")));
        for text in ["", "6380", ":6380", "localhost:6380", "127.0.0.1", "unix:"] {
            assert!(Listen::parse(text).is_err(), "{text:?}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(Listen::parse(&long).unwrap_err().contains("at most 107 bytes"));
    }

    #[test]
    fn what_is_local_and_what_is_remote() {
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
        for (text, remote) in [
            ("127.0.0.1:1", false),
            ("[::1]:1", false),
            ("unix:/s", false),
            ("0.0.0.0:1", true),
            ("[::]:1", true),
            ("10.0.0.1:1", true),
        ] {
            assert_eq!(Listen::parse(text).unwrap().is_remote(), remote, "{text}");
        }
    }
}

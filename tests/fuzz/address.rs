//! Addresses: what is understood prints so that it is understood again, and no error shows a password.

use respmux::internals::config::{Listen, read_upstream};

use crate::engine::{Target, behaviour};
use crate::mutate;

/// A part of the password in every URL that has one.
const SECRET: &str = "hunter2";

/// URLs of upstreams, and listening addresses.
pub(crate) struct Addresses;

impl Target for Addresses {
    fn name(&self) -> &'static str {
        "addresses"
    }

    fn corpus(&self) -> Vec<Vec<u8>> {
        mutate::corpus(include_str!("corpus/addresses.txt"))
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"redis://",
            b"valkey://",
            b"unix://",
            b"unix:",
            b"rediss://",
            b"hunter2",
            b":",
            b"@",
            b"/",
            b"?",
            b"#",
            b"%40",
            b"%",
            b"%zz",
            b"[::1]",
            b"[",
            b"]",
            b"127.0.0.1",
            b"h",
            b":6379",
            b":0",
            b":65536",
            b"/0",
            b"/99999999999",
            b"?db=1",
            b"&",
            b"=",
            b"db",
            b"***",
            b"\xc3\xa9",
            b"\0",
            b"localhost",
            b"user",
        ]
    }

    fn run(&mut self, input: &[u8]) -> Result<u64, String> {
        let text = String::from_utf8_lossy(input);
        let listen = match text.parse::<Listen>() {
            Ok(listen) if listen.to_string().parse() != Ok(listen.clone()) => {
                return Err(format!("{listen} does not mean what it came from"));
            }
            Ok(_) => 1,
            Err(_) => 2,
        };
        let kind = match read_upstream(&text) {
            Ok((endpoint, printed)) => {
                check_printed(&text, &printed)?;
                (format!("{endpoint:?}").get(..4).map(str::to_owned), printed.matches([':', '@', '/', '?']).count())
            }
            Err(reason) => {
                if in_password(&text) && reason.contains(SECRET) {
                    return Err(format!("the password is shown: {reason}"));
                }
                (reason.get(..20).map(str::to_owned), 0)
            }
        };
        Ok(behaviour((listen, kind)))
    }

    fn weigh(&mut self, input: &[u8]) {
        let text = String::from_utf8_lossy(input);
        let _ = (text.parse::<Listen>(), read_upstream(&text));
    }
}

/// Whether the secret is between the first `:` after the scheme and the last `@`, and nowhere else.
fn in_password(text: &str) -> bool {
    let plain = text.strip_prefix("unix:").unwrap_or(text);
    let rest = text.split_once("://").map_or(plain, |(_, rest)| rest);
    let Some((credentials, _)) = rest.rsplit_once('@') else { return false };
    let Some((_, password)) = credentials.split_once(':') else { return false };
    text.matches(SECRET).count() == password.matches(SECRET).count()
}

fn check_printed(text: &str, printed: &str) -> Result<(), String> {
    // A secret behind the first slash is a part of a path.
    let before_path = printed.split_once("://").map_or(printed, |(_, rest)| rest).split('/').next().unwrap_or_default();
    if in_password(text) && before_path.contains(SECRET) {
        return Err(format!("the password is printed: {printed}"));
    }
    // A password prints as ***, which is no password: another one takes its place.
    let again = printed.replace(":***@", ":x@");
    match read_upstream(&again) {
        Ok((_, second)) if second == printed => Ok(()),
        other => Err(format!("printed as {printed}, which is read as {other:?}")),
    }
}

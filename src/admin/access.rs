//! Who may do more than look: somebody on this machine, or who shows the token.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST};
use subtle::ConstantTimeEq;

use crate::config::SecretSource;

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denial {
    /// There is no token, and the request comes from another machine.
    Remote,
    /// A token is wanted, and there was none.
    NoToken,
    /// The request came with another token.
    WrongToken,
    /// The token could not be read; see the log.
    NoSecret,
    /// From this machine, under a name that somebody else may have given to it: a web page in a browser here.
    StrangeHost,
}

impl Denial {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Remote => "only from this machine; for others set admin_token_file\n",
            Self::NoToken => "a bearer token is needed\n",
            Self::WrongToken => "this is not the token\n",
            Self::NoSecret => "the token cannot be read; see the log\n",
            Self::StrangeHost => "the Host header must be an address or localhost\n",
        }
    }
}

/// Whether a request with these headers, from `peer`, may do more than look.
pub(super) fn check(head: &HeaderMap, peer: IpAddr, token: Option<&SecretSource>) -> Result<(), Denial> {
    if let Some(shown) = bearer(head) {
        let Some(token) = token else { return Err(Denial::WrongToken) };
        let secret = token.read().map_err(|error| {
            tracing::error!(%error, "the token of the admin port cannot be read");
            Denial::NoSecret
        })?;
        return if bool::from(secret.expose().ct_eq(shown)) { Ok(()) } else { Err(Denial::WrongToken) };
    }
    match (peer.to_canonical().is_loopback(), token) {
        (true, _) if is_our_name(head) => Ok(()),
        (true, _) => Err(Denial::StrangeHost),
        (false, Some(_)) => Err(Denial::NoToken),
        (false, None) => Err(Denial::Remote),
    }
}

fn bearer(head: &HeaderMap) -> Option<&[u8]> {
    let value = head.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// A web page whose name was pointed at 127.0.0.1 would be of the same origin; no page has an address for a name.
fn is_our_name(head: &HeaderMap) -> bool {
    let Some(host) = head.get(HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost") || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn asked(peer: &str, headers: &[(&'static str, &'static str)], token: Option<&SecretSource>) -> Result<(), Denial> {
        let head = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        check(&head, peer.parse().unwrap(), token)
    }

    #[test]
    fn this_machine_may_and_others_need_the_token() {
        let token = SecretSource::Inline(Secret::new(*b"s3cret"));
        let host = ("host", "127.0.0.1:9380");
        for peer in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(asked(peer, &[host], None), Ok(()), "{peer}");
            assert_eq!(asked(peer, &[host], Some(&token)), Ok(()), "{peer}");
        }
        assert_eq!(asked("10.0.0.1", &[host], None), Err(Denial::Remote));
        assert_eq!(asked("10.0.0.1", &[host], Some(&token)), Err(Denial::NoToken));
        assert_eq!(asked("10.0.0.1", &[("authorization", "bearer s3cret")], Some(&token)), Ok(()));
        for wrong in ["Bearer s3cre", "Bearer s3cret ", "Bearer ", "Bearer S3CRET"] {
            let seen = asked("10.0.0.1", &[("authorization", wrong)], Some(&token));
            assert_eq!(seen, Err(Denial::WrongToken), "{wrong:?}");
        }
        assert_eq!(asked("10.0.0.1", &[("authorization", "Basic s3cret")], Some(&token)), Err(Denial::NoToken));
        // A wrong token is wrong here as well, also where there is none.
        assert_eq!(asked("::1", &[host, ("authorization", "Bearer x")], None), Err(Denial::WrongToken));
    }

    #[test]
    fn a_name_that_a_web_page_may_have_is_not_ours() {
        for good in ["localhost", "LOCALHOST:9380", "127.0.0.1", "127.0.0.1:80", "[::1]:9380", "10.1.2.3:1"] {
            assert_eq!(asked("127.0.0.1", &[("host", good)], None), Ok(()), "{good}");
        }
        for bad in ["evil.example:9380", "localhost.evil.example", "", "::x", "127.0.0.1.evil.example"] {
            assert_eq!(asked("127.0.0.1", &[("host", bad)], None), Err(Denial::StrangeHost), "{bad}");
        }
        assert_eq!(asked("127.0.0.1", &[], None), Err(Denial::StrangeHost));
    }

    #[test]
    fn a_token_is_read_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = SecretSource::File(path.clone());
        let ask = || asked("10.0.0.1", &[("authorization", "Bearer two")], Some(&token));
        assert_eq!(ask(), Err(Denial::NoSecret));
        std::fs::write(&path, "one\n").unwrap();
        assert_eq!(ask(), Err(Denial::WrongToken));
        std::fs::write(&path, "two\n").unwrap();
        assert_eq!(ask(), Ok(()));
    }
}

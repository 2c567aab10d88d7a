//! `[[auth.users]]`: who may log in when respmux itself judges it. Pure.

use std::fmt;
use std::path::PathBuf;

use super::raw::Raw;
use super::secret::{REDACTED, SecretSource};

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// As in AUTH; not empty.
    pub name: String,
    /// Any of these passwords serves. Empty only with `nopass`.
    pub hashes: Hashes,
    /// Every password serves, and for `default` none is needed.
    pub nopass: bool,
    /// Who the user is to the upstream; `None` is who respmux is.
    pub upstream: Option<(String, SecretSource)>,
    /// Commands that it may not run, in place of `commands.deny`.
    pub deny: Option<Vec<String>>,
    /// What it may do with PROXY, in place of `auth.proxy_read` and `auth.proxy_write`.
    pub proxy: Option<ProxyRight>,
}

/// SHA-256 of passwords. Not printed: a weak password can be guessed from its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Hashes(pub Vec<[u8; 32]>);

impl fmt::Debug for Hashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// What a user may do with PROXY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProxyRight {
    /// Nothing.
    None,
    /// Ask.
    Read,
    /// Ask and change.
    Write,
}

/// A row of a table, taken apart.
type Row = [(String, Raw)];

impl User {
    /// Understands one table. No error quotes a value.
    pub(super) fn parse(row: &Row) -> Result<Self, String> {
        const KNOWN: [&str; 7] =
            ["name", "password_sha256", "nopass", "upstream_user", "upstream_password_file", "deny", "proxy"];
        let name = text(row, "name")?.filter(|name| !name.is_empty()).ok_or("a user without a name")?;
        let fail = |reason: &str| Err(format!("{name:?}: {reason}"));
        if let Some((unknown, _)) = row.iter().find(|(key, _)| !KNOWN.contains(&key.as_str())) {
            return fail(&format!("unknown key {unknown:?}; there are {}", KNOWN.join(", ")));
        }
        let hashes = texts(row, "password_sha256")?.unwrap_or_default();
        let Some(hashes) = hashes.iter().map(|hash| digest(hash)).collect::<Option<Vec<_>>>() else {
            return fail("password_sha256 must be 64 hexadecimal digits, or an array of such");
        };
        let nopass = match find(row, "nopass") {
            None => false,
            Some(Raw::Boolean(on)) => *on,
            Some(_) => return fail("nopass must be true or false"),
        };
        if nopass != hashes.is_empty() {
            return fail("needs either password_sha256 or nopass = true");
        }
        let upstream = match (text(row, "upstream_user")?, text(row, "upstream_password_file")?) {
            (None, None) => None,
            (user, Some(path)) => {
                Some((user.unwrap_or_else(|| "default".into()), SecretSource::File(PathBuf::from(path))))
            }
            (Some(_), None) => return fail("upstream_user needs upstream_password_file"),
        };
        if nopass && name == "default" && upstream.is_some() {
            return fail("clients that do not log in are who respmux is: set upstream.username instead");
        }
        let proxy = match text(row, "proxy")?.as_deref() {
            None => None,
            Some("none") => Some(ProxyRight::None),
            Some("read") => Some(ProxyRight::Read),
            Some("write") => Some(ProxyRight::Write),
            Some(_) => return fail("proxy must be \"none\", \"read\" or \"write\""),
        };
        Ok(Self { hashes: Hashes(hashes), nopass, upstream, deny: texts(row, "deny")?, proxy, name })
    }
}

fn find<'a>(row: &'a Row, key: &str) -> Option<&'a Raw> {
    row.iter().find(|(name, _)| name == key).map(|(_, raw)| raw)
}

fn text(row: &Row, key: &str) -> Result<Option<String>, String> {
    let text = |raw: &Raw| raw.text().map(str::to_owned).ok_or_else(|| format!("{key} must be a text"));
    find(row, key).map(text).transpose()
}

fn texts(row: &Row, key: &str) -> Result<Option<Vec<String>>, String> {
    let Some(raw) = find(row, key) else { return Ok(None) };
    let texts = raw.texts().ok_or_else(|| format!("{key} must be a text or an array of texts"))?;
    Ok(Some(texts.into_iter().map(str::to_owned).collect()))
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let is_hex = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok());
    bytes.collect::<Option<Vec<_>>>().filter(|_| is_hex)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ProxyRight};

    const HASH: &str = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";

    fn load(users: &str) -> Result<Config, String> {
        Config::from_toml(&format!("auth.mode = 'terminate'\n{users}")).map_err(|problems| problems.to_string())
    }

    #[test]
    fn users_are_read_and_their_hashes_are_not_printed() {
        let text = format!(
            "[[auth.users]]\nname = 'app'\npassword_sha256 = ['{HASH}', '{}']\nproxy = 'read'\ndeny = ['KEYS']\n\
             [[auth.users]]\nname = 'default'\nnopass = true\n",
            HASH.to_uppercase()
        );
        let config = load(&text).unwrap();
        let app = config.auth.user(b"app").unwrap();
        assert_eq!((app.hashes.0.len(), app.hashes.0[0][..2].to_vec()), (2, vec![0x5e, 0x88]));
        assert_eq!((app.proxy, app.deny.clone()), (Some(ProxyRight::Read), Some(vec!["KEYS".to_owned()])));
        assert!(config.auth.user(b"default").unwrap().nopass && config.auth.user(b"other").is_none());
        assert!(!format!("{config:?}").contains("94, 136"), "the first bytes of the hash: {config:?}");
    }

    #[test]
    fn what_is_wrong_is_said_without_the_hash() {
        let cases = [
            ("", "needs auth.users"),
            ("[[auth.users]]\nname = 'a'", "\"a\": needs either password_sha256 or nopass = true"),
            ("[[auth.users]]\nnopass = true", "a user without a name"),
            ("[[auth.users]]\nname = 'a'\npassword_sha256 = 'hunter2'", "\"a\": password_sha256 must be 64"),
            ("[[auth.users]]\nname = 'a'\npassword_sha256 = 7", "must be a text or an array of texts"),
            ("[[auth.users]]\nname = 'a'\nnopass = true\nrole = 'x'", "unknown key \"role\""),
            ("[[auth.users]]\nname = 'a'\nnopass = true\nupstream_user = 'x'", "needs upstream_password_file"),
            ("[[auth.users]]\nname = 'a'\nnopass = true\nproxy = 'all'", "proxy must be"),
            ("[[auth.users]]\nname = 'a'\nnopass = true\n[[auth.users]]\nname = 'a'\nnopass = true", "there twice"),
            ("auth.users = 'hunter2'", "expected an array of tables"),
        ];
        for (text, expected) in cases {
            let problems = load(text).unwrap_err();
            assert!(problems.contains(expected), "{text}: {problems}");
            assert!(!problems.contains("hunter2"), "{problems}");
        }
    }
}

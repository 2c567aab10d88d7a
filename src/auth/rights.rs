//! Who may ask and who may change something with PROXY.

use std::collections::HashMap;

use crate::config::{Config, ProxyRight};

/// The rights of every user. One for each worker.
#[derive(Debug)]
pub struct Rights {
    users: HashMap<Vec<u8>, ProxyRight>,
    others: ProxyRight,
}

impl Rights {
    /// As configured.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let auth = &config.auth;
        let any = |names: &[String]| names.iter().any(|name| name == "any");
        let others = match (any(&auth.proxy_write), any(&auth.proxy_read)) {
            (true, _) => ProxyRight::Write,
            (false, true) => ProxyRight::Read,
            (false, false) => ProxyRight::None,
        };
        let mut users = HashMap::new();
        for (names, right) in [(&auth.proxy_read, ProxyRight::Read), (&auth.proxy_write, ProxyRight::Write)] {
            for name in names {
                // The name that stands in both lists may write.
                users.insert(name.as_bytes().to_vec(), right.max(others));
            }
        }
        for user in &auth.users {
            if let Some(right) = user.proxy {
                users.insert(user.name.as_bytes().to_vec(), right);
            }
        }
        Self { users, others }
    }

    /// What the user `name` may do.
    #[must_use]
    pub fn of(&self, name: &[u8]) -> ProxyRight {
        self.users.get(name).copied().unwrap_or(self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_words_and_a_users_own_right() {
        let of = |text: &str, name: &str| Rights::new(&Config::from_toml(text).unwrap()).of(name.as_bytes());
        assert_eq!(of("", "x"), ProxyRight::Read);
        let lists = "[auth]\nproxy_read = ['a', 'b']\nproxy_write = 'b'";
        assert_eq!(
            ["a", "b", "c"].map(|name| of(lists, name)),
            [ProxyRight::Read, ProxyRight::Write, ProxyRight::None]
        );
        assert_eq!(of("[auth]\nproxy_write = ['any']\nproxy_read = ['a']", "a"), ProxyRight::Write);
        let own = "[auth]\nmode = 'terminate'\n[[auth.users]]\nname = 'a'\nnopass = true\nproxy = 'none'";
        assert_eq!(["a", "b"].map(|name| of(own, name)), [ProxyRight::None, ProxyRight::Read]);
    }
}

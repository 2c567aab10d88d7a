//! Which commands are forbidden to whom, as the configuration says it.

use std::collections::HashMap;

use crate::command::{CommandTable, Policy};
use crate::config::Config;
use crate::session::Identity;

/// The command table with what the configuration forbids.
///
/// # Errors
/// A name that means nothing.
pub fn table(config: &Config) -> anyhow::Result<CommandTable> {
    let mut table = CommandTable::new();
    let commands = &config.commands;
    table
        .forbid(Policy::default(), &commands.deny, &commands.allow)
        .map_err(|error| anyhow::anyhow!("commands.deny, commands.allow: {error}"))?;
    for (index, list) in lists(config).iter().enumerate() {
        let policy = numbered(index).ok_or_else(|| anyhow::anyhow!("auth.users: more than 30 different deny lists"))?;
        table.forbid(policy, list, &[]).map_err(|error| anyhow::anyhow!("auth.users: deny: {error}"))?;
    }
    Ok(table)
}

/// The different lists of users that have one of their own.
fn lists(config: &Config) -> Vec<&[String]> {
    let mut lists: Vec<&[String]> = Vec::new();
    for list in config.auth.users.iter().filter_map(|user| user.deny.as_deref()) {
        if !lists.contains(&list) {
            lists.push(list);
        }
    }
    lists
}

/// The policy of list `index`; number 0 is `commands.deny`.
fn numbered(index: usize) -> Option<Policy> {
    Policy::numbered(u8::try_from(index + 1).ok()?)
}

/// The policy of each user. One for each worker.
#[derive(Debug)]
pub struct Policies {
    /// Clients that do not log in.
    implicit: Vec<u8>,
    others: HashMap<Vec<u8>, Policy>,
}

impl Policies {
    /// As configured.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let exempt = config.commands.exempt.iter().map(|user| (user.as_bytes().to_vec(), Policy::ALLOW_ALL));
        let upstream_user = if config.auth.terminate { None } else { config.upstream.username.as_deref() };
        let implicit = upstream_user.unwrap_or("default").into();
        let mut others: HashMap<_, _> = exempt.collect();
        let lists = lists(config);
        for user in &config.auth.users {
            let index = lists.iter().position(|list| user.deny.as_deref() == Some(*list));
            if let Some(policy) = index.and_then(numbered) {
                others.insert(user.name.as_bytes().to_vec(), policy);
            }
        }
        Self { implicit, others }
    }

    /// What holds for `identity`.
    #[must_use]
    pub fn of(&self, identity: &Identity) -> Policy {
        self.others.get(self.name_of(identity)).copied().unwrap_or_default()
    }

    /// The user's name, also where the client did not say it.
    #[must_use]
    pub fn name_of<'a>(&'a self, identity: &'a Identity) -> &'a [u8] {
        match identity {
            Identity::Implicit => &self.implicit,
            Identity::User(name) => name,
        }
    }
}

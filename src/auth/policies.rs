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
    Ok(table)
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
        let implicit = config.upstream.username.as_deref().unwrap_or("default").into();
        Self { implicit, others: exempt.collect() }
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

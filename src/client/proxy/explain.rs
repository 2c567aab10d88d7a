//! PROXY EXPLAIN: the route of a command in words.

use crate::client::request::Request;
use crate::command::{CommandTable, Lookup};
use crate::router::{Args, FreeRoute};

/// The arguments of a request from one of them on, as a request of their own.
pub(in crate::client) struct Tail<'a> {
    request: &'a Request,
    from: usize,
}

impl<'a> Tail<'a> {
    pub(in crate::client) fn new(request: &'a Request, from: usize) -> Self {
        Self { request, from }
    }
}

impl Args for Tail<'_> {
    fn count(&self) -> usize {
        self.request.count() - self.from
    }
    fn nth(&self, index: usize) -> &[u8] {
        self.request.nth(index + self.from)
    }
}

/// What the command is, which way it takes, and why.
pub(in crate::client) fn explain(
    table: &CommandTable,
    lookup: Lookup,
    route: FreeRoute,
    command: &impl Args,
) -> Vec<String> {
    let name = match lookup {
        Lookup::Known(id) => table.spec(id).full_name(),
        _ => String::from_utf8_lossy(command.nth(0)).to_lowercase(),
    };
    let (way, why) = route.words();
    let arity = match lookup {
        Lookup::Known(id) if !table.spec(id).arity_fits(command.count()) => {
            Some("note: wrong number of arguments; the server says so".to_owned())
        }
        _ => None,
    };
    let mut lines = vec![format!("command: {name}"), format!("route: {way}"), format!("why: {why}")];
    lines.extend(arity);
    lines
}

//! Every error text that respmux itself can send, in one place (docs/design/semantics.md 10.2). Lines without the dash.

use std::time::Duration;

use crate::command::CommandTable;
use crate::router::{PinReason, Refusal};
use crate::session::Flavour;

use super::request::Request;
use crate::command::{Lookup, Op, cut_at_nul};
use crate::link::DialError;
use crate::router::Args;
use crate::upstream::LeaseError;

pub(super) use crate::upstream::NOT_EXECUTED;

pub(super) const SYNTAX: &[u8] = b"ERR syntax error";
pub(super) const PROXY_OFF: &[u8] = b"ERR PROXY is switched off (client.proxy_commands = false)";
/// To whoever wants to see something.
pub(super) const PROXY_UNASKED: &[u8] = b"ERR the upstream cannot be asked now whether this user may do that: until it answers, PROXY can be read from this machine only (loopback or unix socket)";
/// To whoever wants to change something.
pub(super) const PROXY_UNKNOWN: &[u8] = b"ERR the upstream cannot be asked now who you are: until it answers, a new client cannot change anything with PROXY; use the admin port or signals";
pub(super) const NOTICES_NEED_RESP3: &[u8] = b"ERR CLIENT MAINT_NOTIFICATIONS needs RESP3: send HELLO 3 first";
pub(super) const NO_ENDPOINT: &[u8] =
    b"ERR CLIENT MAINT_NOTIFICATIONS: no endpoint is configured here (drain.endpoint), only moving-endpoint-type none";
pub(super) const NOT_AN_INTEGER: &[u8] = b"ERR value is not an integer or out of range";
pub(super) const NOT_AN_INT: &[u8] = b"ERR value is out of range, value must between -2147483648 and 2147483647";
pub(super) const DB_OUT_OF_RANGE: &[u8] = b"ERR DB index is out of range";
pub(super) const NO_SUCH_CLIENT: &[u8] = b"ERR No such client";
pub(super) const BAD_PROTOCOL_VERSION: &[u8] = b"ERR Protocol version is not an integer or out of range";
pub(super) const NO_PROTOCOL: &[u8] = b"NOPROTO unsupported protocol version";
pub(super) const CACHING_WITHOUT_TRACKING: &[u8] =
    b"ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled";
pub(super) const EXEC_ABORT: &[u8] = b"EXECABORT Transaction discarded because of previous errors.";
/// In place of a number that might not be true (rule W3).
pub(super) const WAIT_UNSOUND: &[u8] =
    b"ERR WAIT is not available: the proxy's own user may use neither ROLE nor SPUBLISH, and this user may not use SPUBLISH";
pub(super) const TIMEOUT_NO_INTEGER: &[u8] = b"ERR timeout is not an integer or out of range";
pub(super) const TIMEOUT_NEGATIVE: &[u8] = b"ERR timeout is negative";
pub(super) const TIMEOUT_OUT_OF_RANGE: &[u8] = b"ERR timeout is out of range";
/// The server was demoted; the client is closed behind it, as on a server (docs/design/semantics.md 7.1).
pub(super) const FORCED_UNBLOCK: &[u8] =
    b"UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)";
/// A second hub for one client would lose the order between its subscriptions (rule P3).
pub(super) const SUBSCRIBED_AS_ANOTHER: &[u8] =
    b"ERR this connection has subscriptions as another user, unsubscribe first";
pub(super) const WRONG_PASSWORD: &[u8] = b"WRONGPASS invalid username-password pair or user is disabled.";
pub(super) const NO_PASSWORD_SET: &[u8] = b"ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?";
/// Only where respmux judges logins itself; elsewhere the server says it in its own words.
pub(super) const HELLO_NOAUTH: &[u8] = b"NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";
pub(super) const LOGIN_WHILE_PINNED: &[u8] =
    b"ERR another user cannot log in on this connection now: end its transaction, WATCH or subscription first";
const NOAUTH: &str = "NOAUTH Authentication required.";
/// Not LOADING, as what the pool cannot give: a client that connects anew and tries again would run the command outside
/// the transaction that it was meant for.
const POISONED: &[u8] =
    b"ERR no transaction connection available, try again (MULTI was not started; send DISCARD first)";
/// The server's default text, for DEBUG of a client that is on another machine (rule A9).
const DEBUG: &str = "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from a local connection, otherwise you need to set this option in the configuration file, and then restart the server.";
/// The server's default text (rule A9).
const MODULE: &str = "ERR MODULE command not allowed. If the enable-module-command option is set to \"local\", you can run it from a local connection, otherwise you need to set this option in the configuration file, and then restart the server.";
/// How much of an unknown command's name, and of its arguments, servers repeat.
const ECHOED: usize = 128;

/// What a refused command is answered. `login_first` is how the upstream orders its checks (rule A5).
pub(super) fn refusal(table: &CommandTable, request: &Request, refusal: Refusal, login_first: bool) -> Vec<u8> {
    match refusal {
        Refusal::NotAuthenticated => not_authenticated(table, request, login_first),
        Refusal::Denied => denied(table, request, Flavour::default(), b"default"),
        // Only a client without a login gets here. Valkey 9 looks at that first (rule A5).
        Refusal::WrongArity(id) if login_first => {
            debug_assert!(!table.spec(id).arity_fits(request.count()));
            NOAUTH.into()
        }
        Refusal::WrongArity(id) => wrong_arity(&table.spec(id).full_name()),
        Refusal::Subscribed(id) => format!(
            "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
            table.spec(id).full_name()
        )
        .into(),
        Refusal::NotSupported | Refusal::ScriptDebug => {
            let name = match request.lookup() {
                Lookup::Known(id) => table.spec(id).name.clone(),
                _ => String::from_utf8_lossy(request.nth(0)).to_ascii_uppercase(),
            };
            format!("ERR {name} is not supported through this proxy").into()
        }
        Refusal::Debug => DEBUG.into(),
        Refusal::Module => MODULE.into(),
        Refusal::UnknownSubcommand => unknown_subcommand("CLIENT", request),
        Refusal::UnknownCommand => unknown_command(request),
        Refusal::InTransaction => {
            let name = String::from_utf8_lossy(request.nth(0)).to_ascii_lowercase();
            format!("ERR Command '{name}' not allowed inside a transaction through this proxy").into()
        }
        Refusal::Poisoned => POISONED.into(),
    }
}

/// `-ERR unknown subcommand 'x'. Try CLIENT HELP.` as servers write it.
pub(super) fn unknown_subcommand(container: &str, request: &Request) -> Vec<u8> {
    unknown_word(container, request.nth(1))
}

/// `-ERR unknown subcommand`, for a word behind the subcommand.
pub(super) fn unknown_word(container: &str, word: &[u8]) -> Vec<u8> {
    let mut text = b"ERR unknown subcommand '".to_vec();
    // As C prints it: the server stops at the first NUL byte.
    let typed = cut_at_nul(word);
    text.extend_from_slice(&typed[..typed.len().min(ECHOED)]);
    text.extend_from_slice(format!("'. Try {container} HELP.").as_bytes());
    text
}

pub(super) fn wrong_arity(name: &str) -> Vec<u8> {
    format!("ERR wrong number of arguments for '{name}' command").into()
}

/// As a server refuses a command to a user without the right to it.
pub(super) fn denied(table: &CommandTable, request: &Request, flavour: Flavour, user: &[u8]) -> Vec<u8> {
    let name = match request.lookup() {
        Lookup::Known(id) => table.spec(id).full_name(),
        Lookup::UnknownSubcommand(id) => table.spec(id).full_name(),
        Lookup::Nul | Lookup::Unknown => {
            String::from_utf8_lossy(cut_at_nul(request.nth(0))).to_lowercase().replace(['\r', '\n'], " ")
        }
    };
    let who = match flavour.valkey || flavour.at_least(7, 2) {
        true => format!("User {}", String::from_utf8_lossy(user)),
        false => "this user".to_owned(),
    };
    format!("NOPERM {who} has no permissions to run the '{name}' command").into()
}

/// A login that nobody has looked at.
pub(super) fn throttled(left: Duration) -> Vec<u8> {
    let seconds = left.as_secs().max(1);
    format!("ERR too many failed logins from this address: not checked, try again in {seconds} s").into()
}

/// What the pool could not give. Nothing was written, which is what clients take LOADING for: most try again by
/// themselves (deploy/clients.md).
pub(super) fn pool_exhausted(reason: PinReason) -> &'static [u8] {
    match reason {
        PinReason::Transaction | PinReason::Watch => {
            b"LOADING no transaction connection available, command was not executed, try again"
        }
        PinReason::Blocking | PinReason::Wait => {
            b"LOADING no blocking connection available, command was not executed, try again"
        }
        PinReason::Subscribe
        | PinReason::Monitor
        | PinReason::Tracking
        | PinReason::Session
        | PinReason::Isolated
        | PinReason::OutOfBand
        | PinReason::Paused
        | PinReason::Large
        | PinReason::Overflow => b"LOADING no dedicated connection available, command was not executed, try again",
    }
}

/// What a client is told whose command found no connection.
pub(super) fn no_lease(reason: PinReason, error: LeaseError) -> Vec<u8> {
    match error {
        LeaseError::Exhausted => pool_exhausted(reason).to_vec(),
        LeaseError::Dial(DialError::Unavailable { .. }) => NOT_EXECUTED.to_vec(),
        LeaseError::Dial(DialError::State(text)) => text,
        LeaseError::Dial(DialError::Identity(text)) if text.starts_with(b"NOAUTH") => {
            b"NOAUTH Authentication required.".to_vec()
        }
        LeaseError::Dial(DialError::Identity(_)) => {
            b"ERR respmux could not log in to the upstream, command was not executed".to_vec()
        }
    }
}

/// Whether a command was refused with `line` because no connection was there for it: the server has said nothing.
pub(super) fn is_for_want_of_a_connection(line: &[u8]) -> bool {
    line == NOT_EXECUTED || line == pool_exhausted(PinReason::Overflow)
}

/// A client that has not logged in gets what the server would say: Redis looks at name and arity first, Valkey 9
/// does not.
fn not_authenticated(table: &CommandTable, request: &Request, login_first: bool) -> Vec<u8> {
    let known = match request.lookup() {
        Lookup::Known(id) => Some(table.spec(id)),
        Lookup::UnknownSubcommand(_) | Lookup::Nul | Lookup::Unknown => None,
    };
    // EXEC's own wording says that the transaction is gone, so that clients do not send it again.
    if known.is_some_and(|spec| spec.op == Op::Exec) {
        return format!("EXECABORT Transaction discarded because of: {NOAUTH}").into();
    }
    match known {
        _ if login_first => NOAUTH.into(),
        Some(spec) if !spec.arity_fits(request.count()) => wrong_arity(&spec.full_name()),
        Some(_) => NOAUTH.into(),
        None => match request.lookup() {
            Lookup::UnknownSubcommand(id) => unknown_subcommand(&table.spec(id).name, request),
            _ => match table.lookup(request.nth(0), None) {
                // A NUL byte in the subcommand.
                Lookup::Known(id) => unknown_subcommand(&table.spec(id).name, request),
                _ => unknown_command(request),
            },
        },
    }
}

fn unknown_command(request: &Request) -> Vec<u8> {
    let name = cut_at_nul(request.nth(0));
    let mut arguments = Vec::new();
    for argument in request.args_from(1) {
        if arguments.len() >= ECHOED {
            break;
        }
        // The bound is for all arguments together, and the last one is cut at it.
        let room = ECHOED - arguments.len();
        let argument = cut_at_nul(argument);
        arguments.push(b'\'');
        arguments.extend_from_slice(&argument[..argument.len().min(room)]);
        arguments.extend_from_slice(b"' ");
    }
    let mut text = b"ERR unknown command '".to_vec();
    text.extend_from_slice(&name[..name.len().min(ECHOED)]);
    text.extend_from_slice(b"', with args beginning with: ");
    text.extend_from_slice(&arguments);
    text
}

//! A client's line in CLIENT LIST and INFO. The format differs over versions, so a line of the upstream is the template.
//! What a client's state is on the connection that it holds, the line of that connection says; everything else is known
//! here.

use crate::client::directory::filter::field;
use crate::client::directory::line::{ClientLine, Transport};
use crate::command::{CommandId, CommandTable};
use crate::telemetry::PinReason;

/// Written where the upstream gives no line to copy from.
pub(in crate::client) const FALLBACK: &str = "id=0 addr= laddr= fd=0 name= age=0 idle=0 flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=1024 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd=NULL user=default redir=-1 resp=2";

/// Every field of every version, for filters.
pub(in crate::client) const ALL_FIELDS: &str =
    "id=0 addr= laddr= name= age=0 idle=0 flags=N capa= db=0 user= lib-name= lib-ver=";

/// The order in which servers write the flags.
const FLAGS: &str = "SOMPxbtRBdcuAUreTIi";
/// What these say of a connection is never about its client: how the link is made, or who it is for.
const OF_THE_LINK: &str = "NSMeUcuA";

/// The line of a client in the format of `template`. `own` is the line of the connection that it holds, if it does.
pub(in crate::client) fn render(table: &CommandTable, template: &str, own: Option<&str>, line: &ClientLine) -> String {
    let mut text = String::with_capacity(template.len() + 32);
    for pair in template.trim_end().split(' ') {
        let (name, old) = pair.split_once('=').unwrap_or((pair, ""));
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(name);
        text.push('=');
        text.push_str(&value(table, name, old, own, line));
    }
    text
}

/// One field: from the client; from the line of its connection, for what only the server knows of that; or as the
/// template has it, for a field that this version of respmux does not know.
fn value(table: &CommandTable, name: &str, old: &str, own: Option<&str>, line: &ClientLine) -> String {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let held = |idle: &str| own.and_then(|own| field(own, name)).unwrap_or(idle).to_owned();
    match name {
        "id" => line.id.to_string(),
        "addr" => line.addr.clone(),
        "laddr" => line.laddr.clone(),
        "fd" => "0".into(),
        "name" => lossy(&line.name),
        "age" => line.age.to_string(),
        "idle" => line.idle.to_string(),
        "flags" => flags(own, line),
        "db" => line.db.to_string(),
        "sub" => line.channels.to_string(),
        "psub" => line.patterns.to_string(),
        "ssub" => line.shards.to_string(),
        // Valkey writes 0 from the first WATCH or MULTI on.
        "multi" if own.is_none() => {
            if line.multi < 0 {
                "-1".into()
            } else {
                line.multi.to_string()
            }
        }
        "multi" if !own.is_some_and(has_transaction) => "-1".into(),
        "multi" => held("-1"),
        "watch" | "multi-mem" => held("0"),
        "redir" => held("-1"),
        // RESET leaves it on the connection: it may be of an earlier client.
        "capa" if line.pin != Some(PinReason::Session) => String::new(),
        "capa" => held(""),
        "argv-mem" if line.arguments > 0 => line.arguments.to_string(),
        "argv-mem" => held("0"),
        // Servers that count the request that is carried out do so in the line of whoever asks.
        "qbuf" if line.request > 0 && old != "0" => line.request.to_string(),
        "qbuf-free" if line.request > 0 => old.to_owned(),
        "qbuf" | "qbuf-free" | "obl" | "oll" => "0".into(),
        "omem" | "tot-omem" => line.unsent.to_string(),
        "events" => {
            if line.unsent > 0 {
                "rw".into()
            } else {
                "r".into()
            }
        }
        "cmd" if line.command == CommandId::OTHER => "NULL".into(),
        "cmd" => table.spec(line.command).full_name(),
        "user" => lossy(&line.user),
        "resp" => line.resp.to_string(),
        "lib-name" => lossy(&line.lib_name),
        "lib-ver" => lossy(&line.lib_version),
        "tot-net-in" => line.received.to_string(),
        "tot-net-out" => line.sent.to_string(),
        _ => old.to_owned(),
    }
}

/// The connection watches, or is in MULTI: on Valkey its count stays 0 afterwards, whoever is lent it.
fn has_transaction(own: &str) -> bool {
    let marked = field(own, "flags").is_some_and(|flags| flags.contains(['x', 'd']));
    marked || field(own, "watch").is_some_and(|watch| watch != "0")
}

/// The marks that are known here, and those that the client's commands have left on the connection that it holds.
fn flags(own: Option<&str>, line: &ClientLine) -> String {
    let own = own.and_then(|own| field(own, "flags")).unwrap_or_default();
    let on_connection = |mark: char| own.contains(mark) && !OF_THE_LINK.contains(mark);
    let here = |mark| match mark {
        'O' => line.monitor,
        'P' => line.kind() == "pubsub",
        'x' => line.multi >= 0,
        'b' => line.blocked,
        'U' => matches!(line.transport, Transport::Unix { .. }),
        'r' => line.readonly,
        'e' => line.no_evict,
        'T' => line.no_touch,
        _ => false,
    };
    let flags: String = FLAGS.chars().filter(|mark| here(*mark) || on_connection(*mark)).collect();
    if flags.is_empty() { "N".into() } else { flags }
}

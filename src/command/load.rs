//! Reads `commands.tsv` (one row per command, with its class) into [`Spec`]s, and adds what a class does not say.

use super::family::Family;
use super::reply_mask::{Replies, replies};
use super::spec::{LatencyKind, Op, Pausing, Spec};

const TABLE: &str = include_str!("commands.tsv");

/// Rows whose meaning is finer than their class, as docs/design/semantics.md 5.2 has them.
const OPS: &[(&str, Op)] = &[
    ("ASKING", Op::Asking),
    ("AUTH", Op::Auth),
    ("CLIENT CACHING", Op::ClientCaching),
    ("CLIENT CAPA", Op::Session),
    ("CLIENT GETNAME", Op::ClientGetName),
    ("CLIENT GETREDIR", Op::ClientGetRedir),
    ("CLIENT ID", Op::ClientId),
    ("CLIENT IMPORT-SOURCE", Op::Session),
    ("CLIENT INFO", Op::ClientInfo),
    ("CLIENT KILL", Op::ClientKill),
    ("CLIENT LIST", Op::ClientList),
    ("CLIENT MAINT_NOTIFICATIONS", Op::ClientNotices),
    ("CLIENT NO-EVICT", Op::ClientNoEvict),
    ("CLIENT NO-TOUCH", Op::NoTouch),
    ("CLIENT PAUSE", Op::Pause),
    ("CLIENT REPLY", Op::ClientReply),
    ("CLIENT SETINFO", Op::ClientSetInfo),
    ("CLIENT SETNAME", Op::ClientSetName),
    ("CLIENT TRACKING", Op::Tracking),
    ("CLIENT TRACKINGINFO", Op::ClientTrackingInfo),
    ("CLIENT UNBLOCK", Op::ClientUnblock),
    ("CLIENT UNPAUSE", Op::Unpause),
    ("BLMOVEM", Op::Blocking),
    ("DEBUG", Op::Debug),
    ("DISCARD", Op::Discard),
    ("EXEC", Op::Exec),
    ("FAILOVER", Op::OutOfBand),
    ("FUNCTION KILL", Op::OutOfBand),
    ("FUNCTION STATS", Op::OutOfBand),
    ("HELLO", Op::Hello),
    ("HIMPORT", Op::Session),
    ("HIMPORT DISCARD", Op::Session),
    ("HIMPORT DISCARDALL", Op::Session),
    ("HIMPORT PREPARE", Op::Session),
    ("HIMPORT SET", Op::Session),
    ("HOST:", Op::CrossProtocol),
    ("MODULE LOAD", Op::Module),
    ("MODULE LOADEX", Op::Module),
    ("MODULE UNLOAD", Op::Module),
    ("MONITOR", Op::Monitor),
    ("MULTI", Op::Multi),
    ("POST", Op::CrossProtocol),
    ("PROXY", Op::Proxy),
    ("PSUBSCRIBE", Op::Subscribe),
    ("PUBLISH", Op::Publish),
    ("PUBSUB NUMSUB", Op::Numsub),
    ("PUBSUB SHARDNUMSUB", Op::Numsub),
    ("PUNSUBSCRIBE", Op::Unsubscribe),
    ("QUIT", Op::Quit),
    ("READONLY", Op::Readonly),
    ("READWRITE", Op::Readwrite),
    ("RESET", Op::Reset),
    ("SCRIPT DEBUG", Op::ScriptDebug),
    ("SCRIPT KILL", Op::OutOfBand),
    ("SELECT", Op::Select),
    ("SHUTDOWN", Op::OutOfBand),
    ("SPUBLISH", Op::Publish),
    ("SSUBSCRIBE", Op::Subscribe),
    ("SUBSCRIBE", Op::Subscribe),
    ("SUNSUBSCRIBE", Op::Unsubscribe),
    ("UNSUBSCRIBE", Op::Unsubscribe),
    ("UNWATCH", Op::Unwatch),
    ("WAIT", Op::Wait),
    ("WAITAOF", Op::Wait),
    ("WATCH", Op::Watch),
    ("XREAD", Op::StreamRead),
    ("XREADGROUP", Op::StreamRead),
];

/// Every row of the table, row 0 standing for what it does not list.
pub(super) fn specs() -> Vec<Spec> {
    let other = Spec {
        name: "OTHER".into(),
        op: Op::Isolated,
        kind: LatencyKind::Other,
        arity: 0,
        write: true,
        retry: false,
        reconfigures: false,
        in_unit: false,
        pausing: Pausing::ByFlags,
        family: Family::Channel,
        ping: false,
        container: false,
        unlisted: Op::Isolated,
        replies: Replies::ANY,
        denied: 0,
    };
    let mut rows: Vec<Spec> = std::iter::once(other).chain(TABLE.lines().filter_map(row)).collect();
    let containers: Vec<String> =
        rows.iter().filter_map(|s| s.name.split_once(' ').map(|(head, _)| head.to_owned())).collect();
    let replies = replies();
    for spec in &mut rows {
        spec.replies = replies.get(spec.name.as_str()).copied().unwrap_or(Replies::ANY);
        spec.container = containers.contains(&spec.name);
    }
    rows
}

/// One line; comments and the policy rows in angle brackets give nothing.
fn row(line: &str) -> Option<Spec> {
    let mut columns = line.split('\t');
    let name = columns.next()?;
    if name.starts_with('#') || name.starts_with('<') {
        return None;
    }
    let class = columns.next()?;
    // After the condition.
    let in_unit = columns.nth(1).is_some_and(|allowed| allowed == "yes" || name.starts_with("XREAD"));
    let again = columns.next() == Some("yes");
    let arity = columns.next().and_then(|a| a.parse().ok()).unwrap_or(0);
    let flags = columns.next().unwrap_or_default();
    let has = |flag: &str| flags.split(' ').any(|f| f == flag);
    let (op, kind) = (op(name, class), kind(name, class, &has));
    let writes = has("write") || has("may_replicate") || !has("readonly");
    Some(Spec {
        name: name.to_owned(),
        op,
        kind,
        // The flag is necessary, not sufficient.
        retry: again && op == Op::Plain && kind == LatencyKind::Read && !writes,
        arity,
        in_unit,
        reconfigures: matches!(name, "CONFIG SET" | "ACL SETUSER" | "ACL DELUSER" | "ACL LOAD"),
        write: has("write") || has("may_replicate") || kind == LatencyKind::Script || flags.is_empty(),
        pausing: pausing(name, has("write")),
        family: family(name),
        ping: name == "PING",
        container: false,
        // respmux answers CLIENT itself; any other container is the server's to know.
        unlisted: if name == "CLIENT" { Op::ClientUnknown } else { Op::Isolated },
        replies: Replies::ANY,
        denied: 0,
    })
}

/// Servers hold back what writes, and what may be replicated although it does not.
fn pausing(name: &str, writes: bool) -> Pausing {
    match name {
        "EVAL" | "EVALSHA" | "FCALL" => Pausing::ByFlags,
        "PUBLISH" | "SPUBLISH" | "PFCOUNT" => Pausing::Always,
        _ if writes => Pausing::Always,
        _ => Pausing::Never,
    }
}

fn family(name: &str) -> Family {
    match name {
        "PSUBSCRIBE" | "PUNSUBSCRIBE" => Family::Pattern,
        "SSUBSCRIBE" | "SUNSUBSCRIBE" | "SPUBLISH" | "PUBSUB SHARDNUMSUB" => Family::Shard,
        _ => Family::Channel,
    }
}

fn op(name: &str, class: &str) -> Op {
    if let Some((_, op)) = OPS.iter().find(|(row, _)| *row == name) {
        return *op;
    }
    match class {
        "shared" | "rewritten" => Op::Plain,
        "folded-blocking" => Op::BlockingPop,
        "refused" => Op::NotSupported,
        _ => Op::Isolated,
    }
}

fn kind(name: &str, class: &str, has: &dyn Fn(&str) -> bool) -> LatencyKind {
    let head = name.split(' ').next().unwrap_or(name);
    match head {
        "MULTI" | "EXEC" | "DISCARD" | "WATCH" | "UNWATCH" => LatencyKind::Transaction,
        "EVAL" | "EVALSHA" | "EVAL_RO" | "EVALSHA_RO" | "FCALL" | "FCALL_RO" => LatencyKind::Script,
        "PUBLISH" | "SPUBLISH" | "PUBSUB" => LatencyKind::Pubsub,
        "WAIT" | "WAITAOF" => LatencyKind::Blocking,
        _ if class == "pubsub" => LatencyKind::Pubsub,
        _ if class == "folded-blocking" => LatencyKind::Blocking,
        _ if has("admin") => LatencyKind::Admin,
        _ if has("write") => LatencyKind::Write,
        _ if has("readonly") => LatencyKind::Read,
        _ => LatencyKind::Other,
    }
}

//! PROXY: what respmux tells about itself over the protocol. Every answer is a list of text lines, so that redis-cli
//! shows it readably in either protocol.

use std::rc::Rc;

use bytes::BytesMut;

use super::connection::{Client, Closed};
use super::directory::{Line, Transport};
use super::error_reply;
use super::explain::{Tail, explain};
use super::request::Request;
use super::wish::Wish;
use crate::command::token_is;
use crate::config::ProxyRight;
use crate::resp::encode;
use crate::router::{Args, Held, route};
use crate::session::Resp;
use crate::telemetry::RefuseReason;
use crate::upstream::Report;

const HELP: &[&str] = &[
    "PROXY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CLIENTS",
    "    Return one line for each client of this process and what it is doing.",
    "DRAIN",
    "    Let every client finish what it does, then end the process, as SIGTERM does.",
    "EXPLAIN <command> [<arg> ...]",
    "    Return which way the command would take from this connection now, and why. It is not executed.",
    "INFO",
    "    Return version, cap, and numbers of clients and upstream connections.",
    "POOLS",
    "    Return for each worker and kind of upstream connection how many there may be and are, and who waits.",
    "PAUSE [<milliseconds>]",
    "    Begin no command of any client, and return when nothing is under way upstream: open transactions may end,",
    "    blocked pops are not waited for. An error, with nothing held, when that takes longer (10 seconds unless given).",
    "    Ends with RESUME, or after pause.max.",
    "RECONNECT",
    "    Retire every upstream connection: what was begun on it ends there, what follows is on a new one.",
    "RELOAD",
    "    Read the configuration again, as SIGHUP does; return what changed and what waits for a restart.",
    "RESUME",
    "    End PAUSE: clients go on in their order.",
    "WHOAMI",
    "    Return what respmux knows of this connection.",
    "HELP",
    "    Print this help.",
];

/// A subcommand of PROXY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Help,
    Whoami,
    Explain,
    Clients,
    Info,
    Pools,
    Drain,
    Reload,
    Pause,
    Resume,
    Reconnect,
}

/// Words and how many arguments there must be, the name and the subcommand among them; at least so many with `true`.
const VERBS: &[(&str, usize, bool, Verb)] = &[
    ("HELP", 2, false, Verb::Help),
    ("WHOAMI", 2, false, Verb::Whoami),
    ("EXPLAIN", 3, true, Verb::Explain),
    ("CLIENTS", 2, false, Verb::Clients),
    ("INFO", 2, false, Verb::Info),
    ("POOLS", 2, false, Verb::Pools),
    ("DRAIN", 2, false, Verb::Drain),
    ("RELOAD", 2, false, Verb::Reload),
    ("PAUSE", 2, false, Verb::Pause),
    ("PAUSE", 3, false, Verb::Pause),
    ("RESUME", 2, false, Verb::Resume),
    ("RECONNECT", 2, false, Verb::Reconnect),
];

impl Verb {
    fn find(request: &Request) -> Option<Self> {
        let fits = |count: usize, more: bool| request.count() == count || more && request.count() > count;
        let row = VERBS.iter().find(|(word, count, more, _)| token_is(request.nth(1), word) && fits(*count, *more));
        row.map(|(.., verb)| *verb)
    }

    /// What a client must be allowed for it. A verb that changes anything needs [`ProxyRight::Write`].
    fn right(self) -> ProxyRight {
        match self {
            Self::Help | Self::Whoami | Self::Explain | Self::Clients | Self::Info | Self::Pools => ProxyRight::Read,
            Self::Drain | Self::Reload | Self::Pause | Self::Resume | Self::Reconnect => ProxyRight::Write,
        }
    }

    /// What the server must allow as well, because it shows the same of a server. It is carried out there.
    fn twin(self) -> Option<&'static [&'static str]> {
        match self {
            // What changes respmux itself is no server's matter: `auth.proxy_write` alone says who may.
            Self::Help | Self::Whoami | Self::Explain => None,
            Self::Drain | Self::Reload | Self::Pause | Self::Resume | Self::Reconnect => None,
            Self::Clients => Some(&["CLIENT", "LIST", "ID", "0"]),
            Self::Info | Self::Pools => Some(&["INFO", "server"]),
        }
    }
}

impl Client {
    /// PROXY HELP, INFO, CLIENTS, POOLS, WHOAMI and EXPLAIN. What shows others needs the right that shows the same of
    /// a server: CLIENT LIST, or INFO.
    pub(super) async fn proxy(&mut self, request: &Request) -> Result<(), Closed> {
        if !self.up().config().client.proxy_commands {
            self.reply_error(error_reply::PROXY_OFF);
            return Ok(());
        }
        let Some(verb) = Verb::find(request) else {
            let line = if request.count() == 1 {
                error_reply::wrong_arity("proxy")
            } else {
                error_reply::unknown_subcommand("PROXY", request)
            };
            self.reply_error(&line);
            return Ok(());
        };
        if self.proxy_right() < verb.right() {
            self.up().shard.commands_rejected[RefuseReason::Denied].inc();
            self.reply_error(&self.denied(request));
            return Ok(());
        }
        if let Some(twin) = verb.twin()
            && !self.allowed(twin).await?
        {
            return Ok(());
        }
        let shared = Rc::clone(&self.shared);
        let lines = match verb {
            Verb::Help => HELP.iter().map(|line| (*line).to_owned()).collect(),
            Verb::Whoami => self.whoami(),
            Verb::Explain => self.explained(request),
            Verb::Clients => shared.peers.lines().await.iter().map(client_line).collect(),
            Verb::Info => self.info_lines(&shared.peers.reports().await),
            Verb::Pools => pool_lines(&shared.peers.reports().await),
            Verb::Drain => return self.wish(Wish::Drain).await,
            Verb::Reload => return self.wish(Wish::Reload).await,
            Verb::Pause => return self.pause_all(request).await,
            Verb::Resume => return self.wish(Wish::Resume).await,
            Verb::Reconnect => return self.wish(Wish::Reconnect).await,
        };
        self.reply_lines(&lines);
        Ok(())
    }

    /// Asks the main thread; its lines, or its error.
    pub(super) async fn wish(&self, wish: Wish) -> Result<(), Closed> {
        match self.shared.peers.main().ask(wish).await {
            Ok(lines) => self.reply_lines(&lines),
            // An error is one line.
            Err(reason) => self.reply_error(format!("ERR {}", reason.replace(['\r', '\n'], "; ")).as_bytes()),
        }
        Ok(())
    }

    /// What the client may do with PROXY.
    fn proxy_right(&self) -> ProxyRight {
        let session = self.profile.session.borrow();
        self.up().rules().rights.of(self.up().rules().policies.name_of(&session.key.identity))
    }

    /// Asks the server whether the client may know this; passes its refusal on.
    async fn allowed(&mut self, twin: &[&str]) -> Result<bool, Closed> {
        let mut command = BytesMut::new();
        encode::command(&mut command, twin);
        self.permitted(&command).await
    }

    fn reply_lines(&self, lines: &[String]) {
        let mut frame = BytesMut::new();
        encode::array_header(&mut frame, lines.len());
        for line in lines {
            encode::bulk(&mut frame, line.as_bytes());
        }
        self.reply(&frame);
    }

    fn whoami(&self) -> Vec<String> {
        let line = self.profile.line(self.up().now());
        vec![
            format!("id:{}", line.id),
            format!("user:{}", String::from_utf8_lossy(&line.user)),
            format!("name:{}", String::from_utf8_lossy(&line.name)),
            format!("addr:{}", line.addr),
            format!("resp:{}", line.resp),
            format!("db:{}", line.db),
            format!("worker:{}", self.up().worker),
            format!("state:{}", state(&line)),
            format!("lane:{}", self.lane.as_ref().map_or("none yet", |lane| lane.phase().label())),
        ]
    }

    fn explained(&self, request: &Request) -> Vec<String> {
        let command = Tail::new(request, 2);
        let second = (command.count() > 1).then(|| command.nth(1));
        let table = &self.up().rules().table;
        let lookup = table.lookup(command.nth(0), second);
        let route = route(table, lookup, self.facts(Held::None, false), &command);
        let session = self.profile.session.borrow();
        let key = &session.key;
        let mut lines = explain(table, lookup, route, &command);
        lines.push(format!(
            "as: user {} in RESP{} and database {}",
            String::from_utf8_lossy(key.identity.name()),
            if key.resp == Resp::Three { 3 } else { 2 },
            key.db
        ));
        lines
    }

    fn info_lines(&self, reports: &[Report]) -> Vec<String> {
        let up = self.up();
        let sum = |pick: &dyn Fn(&Report) -> usize| reports.iter().map(pick).sum::<usize>();
        let mut lines = vec![
            format!("respmux_version:{}", env!("CARGO_PKG_VERSION")),
            format!("instance:{}", up.config().instance),
            format!("workers:{}", reports.len()),
            format!("upstream:{}", up.process.endpoint()),
            format!("upstream_up:{}", u8::from(up.process.upstream_up())),
            format!("draining:{}", u8::from(up.process.draining())),
            format!("clients:{}", sum(&|report| report.clients)),
            format!("clients_max:{}", up.config().client.max_connections),
            format!("upstream_connections_max:{}", up.config().upstream.max_connections),
            format!("upstream_connections:{}", sum(&|report| report.kinds.iter().map(|(_, _, used)| used).sum())),
            format!("commands_in_flight:{}", sum(&|report| report.lanes.iter().map(|lane| lane.in_flight).sum())),
            format!("pool_waiting:{}", sum(&|report| report.waiting)),
        ];
        let Some(first) = reports.first() else { return lines };
        for (position, (reason, _)) in first.pinned.iter().enumerate() {
            let held: u64 = reports.iter().map(|report| report.pinned[position].1).sum();
            lines.push(format!("lent_{reason}:{held}"));
        }
        lines
    }
}

/// Lines of `key=value` pairs: one for each worker and kind, then one for each lane.
fn pool_lines(reports: &[Report]) -> Vec<String> {
    let mut lines = Vec::new();
    for report in reports {
        let worker = report.worker;
        for (kind, limit, used) in &report.kinds {
            let mut line = format!("worker={worker} kind={kind} limit={limit} used={used}");
            if *kind == "pool" {
                line.push_str(&format!(
                    " idle={} waiting={} longest_wait_ms={}",
                    report.idle,
                    report.waiting,
                    report.longest_wait.as_millis()
                ));
            }
            lines.push(line);
        }
        for lane in &report.lanes {
            lines.push(format!(
                "worker={worker} lane user={} resp={} db={} phase={} in_flight={}",
                String::from_utf8_lossy(&lane.user),
                lane.resp,
                lane.db,
                lane.phase,
                lane.in_flight
            ));
        }
    }
    lines
}

fn client_line(line: &Line) -> String {
    format!(
        "id={} addr={} {} name={} user={} db={} resp={} age={} idle={} state={}",
        line.id,
        line.addr,
        via(line.transport),
        String::from_utf8_lossy(&line.name),
        String::from_utf8_lossy(&line.user),
        line.db,
        line.resp,
        line.age,
        line.idle,
        state(line)
    )
}

/// How a client is connected, and who is at the other end where the kernel says it.
fn via(transport: Transport) -> String {
    match transport {
        Transport::Tcp => "via=tcp".to_owned(),
        Transport::Tls => "via=tls".to_owned(),
        Transport::Unix { uid, pid } => format!("via=unix uid={uid} pid={pid}"),
    }
}

/// What a client is doing, in one word.
fn state(line: &Line) -> &'static str {
    if line.monitor {
        "monitor"
    } else if line.blocked {
        "blocked"
    } else if line.multi >= 0 {
        "transaction"
    } else if line.kind() == "pubsub" {
        "subscribed"
    } else {
        "open"
    }
}

//! PROXY: what respmux tells about itself over the protocol, and what may be changed. An answer is a text in the format of
//! INFO, a list of lines of `name=value` in the format of CLIENT LIST, or a map where a program wants the parts. redis-cli
//! shows all of them readably in either protocol.

mod access;
mod clients;
mod config;
mod counters;
mod explain;
mod info;
mod servers;
mod slow;

use std::rc::Rc;

use bytes::BytesMut;

use access::Access;
use explain::{Tail, explain};

use super::admin_command::AdminCommand;
use super::connection::{Client, Closed};
use super::error_reply;
use super::identity::admission::Admission;
use super::request::Request;
use crate::command::token_is;
use crate::config::ProxyRight;
use crate::resp::encode;
use crate::router::{Args, Held, Refusal, route};
use crate::session::Resp;

const HELP: &[&str] = &[
    "PROXY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CLIENTS [<option> ...]",
    "    Return one line for each client of this process, with what it is doing. Options are:",
    "    * ID <id> [<id> ...], ADDR <ip:port>, LADDR <ip:port>, USER <name>, NAME <name>",
    "      Only the clients that match.",
    "    * STATE (open|blocked|transaction|subscribed|monitor)",
    "      Only the clients in this state.",
    "    * PINNED (yes|no|<reason>)",
    "      Only the clients pinned to a connection of their own, only the others, or only those pinned for this reason.",
    "    * SORT (traffic|in|out|unsent|pending|idle|age)",
    "      Highest first.",
    "    * LIMIT <count>",
    "      At most this many lines. The default is all clients, of which there are at most client.max_connections.",
    "CONFIG GET <pattern> [<pattern> ...]",
    "    Return the settings whose names match: for each its value as written, the value in effect,",
    "    and where it was set.",
    "CONFIG [LIST]",
    "    Return all settings as lines of a configuration file.",
    "DRAIN",
    "    Let every client finish what it is doing, then end the process, as SIGTERM does.",
    "EXPLAIN <command> [<arg> ...]",
    "    Return which way the command would take from this connection now, and why. The command is not executed.",
    "HOTKEYS [<count>]",
    "    Return the most used keys of a sample (setting hotkeys.sample), at most 64 for each worker.",
    "HOTKEYS RESET",
    "    Start a new sample.",
    "INFO [<section> ...]",
    "    Return information and statistics in the format of INFO. Sections are: server, clients, upstreams, pools,",
    "    commands, errors, memory.",
    "KILL (<id>|<ip:port>)",
    "    Close this client. Return how many were closed; an error if there is no such client.",
    "LANES",
    "    Return one line for each shared connection.",
    "PAUSE [<milliseconds>]",
    "    Hold all commands of all clients, and return when nothing is in flight upstream. Open transactions may finish;",
    "    blocked pops are not waited for. If that takes longer than this (10 seconds unless given), return an error and",
    "    hold nothing. The pause ends with RESUME, or after pause.max.",
    "POOLS",
    "    Return, for each worker and kind of upstream connection, how many are allowed, open and waited for.",
    "RECONNECT",
    "    Replace every upstream connection: commands in flight finish on the old one, later ones use the new one.",
    "RELOAD",
    "    Read the configuration again, as SIGHUP does. Return what changed and what needs a restart.",
    "RESUME",
    "    End PAUSE: held commands go on, in the order of each client.",
    "SERVERS",
    "    Return one line for each upstream server: whether it is up, its version, connections, and the last error.",
    "SLOWLOG [GET [<count>]]",
    "    Return the newest slow requests (default 10, at most slowlog.size for each worker), each with its total time",
    "    and the part of it spent upstream.",
    "SLOWLOG LEN",
    "    Return the number of slow requests kept.",
    "SLOWLOG RESET",
    "    Forget all slow requests.",
    "STATS",
    "    Return counters, and rates over the last ten seconds, for each class of commands.",
    "WHOAMI",
    "    Return what respmux knows about this connection.",
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
    Config,
    Hotkeys,
    HotkeysReset,
    Info,
    Kill,
    Lanes,
    Pools,
    Servers,
    Slowlog,
    SlowlogReset,
    Stats,
    Drain,
    Reload,
    Pause,
    Resume,
    Reconnect,
}

/// Words and how many arguments there must be at least and at most, the name and the subcommand among them.
const VERBS: &[(&str, usize, usize, Verb)] = &[
    ("HELP", 2, 2, Verb::Help),
    ("WHOAMI", 2, 2, Verb::Whoami),
    ("EXPLAIN", 3, usize::MAX, Verb::Explain),
    ("CLIENTS", 2, usize::MAX, Verb::Clients),
    ("CONFIG", 2, usize::MAX, Verb::Config),
    ("HOTKEYS", 2, usize::MAX, Verb::Hotkeys),
    ("INFO", 2, usize::MAX, Verb::Info),
    ("KILL", 3, 3, Verb::Kill),
    ("LANES", 2, 2, Verb::Lanes),
    ("POOLS", 2, 2, Verb::Pools),
    ("SERVERS", 2, 2, Verb::Servers),
    ("SLOWLOG", 2, usize::MAX, Verb::Slowlog),
    ("STATS", 2, 2, Verb::Stats),
    ("DRAIN", 2, 2, Verb::Drain),
    ("RELOAD", 2, 2, Verb::Reload),
    ("PAUSE", 2, 3, Verb::Pause),
    ("RESUME", 2, 2, Verb::Resume),
    ("RECONNECT", 2, 2, Verb::Reconnect),
];

/// An answer that is no error.
enum Answer {
    /// A list of texts.
    Lines(Vec<String>),
    /// One text of many lines.
    Text(String),
    /// A frame in the client's protocol.
    Frame(BytesMut),
}

/// An answer, or the line of an error.
type Answered = Result<Answer, Vec<u8>>;

impl Verb {
    /// The subcommand of a request.
    ///
    /// # Errors
    /// The line of the error: there is none, or it has other arguments.
    fn find(request: &Request) -> Result<Self, Vec<u8>> {
        if request.count() == 1 {
            return Err(error_reply::wrong_arity("proxy"));
        }
        let Some((word, least, most, verb)) = VERBS.iter().find(|(word, ..)| token_is(request.nth(1), word)) else {
            return Err(error_reply::unknown_subcommand("PROXY", request));
        };
        if !(*least..=*most).contains(&request.count()) {
            return Err(error_reply::wrong_arity(&format!("proxy|{}", word.to_ascii_lowercase())));
        }
        let reset = request.count() > 2 && token_is(request.nth(2), "RESET");
        Ok(match verb {
            Self::Slowlog if reset => Self::SlowlogReset,
            Self::Hotkeys if reset => Self::HotkeysReset,
            verb => *verb,
        })
    }

    /// What a client must be allowed for it. A verb that changes anything needs [`ProxyRight::Write`].
    fn right(self) -> ProxyRight {
        match self {
            // These tell a client of itself, and what the program is.
            Self::Help | Self::Whoami | Self::Explain => ProxyRight::None,
            Self::Clients
            | Self::Config
            | Self::Hotkeys
            | Self::Info
            | Self::Lanes
            | Self::Pools
            | Self::Servers
            | Self::Slowlog
            | Self::Stats => ProxyRight::Read,
            Self::HotkeysReset | Self::Kill | Self::SlowlogReset => ProxyRight::Write,
            Self::Drain | Self::Reload | Self::Pause | Self::Resume | Self::Reconnect => ProxyRight::Write,
        }
    }
}

impl Client {
    /// PROXY. What shows others needs the right that shows the same of a server: CLIENT LIST, INFO, SLOWLOG.
    pub(super) async fn proxy(&mut self, request: &Request) -> Result<(), Closed> {
        let verb = match Verb::find(request) {
            _ if !self.rt().config().client.proxy_commands => Err(error_reply::PROXY_OFF.to_vec()),
            verb => verb,
        };
        // A client that has not logged in learns no more than that it has to.
        if self.admission == Admission::Unauthenticated
            && !verb.as_ref().is_ok_and(|verb| verb.right() == ProxyRight::None)
        {
            self.refuse(request, Refusal::NotAuthenticated);
            return Ok(());
        }
        let verb = match verb {
            Ok(verb) => verb,
            Err(line) => {
                self.reply_error(&line);
                return Ok(());
            }
        };
        match self.proxy_access(verb, request).await {
            Access::Granted => {}
            Access::Refused => return Ok(()),
        }
        let answered = match verb {
            Verb::Help => Ok(Answer::Lines(HELP.iter().map(|line| (*line).to_owned()).collect())),
            Verb::Whoami => Ok(Answer::Lines(self.whoami())),
            Verb::Explain => Ok(Answer::Lines(self.explained(request))),
            Verb::Drain => return self.wish(AdminCommand::Drain).await,
            Verb::Reload => return self.wish(AdminCommand::Reload).await,
            Verb::Pause => return self.pause_all(request).await,
            Verb::Resume => return self.wish(AdminCommand::Resume).await,
            Verb::Reconnect => return self.wish(AdminCommand::Reconnect).await,
            Verb::Kill => return self.proxy_kill(request).await,
            _ => self.proxy_shown(verb, request).await,
        };
        match answered {
            Ok(answer) => self.reply_answer(answer),
            Err(line) => self.reply_error(&line),
        }
        Ok(())
    }

    /// What other workers must be asked for.
    async fn proxy_shown(&self, verb: Verb, request: &Request) -> Answered {
        let peers = &Rc::clone(&self.shared).peers;
        match verb {
            Verb::Clients => clients::lines(peers, &self.rt().rules().table, request).await,
            Verb::Config => config::answer(&self.rt().config().shown, request, self.resp().number()),
            Verb::Hotkeys => slow::hot_keys(peers, self.rt().hotkeys.every(), request).await,
            Verb::HotkeysReset => slow::reset_hot_keys(peers, request).await,
            Verb::Info => Ok(Answer::Text(info::text(&self.node(), &peers.reports().await, request))),
            Verb::Lanes => Ok(Answer::Lines(servers::lanes(&peers.lanes().await))),
            Verb::Pools => Ok(Answer::Lines(servers::pools(&peers.reports().await))),
            Verb::Servers => Ok(Answer::Lines(servers::servers(&self.rt().process, &peers.reports().await))),
            Verb::Slowlog => slow::requests(peers, request, self.resp().number()).await,
            Verb::SlowlogReset => slow::reset_requests(peers, request).await,
            Verb::Stats => Ok(Answer::Lines(counters::lines(&peers.reports().await))),
            Verb::Help | Verb::Whoami | Verb::Explain | Verb::Kill => unreachable!("answered without the others"),
            Verb::Drain | Verb::Reload | Verb::Pause | Verb::Resume | Verb::Reconnect => {
                unreachable!("the main thread's ({verb:?})")
            }
        }
    }

    /// Asks the main thread; its lines, or its error.
    pub(super) async fn wish(&self, wish: AdminCommand) -> Result<(), Closed> {
        match self.shared.peers.main().ask(wish).await {
            Ok(lines) => self.reply_lines(&lines),
            // An error is one line.
            Err(reason) => self.reply_error(format!("ERR {}", reason.replace(['\r', '\n'], "; ")).as_bytes()),
        }
        Ok(())
    }

    fn reply_lines(&self, lines: &[String]) {
        let mut frame = BytesMut::new();
        encode::array_header(&mut frame, lines.len());
        for line in lines {
            encode::bulk(&mut frame, line.as_bytes());
        }
        self.reply(&frame);
    }

    fn reply_answer(&self, answer: Answer) {
        match answer {
            Answer::Lines(lines) => self.reply_lines(&lines),
            Answer::Text(text) => {
                let mut frame = BytesMut::new();
                encode::verbatim_txt(&mut frame, text.as_bytes(), self.resp().number());
                self.reply(&frame);
            }
            Answer::Frame(frame) => self.reply(&frame),
        }
    }

    fn whoami(&self) -> Vec<String> {
        let line = self.record.line(self.rt().now());
        vec![
            format!("id:{}", line.id),
            format!("user:{}", String::from_utf8_lossy(&line.user)),
            format!("login:{}", self.admission.word()),
            format!("name:{}", String::from_utf8_lossy(&line.name)),
            format!("addr:{}", line.addr),
            format!("resp:{}", line.resp),
            format!("db:{}", line.db),
            format!("worker:{}", self.rt().worker),
            format!("state:{}", line.state),
            format!("lane:{}", self.lane.as_ref().map_or("none yet", |lane| lane.phase().label())),
        ]
    }

    fn explained(&self, request: &Request) -> Vec<String> {
        let command = Tail::new(request, 2);
        let second = (command.count() > 1).then(|| command.nth(1));
        let table = &self.rt().rules().table;
        let lookup = table.lookup(command.nth(0), second);
        let route = route(table, lookup, self.facts(Held::None, false), &command);
        let session = self.record.session.borrow();
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
}

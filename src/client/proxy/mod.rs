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
mod verb;

use std::rc::Rc;

use bytes::BytesMut;

use access::Access;
use explain::{Tail, explain};
use verb::{HELP, Main, Own, Shown, Verb};

use super::admin_command::AdminCommand;
use super::connection::{Client, Closed};
use super::error_reply;
use super::identity::admission_state::Admission;
use super::request::Request;
use crate::config::ProxyRight;
use crate::resp::encode;
use crate::router::{Args, Refusal, route_free};
use crate::session::Resp;

/// An answer that is no error.
enum ProxyAnswer {
    /// A list of texts.
    Lines(Vec<String>),
    /// One text of many lines.
    Text(String),
    /// A frame in the client's protocol.
    Frame(BytesMut),
}

/// An answer, or the line of an error.
type Answered = Result<ProxyAnswer, Vec<u8>>;

impl Client {
    /// PROXY. What shows others needs the right that shows the same of a server: CLIENT LIST, INFO, SLOWLOG.
    pub(super) async fn proxy(&mut self, request: &Request) -> Result<(), Closed> {
        let verb = match Verb::find(request) {
            // The switch comes first: where PROXY is off, nothing of it can be guessed from its errors.
            _ if !self.rt().config().client.proxy_commands => Err(error_reply::PROXY_OFF.to_vec()),
            verb => verb,
        };
        // A client that has not logged in learns no more than that it has to.
        if self.admission == Admission::Unauthenticated
            && !verb.as_ref().is_ok_and(|verb| verb.right() == ProxyRight::None)
        {
            self.refuse(request, Refusal::NotAuthenticated).await;
            return Ok(());
        }
        let verb = match verb {
            Ok(verb) => verb,
            Err(line) => {
                self.reply_error(&line);
                return Ok(());
            }
        };
        // May ask the server, within a tenth of a second: during an outage PROXY is needed most.
        match self.proxy_access(verb, request).await {
            Access::Granted => {}
            Access::Refused => return Ok(()),
        }
        let answered = match verb {
            Verb::Own(own) => Ok(ProxyAnswer::Lines(self.proxy_own(own, request))),
            Verb::Shown(shown) => self.proxy_shown(shown, request).await,
            // It may close this very client, so it sends its answer itself.
            Verb::Kill => return self.proxy_kill(request).await,
            Verb::Main(main) => return self.proxy_main(main, request).await,
        };
        match answered {
            Ok(answer) => self.reply_answer(answer),
            Err(line) => self.reply_error(&line),
        }
        Ok(())
    }

    /// What tells of nobody but the client itself, and is answered without asking anybody.
    fn proxy_own(&self, own: Own, request: &Request) -> Vec<String> {
        match own {
            Own::Help => HELP.iter().map(|line| (*line).to_owned()).collect(),
            Own::Whoami => self.whoami(),
            Own::Explain => self.explained(request),
        }
    }

    /// What concerns the whole process: the main thread does it.
    async fn proxy_main(&self, main: Main, request: &Request) -> Result<(), Closed> {
        match main {
            Main::Drain => self.admin_command(AdminCommand::Drain).await,
            Main::Reload => self.admin_command(AdminCommand::Reload).await,
            Main::Pause => self.pause_all(request).await,
            Main::Resume => self.admin_command(AdminCommand::Resume).await,
            Main::Reconnect => self.admin_command(AdminCommand::Reconnect).await,
        }
    }

    /// What is put together from all workers. None of it comes from the upstream, so it is there in an outage.
    async fn proxy_shown(&self, shown: Shown, request: &Request) -> Answered {
        let peers = &Rc::clone(&self.shared).peers;
        match shown {
            Shown::Clients => clients::lines(peers, &self.rt().rules().table, request).await,
            Shown::Config => config::answer(&self.rt().config().shown, request, self.resp().number()),
            Shown::Hotkeys => slow::hot_keys(peers, self.rt().hotkeys.every(), request).await,
            Shown::HotkeysReset => slow::reset_hot_keys(peers, request).await,
            Shown::Info => Ok(ProxyAnswer::Text(info::text(&self.node(), &peers.reports().await, request))),
            Shown::Lanes => Ok(ProxyAnswer::Lines(servers::lanes(&peers.lanes().await))),
            Shown::Pools => Ok(ProxyAnswer::Lines(servers::pools(&peers.reports().await))),
            Shown::Servers => Ok(ProxyAnswer::Lines(servers::servers(&self.rt().process, &peers.reports().await))),
            Shown::Slowlog => slow::requests(peers, request, self.resp().number()).await,
            Shown::SlowlogReset => slow::reset_requests(peers, request).await,
            Shown::Stats => Ok(ProxyAnswer::Lines(counters::lines(&peers.reports().await))),
        }
    }

    /// Asks the main thread; its lines, or its error.
    pub(super) async fn admin_command(&self, admin_command: AdminCommand) -> Result<(), Closed> {
        match self.shared.peers.main().ask(admin_command).await {
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

    fn reply_answer(&self, answer: ProxyAnswer) {
        match answer {
            ProxyAnswer::Lines(lines) => self.reply_lines(&lines),
            ProxyAnswer::Text(text) => {
                let mut frame = BytesMut::new();
                encode::verbatim_txt(&mut frame, text.as_bytes(), self.resp().number());
                self.reply(&frame);
            }
            ProxyAnswer::Frame(frame) => self.reply(&frame),
        }
    }

    /// PROXY WHOAMI. The lane is the one that the last command rode; there is none before the first, and behind
    /// whatever changed the route.
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

    /// PROXY EXPLAIN: the decision for a client that is pinned to nothing, with this client's user, guard and
    /// subscriptions. Nothing is carried out.
    fn explained(&self, request: &Request) -> Vec<String> {
        let command = Tail::new(request, 2);
        let second = (command.count() > 1).then(|| command.nth(1));
        let table = &self.rt().rules().table;
        let lookup = table.lookup(command.nth(0), second);
        let route = route_free(table, lookup, self.facts(false), &command);
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

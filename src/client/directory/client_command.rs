//! CLIENT INFO, LIST, KILL and UNBLOCK over virtual clients (docs/design/semantics.md 5.2, 5.3).

use std::collections::HashMap;
use std::rc::Rc;

use bytes::BytesMut;
use tokio::task::spawn_local;

use crate::client::connection::{Client, Closed};
use crate::client::directory::filter::{Filter, field, text_of};
use crate::client::directory::line::ClientLine;
use crate::client::directory::peers::UnblockWith;
use crate::client::directory::render::{ALL_FIELDS, FALLBACK, render};
use crate::client::error_reply;
use crate::client::exchange::success;
use crate::client::request::{Request, strict_integer};
use crate::client::shared::Ids;
use crate::command::{CommandId, token_is};
use crate::link::ServerClient;
use crate::resp::encode;
use crate::router::Args;
use crate::telemetry::CloseReason;
use crate::upstream::{Answer, Unblocked};

/// An id that no client has: with it CLIENT KILL and UNBLOCK ask for the right and hit nobody.
const NOBODY: &str = "9223372036854775807";
/// Nor this address.
const NOWHERE: [&[u8]; 2] = [b"ADDR", b"respmux:0"];
/// Options of CLIENT KILL that want a value.
const WANTS_VALUE: [&str; 14] = [
    "ID", "TYPE", "USER", "ADDR", "LADDR", "SKIPME", "MAXAGE", "NAME", "LIB-NAME", "LIB-VER", "DB", "IDLE", "FLAGS",
    "CAPA",
];

/// Lines of the upstream, by the id of the connection that they are of.
type Links = HashMap<i64, String>;

impl Client {
    /// CLIENT INFO: the lane's own line, with the client's values.
    pub(in crate::client) async fn client_info(&mut self, request: &Request) -> Result<(), Closed> {
        let key = self.record.session.borrow().key.clone();
        // The real command first: rights, syntax and the format of a line are the server's.
        let answer = self.confirm_on(&key, request).await?;
        let Answer::Reply(frame) = &answer else {
            self.pass_on(answer);
            return Ok(());
        };
        let Some(template) = text_of(success(frame)) else {
            self.pass_on(answer);
            return Ok(());
        };
        let mut line = self.record.line(self.rt().now());
        line.arguments = request.arguments().into();
        line.request = request.raw().len();
        let links = self.links(std::slice::from_ref(&line), None).await;
        let mut text = self.text_of_line(&template, &links, &line);
        text.push('\n');
        self.reply_verbatim(text.as_bytes());
        Ok(())
    }

    /// CLIENT LIST: the upstream's lines that are not ours, and the virtual ones. The real command runs first, so
    /// that rights and syntax are the server's.
    pub(in crate::client) async fn client_list(&mut self, request: &Request) -> Result<(), Closed> {
        let key = self.record.session.borrow().key.clone();
        let answer = self.confirm_on(&key, request).await?;
        let Answer::Reply(frame) = &answer else {
            self.pass_on(answer);
            return Ok(());
        };
        let Some(real) = text_of(success(frame)) else {
            self.pass_on(answer);
            return Ok(());
        };
        // Filters may have left the server no line to copy the format from.
        let template = match real.lines().next() {
            Some(line) => line.to_owned(),
            None => self.template().await?,
        };
        // The same filter as the server has just applied to its own lines.
        let filter = Filter::parse(request.args_from(2), false, self.adds_ids().await);
        let me = Some(self.outbox().id());
        let mut text = String::new();
        for line in real.lines().filter(|line| !self.is_ours(line)) {
            text.push_str(line);
            text.push('\n');
        }
        let shared = Rc::clone(&self.shared);
        let mut lines = shared.peers.lines().await;
        // The caller's own line also shows the request that lists: its bytes are here, and in no record.
        for own in lines.iter_mut().filter(|line| Some(line.id) == me) {
            own.arguments = request.arguments().into();
            own.request = request.raw().len();
        }
        // Without filters the server has shown all of its lines already, those of respmux' connections among them.
        let links = self.links(&lines, (request.count() == 2).then_some(&real)).await;
        for line in &lines {
            let line = self.text_of_line(&template, &links, line);
            if filter.matches(&line, me) {
                text.push_str(&line);
                text.push('\n');
            }
        }
        self.reply_verbatim(text.as_bytes());
        Ok(())
    }

    fn text_of_line(&self, template: &str, links: &Links, line: &ClientLine) -> String {
        render(&self.rt().table, template, line.link.and_then(|link| links.get(&link.id)).map(String::as_str), line)
    }

    /// The upstream's lines of the connections that these clients hold, out of `all` its lines if they are there.
    async fn links(&self, lines: &[ClientLine], all: Option<&String>) -> Links {
        let wanted: Vec<i64> = lines.iter().filter_map(|line| line.link).map(|link| link.id).collect();
        let asked = match (wanted.is_empty(), all) {
            (true, _) => return Links::new(),
            (false, Some(all)) => Some(all.clone()),
            (false, None) => self.all_lines().await,
        };
        let id = |line: &str| field(line, "id").and_then(|id| id.parse().ok());
        let lines = asked.iter().flat_map(|text| text.lines()).filter_map(|line| Some((id(line)?, line.to_owned())));
        lines.filter(|(id, _)| wanted.contains(id)).collect()
    }

    /// All clients of the upstream, if respmux may ask.
    async fn all_lines(&self) -> Option<String> {
        let list = self.node().control.ask(&[b"CLIENT", b"LIST"]).await.ok()?;
        text_of(success(&list))
    }

    /// A line of the upstream, for its format.
    async fn template(&mut self) -> Result<String, Closed> {
        let key = self.record.session.borrow().key.clone();
        let mut info = BytesMut::new();
        encode::command(&mut info, &["CLIENT", "INFO"]);
        let line = match self.confirm_bytes_on(&key, CommandId::OTHER, &info).await? {
            Answer::Reply(frame) => text_of(success(&frame)),
            Answer::NotExecuted(_) => None,
        };
        Ok(line.map_or_else(|| FALLBACK.to_owned(), |text| text.trim_end().to_owned()))
    }

    /// Whether a line of the upstream is one of our links.
    fn is_ours(&self, line: &str) -> bool {
        field(line, "id").and_then(|id| id.parse().ok()).is_some_and(|id| self.node().owns(id))
    }

    /// Valkey takes many ids, and every option ID adds some.
    async fn adds_ids(&self) -> bool {
        self.node().control.known_flavour().await.valkey
    }

    /// CLIENT KILL in both forms. A command that hits nobody asks whether the client may, and whether the server
    /// understands it.
    pub(in crate::client) async fn client_kill(&mut self, request: &Request) -> Result<(), Closed> {
        let old_form = request.count() == 3;
        if !self.may_kill(request).await? {
            return Ok(());
        }
        let filter = match old_form {
            true => Filter::of_address(request.nth(2)),
            false => Filter::parse(request.args_from(2), true, self.adds_ids().await),
        };
        let shared = Rc::clone(&self.shared);
        let me = self.outbox().id();
        let lines = shared.peers.lines().await;
        let links = self.links(&lines, None).await;
        // Rendered with every field of every version, so that any option finds what it looks for.
        let of_line = |line: &ClientLine| filter.matches(&self.text_of_line(ALL_FIELDS, &links, line), Some(me));
        let mut targets: Vec<u64> = lines.iter().filter(|line| of_line(line)).map(|line| line.id).collect();
        // Counted before anybody is closed: a client that leaves by itself meanwhile was there when it was asked for.
        let killed = targets.len() as u64 + self.kill_real(&filter).await;
        // Its own connection is closed behind the reply.
        // As on a server: who kills itself gets the reply first.
        let suicide = targets.contains(&me);
        targets.retain(|target| *target != me);
        shared.peers.kill(&targets).await;
        match (old_form, killed) {
            (true, 0) => self.reply_error(error_reply::NO_SUCH_CLIENT),
            (true, _) => self.reply_ok(),
            (false, killed) => {
                let mut frame = BytesMut::new();
                encode::integer(&mut frame, i64::try_from(killed).unwrap_or(i64::MAX));
                self.reply(&frame);
            }
        }
        if suicide {
            self.drained().await?;
            return Err(Closed(CloseReason::Killed));
        }
        Ok(())
    }

    /// Whether the server would carry this out; if not, the client has its words.
    async fn may_kill(&mut self, request: &Request) -> Result<bool, Closed> {
        let mut words: Vec<&[u8]> = vec![b"CLIENT", b"KILL"];
        let last = request.nth(request.count() - 1);
        let dangling = WANTS_VALUE.iter().any(|option| token_is(last, option));
        let has_address = request.args_from(2).any(|word| token_is(word, "ADDR"));
        if request.count() == 3 {
            words.extend([b"ID".as_slice(), NOBODY.as_bytes()]);
        } else if !dangling {
            // The client's own options, so that the server finds their errors; the address at the end lets them hit
            // nobody.
            words.extend(request.args_from(2).chain(NOWHERE)); // the last address counts
        // The last option lacks its value and would take ADDR for it: the address goes in front.
        } else if !has_address {
            words.extend(NOWHERE.into_iter().chain(request.args_from(2)));
        } else {
            // An address of the client's own would count instead. Its options are left out, but for the one without a
            // value.
            words.extend([b"ID".as_slice(), NOBODY.as_bytes(), last]);
        }
        let mut probe = BytesMut::new();
        encode::command(&mut probe, &words);
        let key = self.record.session.borrow().key.clone();
        match self.confirm_bytes_on(&key, CommandId::OTHER, &probe).await? {
            Answer::Reply(frame) if !frame.starts_with(b"-") => Ok(true),
            Answer::Reply(frame) if frame.starts_with(b"-NOPERM") && !self.rt().config().client.verify_privileged => {
                Ok(true)
            }
            answer => {
                self.pass_on(answer);
                Ok(false)
            }
        }
    }

    /// Kills upstream clients that match and are none of our links, one by one by id. How many died.
    async fn kill_real(&self, filter: &Filter) -> u64 {
        let control = &self.node().control;
        let Some(text) = self.all_lines().await else { return 0 };
        let mut killed = 0;
        // One by one and by id: a filter on the server would hit our own links, which carry other clients.
        for line in text.lines().filter(|line| !self.is_ours(line) && filter.matches(line, None)) {
            let Some(id) = field(line, "id") else { continue };
            let reply = control.ask(&[b"CLIENT", b"KILL", b"ID", id.as_bytes()]).await;
            // Only what the server has closed: the client may have left since it was listed.
            killed += u64::from(reply.is_ok_and(|reply| reply == b":1\r\n"));
        }
        killed
    }

    /// CLIENT UNBLOCK: a virtual id stands for the connection on which that client is blocked now; any other for one of
    /// the server's own clients.
    pub(in crate::client) async fn client_unblock(&mut self, request: &Request) -> Result<(), Closed> {
        let mut words: Vec<&[u8]> = vec![b"CLIENT", b"UNBLOCK", NOBODY.as_bytes()];
        words.extend(request.args_from(3));
        let mut probe = BytesMut::new();
        encode::command(&mut probe, &words);
        let id = strict_integer(request.nth(2));
        let known = id.and_then(|id| u64::try_from(id).ok()).filter(|id| Ids::is_virtual(*id));
        // On a connection of ours others wait: for a client that id is nobody's.
        let is_ours = id.is_some_and(|id| self.node().owns(id));
        let spares = self.node().control.known_flavour().await.unblock_spares_paused();
        let Some(id) = id.filter(|_| known.is_some() || !(is_ours || spares)) else {
            let key = self.record.session.borrow().key.clone();
            // The server answers by itself: to what is no id, for one of respmux' connections in the form that hits
            // nobody, and where it does not crash of an UNBLOCK during a pause.
            let asked = if is_ours { &probe[..] } else { request.raw() };
            let answer = self.confirm_bytes_on(&key, request.id(), asked).await?;
            self.pass_on(answer);
            return Ok(());
        };
        if !self.may_administer(&probe).await? {
            return Ok(());
        }
        let with_error = request.count() > 3 && token_is(request.nth(3), "ERROR");
        let how = if with_error { UnblockWith::Error } else { UnblockWith::Nil };
        let unblocked = match known {
            Some(id) => self.shared.peers.unblock(id, how).await,
            None => self.unblock_of_server(id, how).await?,
        };
        match unblocked {
            Some(Unblocked::Reply(reply)) => self.reply(&reply),
            // No worker has such a client: to a server that is one which is not blocked.
            None => self.reply(b":0\r\n"),
            Some(Unblocked::NotExecuted) => self.reply_error(error_reply::NOT_EXECUTED),
            Some(Unblocked::Unknown) => return Err(Closed(CloseReason::UpstreamLost)),
        }
        Ok(())
    }

    /// A client of the server's own, on a server that crashes when it is paused and holds that client back.
    async fn unblock_of_server(&mut self, id: i64, how: UnblockWith) -> Result<Option<Unblocked>, Closed> {
        let node = self.node();
        // A task of its own: this client may leave, and what was sent is seen to its end.
        let asked = spawn_local(async move {
            let (text, client) = (id.to_string(), ServerClient { server: node.control.server(), id });
            let words: &[&[u8]] = &[b"CLIENT", b"UNBLOCK", text.as_bytes(), how.word().as_bytes()];
            node.unblock_for_another(client, words, || true).await
        });
        tokio::select! {
            biased;
            unblocked = asked => Ok(unblocked.ok()),
            closed = self.watch(true) => Err(closed),
        }
    }

    /// As servers answer CLIENT LIST and INFO: verbatim in RESP3, a bulk string in RESP2.
    fn reply_verbatim(&self, text: &[u8]) {
        let mut frame = BytesMut::with_capacity(text.len() + 32);
        encode::verbatim_txt(&mut frame, text, self.resp().number());
        self.reply(&frame);
    }
}

//! CLIENT INFO, LIST, KILL and UNBLOCK over virtual clients (semantics.md 5.2, 5.3).
//!
//! The line format differs over versions, so a line of the upstream serves as the template and only the values
//! that belong to the virtual client are replaced.

use std::rc::Rc;

use bytes::BytesMut;

use super::Ids;
use super::connection::{Client, Closed};
use super::directory::Line;
use super::dispatch::{strict_integer, success};
use super::error_reply;
use super::peers::Goodbye;
use super::request::Request;
use crate::command::{CommandId, CommandTable, token_is};
use crate::resp::encode;
use crate::router::Args;
use crate::session::Flavour;
use crate::telemetry::CloseReason;
use crate::upstream::{Answer, Unblocked};

/// Written where the upstream gives no line to copy from.
const FALLBACK: &str = "id=0 addr= laddr= fd=0 name= age=0 idle=0 flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=1024 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd=NULL user=default redir=-1 resp=2";
/// No client has this id: a twin of CLIENT KILL and UNBLOCK that hits nobody.
const NOBODY: &str = "9223372036854775807";

impl Client {
    /// CLIENT INFO: the lane's own line, with the client's values.
    pub(super) async fn client_info(&mut self, request: &Request) -> Result<(), Closed> {
        let key = self.profile.session.borrow().key.clone();
        let answer = self.twin(&key, request).await?;
        let Answer::Reply(frame) = &answer else {
            self.pass_on(answer);
            return Ok(());
        };
        let Some(template) = success(frame).and_then(|value| value.as_text().cloned()) else {
            self.pass_on(answer);
            return Ok(());
        };
        let mut text =
            render(&self.up().table, &String::from_utf8_lossy(&template), &self.profile.line(self.up().now()));
        text.push('\n');
        self.reply_verbatim(text.as_bytes());
        Ok(())
    }

    /// CLIENT LIST: the upstream's lines that are not ours, and the virtual ones. The real command runs first, so
    /// that rights and syntax are the server's.
    pub(super) async fn client_list(&mut self, request: &Request) -> Result<(), Closed> {
        let key = self.profile.session.borrow().key.clone();
        let answer = self.twin(&key, request).await?;
        let Answer::Reply(frame) = &answer else {
            self.pass_on(answer);
            return Ok(());
        };
        let Some(real) = success(frame).and_then(|value| value.as_text().cloned()) else {
            self.pass_on(answer);
            return Ok(());
        };
        let real = String::from_utf8_lossy(&real).into_owned();
        let template = match real.lines().next() {
            Some(line) => line.to_owned(),
            None => self.template().await?,
        };
        let filter = Filter::of_list(request);
        let me = self.outbox().id();
        let mut text = String::new();
        for line in real.lines().filter(|line| !self.is_ours(line)) {
            text.push_str(line);
            text.push('\n');
        }
        let shared = Rc::clone(&self.shared);
        for line in shared.peers.lines().await.iter().filter(|line| filter.matches(line, me)) {
            text.push_str(&render(&self.up().table, &template, line));
            text.push('\n');
        }
        self.reply_verbatim(text.as_bytes());
        Ok(())
    }

    /// A line of the upstream, for its format.
    async fn template(&mut self) -> Result<String, Closed> {
        let key = self.profile.session.borrow().key.clone();
        let mut info = BytesMut::new();
        encode::command(&mut info, &["CLIENT", "INFO"]);
        let line = match self.twin_bytes(&key, CommandId::OTHER, &info).await? {
            Answer::Reply(frame) => {
                success(&frame).and_then(|v| v.as_text().map(|t| String::from_utf8_lossy(t).into_owned()))
            }
            Answer::NotExecuted(_) => None,
        };
        Ok(line.map_or_else(|| FALLBACK.to_owned(), |text| text.trim_end().to_owned()))
    }

    /// Whether a line of the upstream is one of our links.
    fn is_ours(&self, line: &str) -> bool {
        field(line, "id").and_then(|id| id.parse().ok()).is_some_and(|id| self.up().owned.contains(id))
    }

    /// CLIENT KILL in both forms. A twin that hits nobody asks whether the client may.
    pub(super) async fn client_kill(&mut self, request: &Request) -> Result<(), Closed> {
        let mut twin = BytesMut::new();
        encode::command(&mut twin, &["CLIENT", "KILL", "ID", NOBODY]);
        if !self.may_administer(&twin).await? {
            return Ok(());
        }
        if request.count() == 3 {
            return self.kill_by_address(request).await;
        }
        let filter = match Filter::of_kill(request, self.up().control.flavour()) {
            Ok(filter) => filter,
            Err(line) => {
                self.reply_error(&line);
                return Ok(());
            }
        };
        if let Some(user) = &filter.user
            && self
                .up()
                .control
                .ask(&[b"ACL", b"GETUSER", user])
                .await
                .is_ok_and(|r| r == b"*-1\r\n" || r == b"_\r\n" || r == b"$-1\r\n")
        {
            let line = [b"ERR No such user '".as_slice(), user, b"'"].concat();
            self.reply_error(&line);
            return Ok(());
        }
        let shared = Rc::clone(&self.shared);
        let me = self.outbox().id();
        let lines = shared.peers.lines().await;
        let targets: Vec<u64> = lines.iter().filter(|line| filter.matches(line, me)).map(|line| line.id).collect();
        let real = self.kill_real(&filter).await;
        let mut frame = BytesMut::new();
        let killed = targets.len() as u64 + real;
        encode::integer(&mut frame, i64::try_from(killed).unwrap_or(i64::MAX));
        // The client's own connection closes behind this reply, which must be sent before.
        self.reply(&frame);
        self.drained().await?;
        shared.peers.kill(&targets).await;
        Ok(())
    }

    async fn kill_by_address(&self, request: &Request) -> Result<(), Closed> {
        let shared = Rc::clone(&self.shared);
        let address = String::from_utf8_lossy(request.nth(2)).into_owned();
        let lines = shared.peers.lines().await;
        let targets: Vec<u64> = lines.iter().filter(|line| line.addr == address).map(|line| line.id).collect();
        if !targets.is_empty() {
            self.reply_ok();
            shared.peers.kill(&targets[..1]).await;
            return Ok(());
        }
        let filter = Filter { addr: Some(address), ..Filter::default() };
        if self.kill_real(&filter).await > 0 {
            self.reply_ok();
        } else {
            self.reply_error(error_reply::NO_SUCH_CLIENT);
        }
        Ok(())
    }

    /// Kills upstream clients that match and are none of our links, one by one by id. How many died.
    async fn kill_real(&self, filter: &Filter) -> u64 {
        let control = &self.up().control;
        let Ok(list) = control.ask(&[b"CLIENT", b"LIST"]).await else { return 0 };
        let Some(text) = success(&list).and_then(|v| v.as_text().map(|t| String::from_utf8_lossy(t).into_owned()))
        else {
            return 0;
        };
        let mut killed = 0;
        for line in text.lines().filter(|line| !self.is_ours(line) && filter.matches_real(line)) {
            let Some(id) = field(line, "id") else { continue };
            let reply = control.ask(&[b"CLIENT", b"KILL", b"ID", id.as_bytes()]).await;
            killed += u64::from(reply.is_ok_and(|reply| reply == b":1\r\n"));
        }
        killed
    }

    /// CLIENT UNBLOCK: a virtual id stands for the connection on which that client is blocked now.
    pub(super) async fn client_unblock(&mut self, request: &Request) -> Result<(), Closed> {
        let id = std::str::from_utf8(request.nth(2)).ok().and_then(|text| text.parse::<u64>().ok());
        let mut words: Vec<&[u8]> = vec![b"CLIENT", b"UNBLOCK", NOBODY.as_bytes()];
        words.extend(request.args_from(3));
        let mut twin = BytesMut::new();
        encode::command(&mut twin, &words);
        let Some(id) = id.filter(|id| Ids::is_virtual(*id)) else {
            // On a connection of ours others wait: for a client that id is nobody's.
            let is_ours = strict_integer(request.nth(2)).is_some_and(|id| self.up().owned.contains(id));
            let key = self.profile.session.borrow().key.clone();
            let asked = if is_ours { &twin[..] } else { request.raw() };
            let answer = self.twin_bytes(&key, request.id(), asked).await?;
            self.pass_on(answer);
            return Ok(());
        };
        if !self.may_administer(&twin).await? {
            return Ok(());
        }
        let with_error = request.count() > 3 && token_is(request.nth(3), "ERROR");
        let how = if with_error { Goodbye::Error } else { Goodbye::Nil };
        let shared = Rc::clone(&self.shared);
        match shared.peers.unblock(id, how).await {
            Some(Unblocked::Reply(reply)) => self.reply(&reply),
            None => self.reply(b":0\r\n"),
            Some(Unblocked::NotExecuted) => self.reply_error(error_reply::NOT_EXECUTED),
            Some(Unblocked::Unknown) => return Err(Closed(CloseReason::UpstreamLost)),
        }
        Ok(())
    }

    fn reply_verbatim(&self, text: &[u8]) {
        let mut frame = BytesMut::with_capacity(text.len() + 32);
        encode::verbatim_txt(&mut frame, text, self.resp().number());
        self.reply(&frame);
    }
}

/// CLIENT LIST and KILL filters, over virtual clients.
#[derive(Debug, Default)]
struct Filter {
    ids: Option<Vec<u64>>,
    kind: Option<String>,
    user: Option<Vec<u8>>,
    addr: Option<String>,
    laddr: Option<String>,
    max_age: Option<u64>,
    skip_me: bool,
}

impl Filter {
    /// CLIENT LIST [TYPE t] [ID id …]; the server has checked the syntax.
    fn of_list(request: &Request) -> Self {
        let mut filter = Self::default();
        let mut at = 2;
        while at < request.count() {
            if token_is(request.nth(at), "ID") {
                let ids = request.args_from(at + 1).map_while(number).collect::<Vec<_>>();
                at += 1 + ids.len();
                filter.ids = Some(ids);
            } else {
                filter.set(request.nth(at), request.nth(at + 1));
                at += 2;
            }
        }
        filter
    }

    /// CLIENT KILL with filters. The caller itself is spared unless SKIPME no.
    fn of_kill(request: &Request, flavour: Flavour) -> Result<Self, Vec<u8>> {
        let mut filter = Self { skip_me: true, ..Self::default() };
        if !request.count().is_multiple_of(2) {
            return Err(error_reply::SYNTAX.to_vec());
        }
        for at in (2..request.count()).step_by(2) {
            let (name, value) = (request.nth(at), request.nth(at + 1));
            if token_is(name, "ID") {
                let Some(id) = number(value).filter(|id| *id > 0) else {
                    let text: &[u8] =
                        if flavour.valkey { error_reply::SYNTAX } else { b"ERR client-id should be greater than 0" };
                    return Err(text.to_vec());
                };
                filter.ids = Some(vec![id]);
            } else if token_is(name, "TYPE") && !known_kind(value) {
                return Err([b"ERR Unknown client type '".as_slice(), value, b"'"].concat());
            } else if !filter.set(name, value) {
                return Err(error_reply::SYNTAX.to_vec());
            }
        }
        Ok(filter)
    }

    /// One option with its value; `false` for one that is none.
    fn set(&mut self, name: &[u8], value: &[u8]) -> bool {
        let text = || String::from_utf8_lossy(value).into_owned();
        if token_is(name, "TYPE") {
            self.kind = Some(text().to_ascii_lowercase());
        } else if token_is(name, "USER") {
            self.user = Some(value.to_vec());
        } else if token_is(name, "ADDR") {
            self.addr = Some(text());
        } else if token_is(name, "LADDR") {
            self.laddr = Some(text());
        } else if token_is(name, "MAXAGE") {
            self.max_age = number(value);
        } else if token_is(name, "SKIPME") && (token_is(value, "YES") || token_is(value, "NO")) {
            self.skip_me = token_is(value, "YES");
        } else {
            return false;
        }
        true
    }

    fn matches(&self, line: &Line, me: u64) -> bool {
        !(self.skip_me && line.id == me)
            && self.ids.as_ref().is_none_or(|ids| ids.contains(&line.id))
            && self.kind.as_ref().is_none_or(|kind| kind == line.kind())
            && self.user.as_ref().is_none_or(|user| *user == line.user)
            && self.addr.as_ref().is_none_or(|addr| *addr == line.addr)
            && self.laddr.as_ref().is_none_or(|laddr| *laddr == line.laddr)
            && self.max_age.is_none_or(|age| line.age >= age)
    }

    /// The same over a line of the upstream.
    fn matches_real(&self, line: &str) -> bool {
        let is = |name: &str, wanted: &str| field(line, name) == Some(wanted);
        self.ids.as_ref().is_none_or(|ids| ids.iter().any(|id| is("id", &id.to_string())))
            && self.kind.as_ref().is_none_or(|kind| kind == real_kind(line))
            && self.user.as_ref().is_none_or(|user| is("user", &String::from_utf8_lossy(user)))
            && self.addr.as_ref().is_none_or(|addr| is("addr", addr))
            && self.laddr.as_ref().is_none_or(|laddr| is("laddr", laddr))
            && self
                .max_age
                .is_none_or(|age| field(line, "age").and_then(|a| a.parse().ok()).is_some_and(|a: u64| a >= age))
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn known_kind(value: &[u8]) -> bool {
    ["normal", "master", "replica", "slave", "pubsub", "primary"].iter().any(|kind| token_is(value, kind))
}

/// The type of an upstream client, from its flags.
fn real_kind(line: &str) -> &'static str {
    let flags = field(line, "flags").unwrap_or_default();
    if flags.contains('S') {
        "replica"
    } else if flags.contains('M') {
        "master"
    } else if flags.contains('P') {
        "pubsub"
    } else {
        "normal"
    }
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// `template` with the values of `line`; fields that a version does not have stay out.
fn render(table: &CommandTable, template: &str, line: &Line) -> String {
    let mut text = String::with_capacity(template.len() + 32);
    for pair in template.trim_end().split(' ') {
        let (name, old) = pair.split_once('=').unwrap_or((pair, ""));
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(name);
        text.push('=');
        text.push_str(&value(table, name, old, line));
    }
    text
}

fn value(table: &CommandTable, name: &str, old: &str, line: &Line) -> String {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match name {
        "id" => line.id.to_string(),
        "addr" => line.addr.clone(),
        "laddr" => line.laddr.clone(),
        "fd" => "0".into(),
        "name" => lossy(&line.name),
        "age" => line.age.to_string(),
        "idle" => line.idle.to_string(),
        "flags" => line.flags(),
        "db" => line.db.to_string(),
        "sub" => line.channels.to_string(),
        "psub" => line.patterns.to_string(),
        "ssub" => line.shards.to_string(),
        // Valkey 9 writes 0 where Redis writes -1: the template's own idle value is kept outside MULTI.
        "multi" if line.multi < 0 => old.to_owned(),
        "multi" => line.multi.to_string(),
        "watch" => "0".into(),
        "cmd" => table.spec(line.command).full_name(),
        "user" => lossy(&line.user),
        "resp" => line.resp.to_string(),
        "lib-name" => lossy(&line.lib_name),
        "lib-ver" => lossy(&line.lib_version),
        _ => old.to_owned(),
    }
}

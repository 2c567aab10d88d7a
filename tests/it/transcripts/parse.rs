//! From the text of a transcript to its steps. The notation is told in [`super`].

use std::time::Duration;

use kit::{Flavour, ProxyOptions};

use super::pattern::{self, Pattern};

/// What is played against: a server itself, or respmux in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arm {
    Direct,
    Proxy,
}

/// One transcript file.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    pub(super) name: String,
    pub(super) flavours: Vec<Flavour>,
    /// False when the file is a deviation as a whole; the reason stands in the file.
    pub(super) direct: bool,
    /// Arguments for servers and proxies of its own; none of them: the shared ones will do.
    pub(super) redis: Vec<String>,
    pub(super) proxy: Option<ProxyOptions>,
    /// Upstream connections that it needs; more than six keep it off the tight proxy.
    pub(super) needs: u32,
    /// Every round gets a server and a proxy of its own, and there is none for each split: it takes long by nature, or
    /// leaves behind what a reset does not undo (what the proxy learned about the default user, for up to a second).
    pub(super) slow: bool,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) line: usize,
    pub(super) flavours: Vec<Flavour>,
    pub(super) arm: Option<Arm>,
    pub(super) action: Action,
}

#[derive(Debug)]
pub(super) enum Action {
    Send(String, Vec<SendPiece>),
    Expect(String, Pattern, bool),
    /// These patterns, in whatever order.
    ExpectAnyOrder(String, Vec<Pattern>),
    Quiet(String, Duration),
    /// Lets time pass that the product is allowed to take (and the server need not be told).
    Pause(Duration),
    Open(String, Option<u8>),
    Close(String),
    Shutdown(String),
    Reset(String),
    /// Ask until the reply has this in it.
    Until(String, Vec<Vec<SendPiece>>, Pattern),
}

/// Bytes to send, with holes for captured values. In a command each argument is a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SendPiece {
    Bytes(Vec<u8>),
    Captured(String),
    /// One multibulk command.
    Command(Vec<Vec<Self>>),
}

impl Step {
    pub(super) fn applies(&self, flavour: Flavour, arm: Arm) -> bool {
        self.flavours.contains(&flavour) && self.arm.is_none_or(|only| only == arm)
    }
}

pub(super) fn parse(name: &str, text: &str) -> Result<Transcript, String> {
    let mut transcript =
        Transcript { name: name.to_owned(), flavours: Flavour::ALL.to_vec(), direct: true, ..Transcript::default() };
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        parse_line(&mut transcript, index + 1, line).map_err(|error| format!("{name}:{}: {error}", index + 1))?;
    }
    Ok(transcript)
}

fn parse_line(transcript: &mut Transcript, number: usize, line: &str) -> Result<(), String> {
    let (flavours, arm, line) = condition(line)?;
    if let Some(directive) = line.strip_prefix('@') {
        let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
        match word {
            "flavours" => transcript.flavours = flavour_list(rest)?,
            "direct" if rest.starts_with("no:") => transcript.direct = false,
            "redis" => transcript.redis.extend(words(rest)),
            "proxy" => proxy_options(transcript.proxy.get_or_insert_default(), rest)?,
            "needs" => transcript.needs = rest.parse().map_err(|_| "@needs wants a number")?,
            "slow" => transcript.slow = true,
            _ => transcript.steps.push(Step { line: number, flavours, arm, action: directive_step(word, rest)? }),
        }
        return Ok(());
    }
    let action = if let Some((who, raw)) = line.split_once(">>").filter(|(who, _)| is_name(who)) {
        Action::Send(who.to_owned(), raw_send(raw)?)
    } else if let Some((who, commands)) = line.split_once('>').filter(|(who, _)| is_name(who)) {
        Action::Send(who.to_owned(), command_send(commands)?.into_iter().map(SendPiece::Command).collect())
    } else if let Some((who, patterns)) = line.split_once("<~").filter(|(who, _)| is_name(who)) {
        let patterns = patterns.split("||").map(pattern::parse).collect::<Result<_, _>>()?;
        Action::ExpectAnyOrder(who.to_owned(), patterns)
    } else if let Some((who, wanted)) = line.split_once('<').filter(|(who, _)| is_name(who)) {
        let (wanted, eof) = match wanted.trim_end().strip_suffix("EOF") {
            Some(before) => (before, true),
            None => (wanted, false),
        };
        Action::Expect(who.to_owned(), pattern::parse(wanted)?, eof)
    } else {
        return Err(format!("not understood: {line}"));
    };
    transcript.steps.push(Step { line: number, flavours, arm, action });
    Ok(())
}

fn is_name(text: &str) -> bool {
    text.starts_with(['C', 'D']) && text[1..].bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// `[7.0 8.2]`, `[!7.0]`, `[proxy]`, `[direct valkey9]` in front of a line.
fn condition(line: &str) -> Result<(Vec<Flavour>, Option<Arm>, &str), String> {
    let Some((inside, rest)) = line.strip_prefix('[').and_then(|after| after.split_once(']')) else {
        return Ok((Flavour::ALL.to_vec(), None, line));
    };
    let (mut named, mut barred, mut arm) = (Vec::new(), Vec::new(), None);
    for word in inside.split_whitespace() {
        match (word, word.strip_prefix('!')) {
            ("proxy", _) => arm = Some(Arm::Proxy),
            ("direct", _) => arm = Some(Arm::Direct),
            (_, Some(name)) => barred.push(flavour(name)?),
            (name, None) => named.push(flavour(name)?),
        }
    }
    let base = if named.is_empty() { Flavour::ALL.to_vec() } else { named };
    Ok((base.into_iter().filter(|flavour| !barred.contains(flavour)).collect(), arm, rest.trim_start()))
}

fn flavour(name: &str) -> Result<Flavour, String> {
    let found = Flavour::ALL.into_iter().find(|flavour| flavour.name() == name);
    found.ok_or_else(|| format!("{name:?} is no flavour"))
}

fn flavour_list(text: &str) -> Result<Vec<Flavour>, String> {
    text.split_whitespace().map(flavour).collect()
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split_whitespace().map(str::to_owned)
}

fn proxy_options(options: &mut ProxyOptions, text: &str) -> Result<(), String> {
    let mut left = text.split_whitespace();
    while let Some(word) = left.next() {
        let mut value = || left.next().ok_or_else(|| format!("{word} wants a value"));
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("{text:?} is no number"));
        match word {
            "--set" => options.settings.push(value()?.to_owned()),
            "--workers" => options.workers = Some(number(value()?)?),
            "--max-upstream-connections" => options.max_upstream_connections = Some(number(value()?)?),
            other => options.arguments.push(other.to_owned()),
        }
    }
    Ok(())
}

fn directive_step(word: &str, rest: &str) -> Result<Action, String> {
    if word == "pause" {
        return Ok(Action::Pause(milliseconds(rest)?));
    }
    let mut parts = rest.split_whitespace();
    let who = parts.next().filter(|who| is_name(who)).ok_or_else(|| format!("@{word} wants a client"))?.to_owned();
    let argument = parts.next();
    match (word, argument) {
        ("open", None) => Ok(Action::Open(who, None)),
        ("open", Some("resp2")) => Ok(Action::Open(who, Some(2))),
        ("open", Some("resp3")) => Ok(Action::Open(who, Some(3))),
        ("close", None) => Ok(Action::Close(who)),
        ("shutdown", None) => Ok(Action::Shutdown(who)),
        ("reset", None) => Ok(Action::Reset(who)),
        ("quiet", Some(time)) => Ok(Action::Quiet(who, milliseconds(time)?)),
        // @until D LLEN q = :0/
        ("until", Some(_)) => {
            let (_, rest) = rest.split_once(' ').expect("there is a second word");
            let (question, wanted) = rest.split_once(" = ").ok_or("@until D COMMAND = reply")?;
            let mut commands = command_send(question)?;
            Ok(Action::Until(who, commands.pop().ok_or("@until wants a command")?, pattern::parse(wanted)?))
        }
        _ => Err(format!("@{word} {rest} is not understood")),
    }
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix("ms").and_then(|time| time.parse().ok());
    number.map(Duration::from_millis).ok_or_else(|| format!("{text:?} is no time like 50ms"))
}

/// Raw bytes: `/` is CRLF.
fn raw_send(text: &str) -> Result<Vec<SendPiece>, String> {
    let (mut pieces, mut bytes, mut rest) = (Vec::new(), Vec::new(), text.trim());
    while !rest.is_empty() {
        if let Some((name, after)) = rest.strip_prefix("<$").and_then(|after| after.split_once('>')) {
            pieces.push(SendPiece::Bytes(std::mem::take(&mut bytes)));
            pieces.push(SendPiece::Captured(name.to_owned()));
            rest = after;
        } else {
            rest = pattern::unescape(rest, &mut bytes)?;
        }
    }
    pieces.push(SendPiece::Bytes(bytes));
    Ok(pieces)
}

/// Commands in words: ` / ` between commands, `"…"` around arguments with spaces, `\` escapes, `{x*9}` repeats,
/// `<$name>` captured values.
fn command_send(text: &str) -> Result<Vec<Vec<Vec<SendPiece>>>, String> {
    let mut commands = vec![Vec::new()];
    let mut rest = text.trim();
    while !rest.is_empty() {
        let ends = rest.strip_prefix('/').filter(|after| after.is_empty() || after.starts_with(char::is_whitespace));
        if let Some(after) = ends {
            commands.push(Vec::new());
            rest = after.trim_start();
            continue;
        }
        let (argument, after) = argument(rest)?;
        commands.last_mut().expect("never empty").push(argument);
        rest = after.trim_start();
    }
    commands.retain(|command| !command.is_empty());
    Ok(commands)
}

fn argument(text: &str) -> Result<(Vec<SendPiece>, &str), String> {
    let (mut pieces, mut bytes) = (Vec::new(), Vec::new());
    let (quoted, mut rest) = match text.strip_prefix('"') {
        Some(after) => (true, after),
        None => (false, text),
    };
    loop {
        let next = rest.chars().next();
        match next {
            Some('"') if quoted => {
                rest = &rest[1..];
                break;
            }
            None if quoted => return Err("a quote that is not closed".to_owned()),
            None => break,
            Some(space) if !quoted && space.is_whitespace() => break,
            Some('\\') => rest = pattern::escape(&rest[1..], &mut bytes)?,
            Some('{') => rest = pattern::repeat(&rest[1..], &mut bytes)?,
            Some('<') if rest.starts_with("<$") => {
                let (name, after) = rest[2..].split_once('>').ok_or("a `<$` without its `>`")?;
                pieces.push(SendPiece::Bytes(std::mem::take(&mut bytes)));
                pieces.push(SendPiece::Captured(name.to_owned()));
                rest = after;
            }
            Some(other) => {
                bytes.extend_from_slice(other.to_string().as_bytes());
                rest = &rest[other.len_utf8()..];
            }
        }
    }
    pieces.push(SendPiece::Bytes(bytes));
    Ok((pieces, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_raw_bytes_and_conditions_are_told_apart() {
        let text = "@flavours 7.0 valkey9\n@needs 9\n# why\nC1> SET \"a b\" {x*3} / PING\nC1>> PING/\\0/\n[!7.0 proxy] C1< +OK/ EOF\n";
        let transcript = parse("t", text).unwrap();
        assert_eq!(transcript.flavours, [Flavour::Redis70, Flavour::Valkey9]);
        assert_eq!((transcript.needs, transcript.direct, transcript.steps.len()), (9, true, 3));
        let Action::Send(_, pieces) = &transcript.steps[0].action else { panic!("{:?}", transcript.steps[0]) };
        let set: Vec<_> = [&b"SET"[..], b"a b", b"xxx"].map(|word| vec![SendPiece::Bytes(word.to_vec())]).into();
        assert_eq!(pieces[0], SendPiece::Command(set));
        assert_eq!(pieces.len(), 2);
        let Action::Send(_, raw) = &transcript.steps[1].action else { panic!("{:?}", transcript.steps[1]) };
        assert_eq!(raw[0], SendPiece::Bytes(b"PING\r\n\0\r\n".to_vec()));
        assert!(transcript.steps[2].applies(Flavour::Valkey9, Arm::Proxy));
        assert!(!transcript.steps[2].applies(Flavour::Valkey9, Arm::Direct));
        assert!(!transcript.steps[2].applies(Flavour::Redis70, Arm::Proxy));
    }

    #[test]
    fn what_is_not_understood_names_its_line() {
        for (text, part) in
            [("\nE1> PING", "t:2: not understood"), ("@what C1", "t:1: @what"), ("C1< <nope>", "no kind of hole")]
        {
            let error = parse("t", text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}

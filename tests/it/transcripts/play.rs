//! Plays one transcript once: against a server or through the proxy, with the clients' packets cut in one way.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use kit::{Address, Flavour, ReadEnd, Shown, TestClient, encode, eventually, pause};

use super::parse::{Action, Arm, SendPiece, Step, Transcript};
use super::pattern::{self, Captured, Outcome, Pattern};

/// How long the next expected bytes may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between the parts of a cut packet, so that the other side reads them apart. Expectations hold without it too.
const BETWEEN_PARTS: Duration = Duration::from_micros(250);
/// The same between single bytes.
const BETWEEN_BYTES: Duration = Duration::from_micros(30);

/// How a client's writes are cut into packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    Whole,
    /// The first so many bytes of every write, then the rest.
    At(usize),
    Bytewise,
}

/// One round of a transcript.
pub(super) struct Play<'a> {
    pub(super) transcript: &'a Transcript,
    pub(super) flavour: Flavour,
    pub(super) arm: Arm,
    pub(super) split: Split,
    /// Where `C…` connect.
    pub(super) target: Address,
    /// Where `D…` connect: the server itself.
    pub(super) server: Address,
}

/// The connections of a round that is under way.
struct Stage<'a> {
    play: &'a Play<'a>,
    clients: BTreeMap<String, TestClient>,
    captured: Captured,
}

impl Play<'_> {
    /// The first thing that was not as the transcript says, with its line.
    pub(super) fn run(&self) -> Result<(), String> {
        let mut stage = Stage { play: self, clients: BTreeMap::new(), captured: Captured::new() };
        for step in self.transcript.steps.iter().filter(|step| step.applies(self.flavour, self.arm)) {
            stage.step(step).map_err(|complaint| self.place(step.line, &complaint))?;
        }
        stage.leftovers().map_err(|complaint| self.place(0, &complaint))
    }

    fn place(&self, line: usize, complaint: &str) -> String {
        let Self { transcript, flavour, arm, split, .. } = self;
        let place = if line == 0 { "end".to_owned() } else { line.to_string() };
        format!("{}:{place} [{} {arm:?} {split:?}] {complaint}", transcript.name, flavour.name())
    }
}

impl Stage<'_> {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        match &step.action {
            Action::Send(who, pieces) => {
                let bytes = self.bytes(pieces);
                self.send(who, &bytes)
            }
            Action::Expect(who, pieces, eof) => {
                self.expect(who, std::slice::from_ref(pieces))?;
                if *eof { self.expect_eof(who) } else { Ok(()) }
            }
            Action::ExpectAnyOrder(who, patterns) => self.expect(who, patterns),
            Action::Quiet(who, time) => self.expect_quiet(who, *time),
            Action::Pause(time) => {
                pause(*time);
                Ok(())
            }
            Action::Open(who, version) => self.open(who, *version),
            Action::Close(who) => {
                self.clients.remove(who);
                Ok(())
            }
            Action::Shutdown(who) => {
                self.client(who)?.shut_write();
                Ok(())
            }
            Action::Reset(who) => {
                self.client(who)?;
                self.clients.remove(who).expect("opened by the line above").reset();
                Ok(())
            }
            Action::Until(who, command, wanted) => self.until(who, command, wanted),
        }
    }

    /// The named connection, opened on first use.
    fn client(&mut self, who: &str) -> Result<&mut TestClient, String> {
        if !self.clients.contains_key(who) {
            let address = if who.starts_with('D') { &self.play.server } else { &self.play.target };
            let client = TestClient::try_connect(address).map_err(|error| format!("{who} to {address:?}: {error}"))?;
            self.clients.insert(who.to_owned(), client);
        }
        Ok(self.clients.get_mut(who).expect("inserted above"))
    }

    fn open(&mut self, who: &str, version: Option<u8>) -> Result<(), String> {
        let client = self.client(who)?;
        if let Some(version) = version {
            client.send_command(&["HELLO", &version.to_string()]);
            match client.try_read_frame(PATIENCE) {
                Ok(frame) if !frame.is_error() => {}
                other => return Err(format!("{who}: HELLO {version}: {other:?}")),
            }
        }
        Ok(())
    }

    fn send(&mut self, who: &str, bytes: &[u8]) -> Result<(), String> {
        let split = if who.starts_with('D') { Split::Whole } else { self.play.split };
        let client = self.client(who)?;
        match split {
            Split::Whole => client.send(bytes),
            Split::At(at) => {
                let (first, rest) = bytes.split_at(at.min(bytes.len()));
                client.send(first);
                if !rest.is_empty() {
                    pause(BETWEEN_PARTS);
                    client.send(rest);
                }
            }
            // Of a long write only both ends are cut: that is where the boundaries of its parts are.
            Split::Bytewise => {
                let cut = 300;
                let middle = bytes.len().saturating_sub(cut).max(cut.min(bytes.len()));
                for byte in bytes[..cut.min(bytes.len())].chunks(1) {
                    client.send(byte);
                    pause(BETWEEN_BYTES);
                }
                client.send(&bytes[cut.min(bytes.len())..middle]);
                for byte in bytes[middle..].chunks(1) {
                    client.send(byte);
                    pause(BETWEEN_BYTES);
                }
            }
        }
        Ok(())
    }

    fn bytes(&self, pieces: &[SendPiece]) -> Vec<u8> {
        pieces.iter().fold(Vec::new(), |mut bytes, piece| {
            match piece {
                SendPiece::Bytes(more) => bytes.extend_from_slice(more),
                SendPiece::Captured(name) => {
                    let value = self.captured.get(name).unwrap_or_else(|| panic!("<${name}> was not captured"));
                    bytes.extend_from_slice(value);
                }
                SendPiece::Command(arguments) => {
                    let arguments: Vec<_> = arguments.iter().map(|argument| self.bytes(argument)).collect();
                    bytes.extend_from_slice(&encode(&arguments));
                }
            }
            bytes
        })
    }

    /// These patterns come next, in any order if there are several.
    fn expect(&mut self, who: &str, patterns: &[Pattern]) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let captured = self.captured.clone();
        let client = self.client(who)?;
        loop {
            let outcome = lay_any_order(patterns, client.received(), &captured);
            if let Outcome::Match(used, captures) = outcome {
                client.take(used);
                self.captured.extend(captures);
                return Ok(());
            }
            let read = if outcome == Outcome::NeedMore { client.read_some(deadline) } else { Ok(()) };
            if matches!(outcome, Outcome::Mismatch(_)) || read.is_err() {
                return Err(complaint(who, patterns, client.received(), &outcome, read.err()));
            }
        }
    }

    fn expect_eof(&mut self, who: &str) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let client = self.client(who)?;
        loop {
            if !client.received().is_empty() {
                return Err(format!("{who}: wanted EOF, got {:?}", Shown(client.received())));
            }
            match client.read_some(deadline) {
                Ok(()) => {}
                Err(ReadEnd::Eof) => return Ok(()),
                Err(ReadEnd::TimedOut) => {
                    return Err(format!("{who}: wanted EOF, the connection stayed open"));
                }
            }
        }
    }

    fn expect_quiet(&mut self, who: &str, time: Duration) -> Result<(), String> {
        let deadline = Instant::now() + time;
        let client = self.client(who)?;
        loop {
            if !client.received().is_empty() {
                return Err(format!("{who}: wanted nothing, got {:?}", Shown(client.received())));
            }
            match client.read_some(deadline) {
                Ok(()) => {}
                Err(ReadEnd::TimedOut) => return Ok(()),
                Err(ReadEnd::Eof) => return Err(format!("{who}: wanted silence, got EOF")),
            }
        }
    }

    fn until(&mut self, who: &str, command: &[Vec<SendPiece>], wanted: &Pattern) -> Result<(), String> {
        let bytes = self.bytes(&[SendPiece::Command(command.to_vec())]);
        let captured = self.captured.clone();
        let client = self.client(who)?;
        let deadline = Instant::now() + PATIENCE;
        eventually(PATIENCE * 2, || {
            client.send(&bytes);
            let start = client.received().len();
            assert_eq!(start, 0, "{who} has unread bytes before @until");
            let Ok(frame) = client.try_read_frame(PATIENCE) else {
                return Ok(Err(format!("{who}: no answer")));
            };
            let reply = frame.to_bytes();
            match pattern::lay(wanted, &reply, &captured) {
                Outcome::Match(used, _) if used == reply.len() => Ok(Ok(())),
                _ if Instant::now() > deadline => Ok(Err(format!("{who}: still {:?}", Shown(&reply)))),
                _ => Err("not yet"),
            }
        })
    }

    /// Nobody may have received more than the transcript says.
    fn leftovers(&mut self) -> Result<(), String> {
        for (who, client) in &mut self.clients {
            let _ = client.read_some(Instant::now());
            if !client.received().is_empty() {
                return Err(format!("{who}: more than expected: {:?}", Shown(client.received())));
            }
        }
        Ok(())
    }
}

/// All patterns, each once, in whatever order they came.
fn lay_any_order(patterns: &[Pattern], received: &[u8], captured: &Captured) -> Outcome {
    if let [only] = patterns {
        return pattern::lay(only, received, captured);
    }
    let mut furthest = Outcome::Mismatch(0);
    for (index, first) in patterns.iter().enumerate() {
        let Outcome::Match(used, mut captures) = pattern::lay(first, received, captured) else {
            if pattern::lay(first, received, captured) == Outcome::NeedMore {
                furthest = Outcome::NeedMore;
            }
            continue;
        };
        let mut rest = patterns.to_vec();
        rest.remove(index);
        match lay_any_order(&rest, &received[used..], captured) {
            Outcome::Match(more, others) => {
                captures.extend(others);
                return Outcome::Match(used + more, captures);
            }
            Outcome::NeedMore => furthest = Outcome::NeedMore,
            Outcome::Mismatch(at) if furthest != Outcome::NeedMore => furthest = Outcome::Mismatch(used + at),
            Outcome::Mismatch(_) => {}
        }
    }
    furthest
}

fn complaint(who: &str, patterns: &[Pattern], received: &[u8], outcome: &Outcome, end: Option<ReadEnd>) -> String {
    let mut text = format!("{who}: ");
    match (outcome, end) {
        (Outcome::Mismatch(at), _) => {
            let from = at.saturating_sub(10);
            let _ = write!(text, "differs at byte {at}, from {:?}: ", Shown(&received[from.min(received.len())..]));
        }
        (_, end) => {
            let _ = write!(text, "{end:?} after {} bytes: ", received.len());
        }
    }
    let _ = write!(text, "got {:?}\n      wanted {patterns:?}", Shown(received));
    text.truncate(text.char_indices().nth(3000).map_or(text.len(), |(at, _)| at));
    text
}

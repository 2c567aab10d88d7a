//! A simulated client that waits for what never comes, until its time is over or somebody unblocks it: it, and nobody
//! else.

use super::client::Wire;
use super::pause;
use super::server::UNBLOCKED;

/// CLIENT UNBLOCK … ERROR of one client.
#[derive(Debug, Default)]
pub(super) struct Unblocks {
    /// Sent, and not known to have hit nobody.
    pub(super) sent: u32,
    /// Answered with 1.
    pub(super) told: u32,
    /// Waits that ended so.
    pub(super) felt: u32,
    /// It left in the middle of a wait: what hit it then nobody knows.
    pub(super) gone: bool,
}

impl Unblocks {
    /// Every 1 ended one wait, and nothing else did.
    pub(super) fn is_right(&self) -> bool {
        self.felt <= self.sent && (self.gone || self.told <= self.felt)
    }
}

/// One life of a client that waits.
pub(super) struct Waiter {
    wire: Wire,
}

impl Waiter {
    pub(super) fn new(wire: Wire) -> Self {
        Self { wire }
    }

    pub(super) async fn live(mut self, rounds: usize) {
        let Some(number) = self.number().await else { return self.wire.part() };
        self.wire.ledger.unblocks.borrow_mut().entry(number).or_default();
        let key = format!("nothing{}", self.wire.id).into_bytes();
        for _ in 0..rounds {
            pause(2000).await;
            let millis = 10 * (1 + fastrand::u32(..6));
            let (time, millis) = (format!("0.0{}", millis / 10).into_bytes(), millis.to_string().into_bytes());
            let words: &[&[u8]] = match fastrand::u8(..4) {
                0 => &[b"BLPOP", &key, &time],
                1 => &[b"BLMOVE", &key, &key, b"LEFT", b"RIGHT", &time],
                // On a connection of its own, if there is one.
                _ => &[b"XREAD", b"BLOCK", &millis, b"STREAMS", &key, b"0"],
            };
            let Some(frame) = self.wire.ask(words).await else {
                self.update(number, |unblocks| unblocks.gone = true);
                break;
            };
            let right = match &frame[..] {
                UNBLOCKED => {
                    self.update(number, |unblocks| unblocks.felt += 1);
                    true
                }
                frame if frame.starts_with(b"-") => self.wire.refused(frame),
                frame => frame == b"*-1\r\n",
            };
            if !right {
                self.wire.wrong(format!("waited for nothing, got {}", frame.escape_ascii()));
                break;
            }
        }
        self.wire.part();
    }

    /// The number by which others know it.
    async fn number(&mut self) -> Option<u64> {
        let frame = self.wire.ask(&[b"CLIENT", b"ID"]).await?;
        std::str::from_utf8(&frame).ok()?.trim_end().strip_prefix(':')?.parse().ok()
    }

    fn update(&self, number: u64, change: impl FnOnce(&mut Unblocks)) {
        change(self.wire.ledger.unblocks.borrow_mut().entry(number).or_default());
    }
}

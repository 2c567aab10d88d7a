//! Commands that the static table does not list: the upstream says what they are (rule L5).

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Control;
use crate::link::decoded;
use crate::resp::cold::Value;

/// Names remembered at most.
const MAX_NAMES: usize = 4096;
/// How long an answer counts: a module may be loaded, or a command renamed, behind our back.
const LIFE: Duration = Duration::from_secs(10);
/// Flags with which a command may hurt other clients of a lane.
const UNSAFE_FLAGS: &[&str] = &["blocking", "pubsub", "noscript", "admin", "no_multi"];

/// Where an unknown command may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Lane,
    Isolated,
}

/// What the upstream said about unlisted names, for a while.
#[derive(Default)]
pub struct Unknowns {
    known: RefCell<HashMap<Vec<u8>, (Instant, Verdict)>>,
}

impl Unknowns {
    /// Asks the upstream about `name`; in doubt it is isolated.
    pub async fn verdict(&self, control: &Control, name: &[u8]) -> Verdict {
        let key = name.to_ascii_uppercase();
        if let Some((at, verdict)) = self.known.borrow().get(&key)
            && crate::base::since(*at) < LIFE
        {
            return *verdict;
        }
        let Ok(reply) = control.ask(&[b"COMMAND", b"INFO", name]).await else { return Verdict::Isolated };
        let verdict = decoded(&reply).map_or(Verdict::Isolated, |value| judge(&value));
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_NAMES {
            known.clear();
        }
        known.insert(key, (crate::base::now(), verdict));
        verdict
    }

    /// The upstream may be another one now.
    pub fn forget(&self) {
        self.known.borrow_mut().clear();
    }
}

/// `COMMAND INFO name` answers a list of one entry, nil for a name that does not exist: then the server's "unknown
/// command" is harmless on a lane.
fn judge(value: &Value) -> Verdict {
    let Some(entry) = value.as_list().and_then(<[Value]>::first) else { return Verdict::Isolated };
    if matches!(entry, Value::Nil) {
        return Verdict::Lane;
    }
    let flags = entry.as_list().and_then(|fields| fields.get(2)).and_then(Value::as_list).unwrap_or_default();
    let has = |name: &str| flags.iter().any(|f| f.as_text().is_some_and(|t| t.eq_ignore_ascii_case(name.as_bytes())));
    let safe = (has("write") || has("readonly")) && !UNSAFE_FLAGS.iter().any(|flag| has(flag));
    if safe { Verdict::Lane } else { Verdict::Isolated }
}

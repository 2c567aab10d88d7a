//! What users may do, as far as the upstream has said so lately: asked once for each identity and command, not for each
//! command that is answered here. Refusals are not kept: the upstream repeats them in its own words, and notes them.
//!
//! Questions that have no answer yet are not here but in [`PermissionChecks`](super::PermissionChecks). The two share neither key
//! nor life: there, those who ask the same while it is asked share one answer, which is then forgotten; here, an answer
//! that was given serves for a second. Whoever needs a right looks here first and asks there.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

use crate::base::nanos;
use crate::command::CommandId;
use crate::session::Identity;

/// For how long a granted right counts. A change that passes through respmux ends it at once; one made elsewhere is
/// seen after this time.
const HOLDS: Duration = Duration::from_secs(1);

/// Rights that are kept; beyond that it is begun anew.
const MOST: usize = 4096;

/// The rights of one worker's identities.
#[derive(Default)]
pub struct PermissionCache {
    known: RefCell<HashMap<(Identity, CommandId), u64>>,
    /// The number of the change of rights up to which `known` is right.
    rules: Cell<u64>,
}

/// How well a right is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    No,
    /// The right was granted a while ago, and nothing is known to have changed.
    Once,
    Now,
}

impl PermissionCache {
    /// Whether `identity` may use `id`; `rules` counts changes of rights that have passed by in any worker, `now` is in
    /// nanoseconds.
    #[must_use]
    pub fn knows(&self, identity: &Identity, id: CommandId, rules: u64, now: u64) -> Known {
        if self.rules.replace(rules) != rules {
            self.forget();
        }
        match self.known.borrow().get(&(identity.clone(), id)) {
            None => Known::No,
            Some(at) if now.saturating_sub(*at) < nanos(HOLDS) => Known::Now,
            Some(_) => Known::Once,
        }
    }

    /// The upstream has granted it, to a question that was asked under `rules`.
    pub fn on_permission(&self, identity: Identity, id: CommandId, rules: u64, now: u64) {
        if self.rules.get() != rules {
            return;
        }
        let mut known = self.known.borrow_mut();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert((identity, id), now);
    }

    /// Somebody was refused something: rights may have changed.
    pub fn forget(&self) {
        self.known.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_is_known_for_a_second_and_until_rules_change() {
        let granted = PermissionCache::default();
        let (a, b, id) = (Identity::user(b"a"), Identity::user(b"b"), CommandId(7));
        assert_eq!(granted.knows(&a, id, 0, 0), Known::No);
        granted.on_permission(a.clone(), id, 0, 5);
        assert_eq!(granted.knows(&a, id, 0, 999_999_999), Known::Now);
        assert_eq!(granted.knows(&a, id, 0, 1_000_000_005), Known::Once);
        assert_eq!(granted.knows(&b, id, 0, 5), Known::No, "of another identity");
        assert_eq!(granted.knows(&a, CommandId(8), 0, 5), Known::No, "another command");
        assert_eq!(granted.knows(&a, id, 1, 5), Known::No, "rules have changed");
        granted.on_permission(a.clone(), id, 0, 5);
        assert_eq!(granted.knows(&a, id, 1, 5), Known::No, "asked before they changed");
        for user in 0..2 * MOST as u16 {
            granted.on_permission(Identity::user(&user.to_le_bytes()), id, 1, 5);
        }
        assert!(granted.known.borrow().len() <= MOST);
    }
}

//! The name of a client in its worker: what a slot points to (rule I6).

/// Names one client for as long as it is connected. Reused indexes get a new generation, so a slot of a client
/// that left finds nobody: a tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

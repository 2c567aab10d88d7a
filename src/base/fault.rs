//! Faults on purpose, for the proof that the token storm sees each of them. Without the feature `seeded-bugs` this
//! is a constant, and the branches are gone.

/// Whether the seeded bug `name` is to happen now.
#[cfg(not(feature = "seeded-bugs"))]
#[inline(always)]
pub(crate) const fn bug(_name: &str) -> bool {
    false
}

/// Whether the seeded bug `name` (`SEEDED_BUG`) is to happen now: once in `SEEDED_EVERY` chances.
#[cfg(feature = "seeded-bugs")]
pub(crate) fn bug(name: &str) -> bool {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static CHOSEN: OnceLock<(String, u64)> = OnceLock::new();
    static CHANCES: AtomicU64 = AtomicU64::new(0);
    let (chosen, every) = CHOSEN.get_or_init(|| {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        (variable("SEEDED_BUG"), variable("SEEDED_EVERY").parse().unwrap_or(500))
    });
    chosen == name && (CHANCES.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(*every)
}

//! Maps and sets that somebody walks through.

/// The standard map, with an order that nobody can know.
#[cfg(not(test))]
pub type Map<K, V> = std::collections::HashMap<K, V>;
/// The standard set.
#[cfg(not(test))]
pub type Set<T> = std::collections::HashSet<T>;

#[cfg(test)]
type Fixed = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

/// In tests the order is the same in every run, so that a simulation replays.
#[cfg(test)]
pub type Map<K, V> = std::collections::HashMap<K, V, Fixed>;
/// The same order in every run.
#[cfg(test)]
pub type Set<T> = std::collections::HashSet<T, Fixed>;

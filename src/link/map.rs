//! Maps that somebody walks through.

/// The standard map, with an order that nobody can know.
#[cfg(not(test))]
pub type Map<K, V> = std::collections::HashMap<K, V>;

/// In tests the order is the same in every run, so that a simulation replays.
#[cfg(test)]
pub type Map<K, V> = std::collections::HashMap<K, V, std::hash::BuildHasherDefault<std::hash::DefaultHasher>>;

//! Settings of a run, from the environment: how many, how long, which seed.

use std::str::FromStr;

/// What the environment says of `name`, or `usual` if it says nothing.
///
/// # Panics
///
/// If it says something else: a run with another size than was asked for proves something else.
pub fn setting<T: FromStr>(name: &str, usual: T) -> T {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not understood")),
        _ => usual,
    }
}

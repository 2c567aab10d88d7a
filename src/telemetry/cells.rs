//! The cells a [`Shard`](super::Shard) is made of: one writer, any number of readers.
//!
//! A worker thread owns the writing of its shard, so an increment is a relaxed load and a relaxed store: no locked
//! instruction, no contention. Two writers on one cell would lose increments; that is why there is a shard per worker.
//! Readers may see the cells of one shard at slightly different moments, never a torn value.

use std::ops::Index;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::reasons::Label;

/// A number that only grows. Single writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`. Wraps after 2^64, which a reader sees as a counter reset.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// What was counted up to now.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down and is never below zero. Single writer.
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    /// Raises the level by `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).saturating_add(n), Relaxed);
    }

    /// Lowers the level by `n`. Lowering below zero is a bug of the caller: debug builds stop, release builds stay at
    /// zero rather than show 2^64.
    #[inline]
    pub fn sub(&self, n: u64) {
        let level = self.0.load(Relaxed);
        debug_assert!(level >= n, "level {level} lowered by {n}");
        self.0.store(level.saturating_sub(n), Relaxed);
    }

    /// Replaces the level.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The level now.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A real number (seconds, a sum). Single writer.
#[derive(Debug, Default)]
pub struct Real(AtomicU64);

impl Real {
    /// Adds `x`.
    #[inline]
    pub fn add(&self, x: f64) {
        self.set(self.value() + x);
    }

    /// Replaces the number.
    #[inline]
    pub fn set(&self, x: f64) {
        self.0.store(x.to_bits(), Relaxed);
    }

    /// The number now.
    #[inline]
    pub fn value(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

/// One `T` for each value of the label `E`: `shard.client_closed[CloseReason::Quit].inc()`.
pub struct Each<E: Label, T>(E::Array<T>);

impl<E: Label, T> Each<E, T> {
    /// One cell a label value, each made by `make`.
    pub fn filled(make: impl FnMut() -> T) -> Self {
        Self(E::fill(make))
    }

    /// All cells, in the order of [`Label::ALL`].
    pub fn as_slice(&self) -> &[T] {
        self.0.as_ref()
    }

    /// The cell of the `index`th label value, in the order of [`Label::ALL`].
    ///
    /// # Panics
    /// If `index` is not below `E::ALL.len()`.
    pub fn at(&self, index: usize) -> &T {
        &self.0.as_ref()[index]
    }
}

impl<E: Label, T: Default> Default for Each<E, T> {
    fn default() -> Self {
        Self::filled(T::default)
    }
}

impl<E: Label, T> Index<E> for Each<E, T> {
    type Output = T;

    #[inline]
    fn index(&self, label: E) -> &T {
        &self.0.as_ref()[label.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::reasons::Origin;

    #[test]
    fn a_count_adds_up() {
        let count = Count::default();
        count.inc();
        count.add(41);
        assert_eq!(count.value(), 42);
    }

    #[test]
    fn a_level_follows_both_ways() {
        let level = Level::default();
        level.add(5);
        level.sub(3);
        assert_eq!(level.value(), 2);
        level.set(9);
        assert_eq!(level.value(), 9);
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "level 1 lowered by 2"))]
    fn a_level_does_not_pass_zero() {
        let level = Level::default();
        level.add(1);
        level.sub(2);
        assert_eq!(level.value(), 0);
    }

    #[test]
    fn a_real_starts_at_zero_and_adds() {
        let real = Real::default();
        assert_eq!(real.value().to_bits(), 0.0_f64.to_bits());
        real.add(0.25);
        real.add(0.5);
        assert!((real.value() - 0.75).abs() < f64::EPSILON);
    }

    #[test]
    fn each_label_value_has_its_own_cell() {
        let errors: Each<Origin, Count> = Each::default();
        errors[Origin::Upstream].add(3);
        assert_eq!(errors[Origin::Proxy].value(), 0);
        assert_eq!(errors.at(Origin::Upstream as usize).value(), 3);
    }
}

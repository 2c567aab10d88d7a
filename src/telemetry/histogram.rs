//! Histograms with fixed buckets, written by one worker and summed over all of them at a scrape.
//!
//! They are our own because the exporter keeps every sample until it is asked (rule O4): 16 bytes a command are too
//! many. Here a sample costs a look at its leading zeros, a step or two over the bounds from there, and two stores, and
//! the memory is fixed.

use std::fmt::Write as _;

use super::cells::{Count, Real};

/// The buckets of a histogram.
#[derive(Debug)]
pub struct Scale {
    /// Upper bounds, inclusive, ascending, in the unit that is recorded.
    bounds: &'static [u64],
    /// How many recorded units make one shown unit: 1e9 for nanoseconds shown as seconds.
    per_shown: f64,
    /// The first bucket in which a sample of so many significant bits can be.
    first: [u8; 65],
}

impl Scale {
    const fn new(bounds: &'static [u64], per_shown: f64) -> Self {
        let mut first = [0; 65];
        let mut bits = 1;
        while bits < first.len() {
            let least = 1 << (bits - 1);
            let mut bucket = 0;
            while bucket < bounds.len() && bounds[bucket] < least {
                bucket += 1;
            }
            first[bits] = bucket as u8; // there are far fewer than 256
            bits += 1;
        }
        Self { bounds, per_shown, first }
    }

    /// The bucket of a sample: the first whose bound is not below it.
    #[inline]
    fn bucket(&self, value: u64) -> usize {
        let mut bucket = usize::from(self.first[(u64::BITS - value.leading_zeros()) as usize]);
        while let Some(bound) = self.bounds.get(bucket)
            && *bound < value
        {
            bucket += 1;
        }
        bucket
    }

    /// How many buckets there are, the one without a bound included.
    pub const fn buckets(&self) -> usize {
        self.bounds.len() + 1
    }

    /// The upper bound of a bucket, in the unit that is recorded; `None` for the last one.
    pub fn bound(&self, bucket: usize) -> Option<u64> {
        self.bounds.get(bucket).copied()
    }
}

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000 * MICRO;
const SECOND: u64 = 1_000 * MILLI;

/// 50 us to 10 s, recorded in nanoseconds. Finer below a millisecond than the usual ones: that is where Redis answers.
pub static LATENCY: Scale = Scale::new(
    &[
        50 * MICRO,
        100 * MICRO,
        250 * MICRO,
        500 * MICRO,
        MILLI,
        2_500 * MICRO,
        5 * MILLI,
        10 * MILLI,
        25 * MILLI,
        50 * MILLI,
        100 * MILLI,
        250 * MILLI,
        500 * MILLI,
        SECOND,
        2_500 * MILLI,
        5 * SECOND,
        10 * SECOND,
    ],
    1e9,
);

/// 1 ms to 1 h, recorded in nanoseconds: a pin lasts from one transaction to a working day.
pub static HOLD: Scale = Scale::new(
    &[
        MILLI,
        5 * MILLI,
        10 * MILLI,
        50 * MILLI,
        100 * MILLI,
        500 * MILLI,
        SECOND,
        5 * SECOND,
        10 * SECOND,
        30 * SECOND,
        60 * SECOND,
        300 * SECOND,
        1_800 * SECOND,
        3_600 * SECOND,
    ],
    1e9,
);

/// 1 to 1024 in powers of two, recorded as numbers.
pub static SIZE: Scale = Scale::new(&[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024], 1.0);

/// One histogram of one worker. Single writer.
#[derive(Debug)]
pub struct Histogram {
    scale: &'static Scale,
    /// Samples by bucket, not cumulative; the last one is for samples above every bound.
    cells: Box<[Count]>,
    /// A real number, because ten thousand blocked clients would fill 64 bits of nanoseconds in three weeks.
    sum: Real,
}

impl Histogram {
    /// An empty histogram.
    pub fn new(scale: &'static Scale) -> Self {
        let cells = (0..=scale.bounds.len()).map(|_| Count::default()).collect();
        Self { scale, cells, sum: Real::default() }
    }

    /// Adds one sample, in the unit of the scale.
    #[inline]
    pub fn record(&self, value: u64) {
        self.cells[self.scale.bucket(value)].inc();
        self.sum.add(value as f64);
    }

    /// Samples by bucket, not cumulative.
    pub fn cells(&self) -> impl Iterator<Item = u64> {
        self.cells.iter().map(Count::value)
    }

    /// The sum of all samples.
    pub fn sum(&self) -> f64 {
        self.sum.value()
    }

    /// How many samples were recorded.
    pub fn count(&self) -> u64 {
        self.cells.iter().map(Count::value).sum()
    }
}

/// Below this is that share of the samples; nothing of no samples. `buckets` are samples and upper bounds, ascending.
/// As if the samples of a bucket lay evenly in it, which is how Prometheus' `histogram_quantile` takes them. Above
/// the last finite bound that bound is all that is known. Whatever shows a quantile has it from here.
pub fn quantile(buckets: impl Iterator<Item = (f64, f64)> + Clone, share: f64) -> Option<f64> {
    let count: f64 = buckets.clone().map(|(samples, _)| samples).sum();
    let wanted = share * count;
    let (mut below, mut floor) = (0.0, 0.0);
    for (samples, bound) in buckets.filter(|(_, bound)| bound.is_finite()) {
        if samples > 0.0 && below + samples >= wanted {
            return Some(floor + (bound - floor) * ((wanted - below) / samples).clamp(0.0, 1.0));
        }
        (below, floor) = (below + samples, bound);
    }
    (count > 0.0).then_some(floor)
}

/// The sum of the same histogram of several workers.
#[derive(Clone, Debug)]
pub(super) struct HistogramTotals {
    scale: &'static Scale,
    cells: Vec<u64>,
    sum: f64,
}

impl HistogramTotals {
    /// Adds up histograms of one scale. None of them: no totals.
    pub(super) fn of<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> Option<Self> {
        let mut histograms = histograms.into_iter().peekable();
        let scale = histograms.peek()?.scale;
        let mut totals = Self { scale, cells: vec![0; scale.bounds.len() + 1], sum: 0.0 };
        for histogram in histograms {
            for (total, cell) in totals.cells.iter_mut().zip(&histogram.cells) {
                *total += cell.value();
            }
            totals.sum += histogram.sum.value();
        }
        Some(totals)
    }

    /// What was recorded since `earlier`, which is of the same histograms.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let cells = self.cells.iter().zip(&earlier.cells).map(|(now, then)| now.saturating_sub(*then)).collect();
        Self { scale: self.scale, cells, sum: (self.sum - earlier.sum).max(0.0) }
    }

    /// How many samples.
    pub(super) fn count(&self) -> u64 {
        self.cells.iter().sum()
    }

    /// Their mean, in the unit that is shown; nothing of no samples.
    #[allow(clippy::cast_precision_loss)] // a count of 2^53 is far away
    pub(super) fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum / self.scale.per_shown / count as f64)
    }

    /// Writes the buckets, sum and count in the text format of Prometheus. `labels` is `a="b",c="d"` or empty.
    ///
    /// The count is the last bucket and not a cell of its own: a worker goes on recording while we read, and the two
    /// must be equal.
    pub(super) fn render(&self, out: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let mut cumulative = 0;
        for (index, cell) in self.cells.iter().enumerate() {
            cumulative += cell;
            let le = self.scale.bounds.get(index).map(|bound| *bound as f64 / self.scale.per_shown);
            // Writing to a string cannot fail.
            let _ = match le {
                Some(le) => {
                    writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{le}\"}} {cumulative}")
                }
                None => writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {cumulative}"),
            };
        }
        let sum = self.sum / self.scale.per_shown;
        let _ = writeln!(out, "{name}_sum{braced} {sum}");
        let _ = writeln!(out, "{name}_count{braced} {cumulative}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(histogram: &Histogram, labels: &str) -> String {
        let mut out = String::new();
        HistogramTotals::of([histogram]).unwrap().render(&mut out, "m", labels);
        out
    }

    #[test]
    fn bounds_ascend() {
        for scale in [&LATENCY, &HOLD, &SIZE] {
            assert!(scale.bounds.is_sorted_by(|a, b| a < b), "{:?}", scale.bounds);
        }
    }

    #[test]
    fn the_bucket_is_the_first_whose_bound_is_not_below() {
        for scale in [&LATENCY, &HOLD, &SIZE] {
            let bounds = scale.bounds.iter().flat_map(|bound| [bound - 1, *bound, bound + 1]);
            let powers = (0..64).flat_map(|bits| [1_u64 << bits, (1 << bits) - 1, (1 << bits) + 1]);
            for value in bounds.chain(powers).chain([u64::MAX]) {
                assert_eq!(scale.bucket(value), scale.bounds.partition_point(|bound| *bound < value), "{value}");
            }
        }
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::new(&SIZE);
        for value in [1, 2, 3, 4, 1024, 1025] {
            histogram.record(value);
        }
        let text = rendered(&histogram, "");
        for line in [
            "m_bucket{le=\"1\"} 1",
            "m_bucket{le=\"2\"} 2",
            "m_bucket{le=\"4\"} 4",
            "m_bucket{le=\"512\"} 4",
            "m_bucket{le=\"1024\"} 5",
            "m_bucket{le=\"+Inf\"} 6",
            "m_sum 2059",
            "m_count 6",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert_eq!(histogram.count(), 6);
    }

    #[test]
    fn nanoseconds_are_shown_as_seconds() {
        let histogram = Histogram::new(&LATENCY);
        histogram.record(0);
        histogram.record(50_000);
        histogram.record(50_001);
        histogram.record(60 * SECOND);
        let text = rendered(&histogram, "class=\"read\"");
        let first: Vec<_> = text.lines().take(2).collect();
        assert_eq!(first, ["m_bucket{class=\"read\",le=\"0.00005\"} 2", "m_bucket{class=\"read\",le=\"0.0001\"} 3"]);
        assert!(text.contains("m_bucket{class=\"read\",le=\"10\"} 3\n"), "{text}");
        assert!(text.contains("m_bucket{class=\"read\",le=\"+Inf\"} 4\n"), "{text}");
        assert!(text.contains("m_sum{class=\"read\"} 60.000100001\n"), "{text}");
        assert_eq!(text.lines().count(), LATENCY.bounds.len() + 3);
    }

    #[test]
    fn totals_are_the_sum_over_workers() {
        let (a, b) = (Histogram::new(&SIZE), Histogram::new(&SIZE));
        a.record(1);
        b.record(1);
        b.record(7);
        let mut out = String::new();
        HistogramTotals::of([&a, &b]).unwrap().render(&mut out, "m", "");
        assert!(out.contains("m_bucket{le=\"1\"} 2\n"), "{out}");
        assert!(out.ends_with("m_sum 9\nm_count 3\n"), "{out}");
        assert!(HistogramTotals::of([]).is_none());
    }

    #[test]
    fn a_mean_counts_from_a_moment_on() {
        let histogram = Histogram::new(&LATENCY);
        histogram.record(9 * SECOND);
        let before = HistogramTotals::of([&histogram]).unwrap();
        assert!(before.since(&before).mean().is_none());
        for nanos in [60 * MICRO, 70 * MICRO, 80 * MICRO, 400 * MICRO] {
            histogram.record(nanos);
        }
        let since = HistogramTotals::of([&histogram]).unwrap().since(&before);
        assert_eq!(since.count(), 4);
        let near = |value: Option<f64>, wanted: f64| assert!((value.unwrap() - wanted).abs() < 1e-9, "{value:?}");
        near(since.mean(), 152.5e-6);
    }
}

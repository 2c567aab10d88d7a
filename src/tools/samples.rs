//! A scrape of /metrics, as numbers. Only what our own exporter writes is understood.

use std::collections::HashMap;

use crate::telemetry::histogram::quantile;

/// Values by name and labels.
#[derive(Debug, Default)]
pub(super) struct Samples(HashMap<String, Vec<(String, f64)>>);

impl Samples {
    pub(super) fn parse(text: &str) -> Self {
        let mut samples = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            samples.0.entry(name.to_owned()).or_default().push((labels.trim_end_matches('}').to_owned(), value));
        }
        samples
    }

    /// The sum over all series of a name that have this label, `key="value"`; all of them for an empty one.
    pub(super) fn sum(&self, name: &str, label: &str) -> f64 {
        let of = self.0.get(name).map_or(&[][..], Vec::as_slice);
        of.iter().filter(|(labels, _)| labels.contains(label)).map(|(_, value)| value).sum()
    }

    /// Below this is that share of what came since `before`, in seconds. Series with one of the labels `without` are left
    /// out.
    pub(super) fn quantile_since(&self, before: &Self, name: &str, share: f64, without: &[String]) -> Option<f64> {
        let name = format!("{name}_bucket");
        let mut buckets: HashMap<&str, f64> = HashMap::new();
        for (sign, samples) in [(1.0, self), (-1.0, before)] {
            for (labels, value) in samples.0.get(&name).into_iter().flatten() {
                let bound = labels.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
                if let (Some(bound), false) = (bound, without.iter().any(|label| labels.contains(label))) {
                    *buckets.entry(bound).or_default() += sign * value;
                }
            }
        }
        let mut bounds: Vec<(f64, f64)> = buckets
            .into_iter()
            .filter_map(|(bound, count)| Some((bound.replace("+Inf", "inf").parse().ok()?, count)))
            .collect();
        bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        // As they are in the text, each bucket counts those below it, too.
        let below: Vec<f64> = [0.0].into_iter().chain(bounds.iter().map(|(_, count)| *count)).collect();
        quantile(bounds.iter().zip(below).map(|((bound, count), below)| (count - below, *bound)), share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_quantiles() {
        let before =
            Samples::parse("a{x=\"1\"} 1\nd_bucket{le=\"0.1\"} 5\nd_bucket{le=\"1\"} 5\nd_bucket{le=\"+Inf\"} 5\n");
        let now = Samples::parse(
            "# HELP a\na{x=\"1\"} 4\na{x=\"2\"} 2.5\nb 7\nd_bucket{le=\"0.1\"} 14\nd_bucket{le=\"1\"} 15\nd_bucket{le=\"+Inf\"} 15\n",
        );
        assert!((now.sum("a", "") - 6.5).abs() < 1e-9);
        assert!((now.sum("a", "x=\"2\"") - 2.5).abs() < 1e-9);
        assert!((now.sum("b", "") - 7.0).abs() < 1e-9);
        // Nine up to 0.1, one up to 1.
        let near = |value: Option<f64>, wanted: f64| assert!((value.unwrap() - wanted).abs() < 1e-9, "{value:?}");
        near(now.quantile_since(&before, "d", 0.5, &[]), 0.1 * 5.0 / 9.0);
        near(now.quantile_since(&before, "d", 0.99, &[]), 0.1 + 0.9 * 0.9);
        assert_eq!(before.quantile_since(&before, "d", 0.5, &[]), None);
        assert_eq!(now.quantile_since(&before, "d", 0.5, &["le=".to_owned()]), None);
    }
}

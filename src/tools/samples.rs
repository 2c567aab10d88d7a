//! A scrape of /metrics, as numbers. Only what our own exporter writes is understood.

use std::collections::HashMap;

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

    /// The upper bound of the bucket in which this share of what came since `before` lies, in seconds.
    pub(super) fn quantile_since(&self, before: &Self, name: &str, share: f64, without: &str) -> Option<f64> {
        let name = format!("{name}_bucket");
        let mut buckets: HashMap<&str, f64> = HashMap::new();
        for (sign, samples) in [(1.0, self), (-1.0, before)] {
            for (labels, value) in samples.0.get(&name).into_iter().flatten() {
                let bound = labels.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
                if let (Some(bound), false) = (bound, labels.contains(without)) {
                    *buckets.entry(bound).or_default() += sign * value;
                }
            }
        }
        let mut bounds: Vec<(f64, f64)> = buckets
            .into_iter()
            .filter_map(|(bound, count)| Some((bound.replace("+Inf", "inf").parse().ok()?, count)))
            .collect();
        bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total = bounds.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
        bounds.into_iter().find(|(_, count)| *count >= share * total).map(|(bound, _)| bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_quantiles() {
        let before = Samples::parse("a{x=\"1\"} 1\nd_bucket{le=\"0.1\"} 5\nd_bucket{le=\"+Inf\"} 5\n");
        let now = Samples::parse(
            "# HELP a\na{x=\"1\"} 4\na{x=\"2\"} 2.5\nb 7\nd_bucket{le=\"0.1\"} 14\nd_bucket{le=\"1\"} 15\nd_bucket{le=\"+Inf\"} 15\n",
        );
        assert!((now.sum("a", "") - 6.5).abs() < 1e-9);
        assert!((now.sum("a", "x=\"2\"") - 2.5).abs() < 1e-9);
        assert!((now.sum("b", "") - 7.0).abs() < 1e-9);
        assert_eq!(now.quantile_since(&before, "d", 0.5, "class=\"blocking\""), Some(0.1));
        assert_eq!(now.quantile_since(&before, "d", 0.99, "class=\"blocking\""), Some(1.0));
        assert_eq!(before.quantile_since(&before, "d", 0.5, "class"), None);
    }
}

//! Durations and sizes as people write them. Pure.

use std::time::Duration;

const TIME_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZE_UNITS: [(&str, usize); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A whole number with a unit: `250ms`, `5s`, `1m`, `1h`. Nothing without a unit, since a bare
/// number means seconds to one reader and milliseconds to the next. `None` for anything else.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let (_, milliseconds) = TIME_UNITS.into_iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

/// The shortest exact form, down to a millisecond, which [`parse_duration`] reads back.
pub(super) fn show_duration(duration: Duration) -> String {
    let whole = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if whole == 0 {
        return "0s".to_owned();
    }
    let exact = TIME_UNITS.into_iter().find(|(_, milliseconds)| whole.is_multiple_of(*milliseconds));
    let (unit, milliseconds) = exact.expect("one millisecond divides every number");
    format!("{}{unit}", whole / milliseconds)
}

/// A whole number of bytes with `B`, `KiB`, `MiB`, `GiB` or nothing after it.
pub(super) fn parse_size(text: &str) -> Option<usize> {
    let (number, unit) = split(text)?;
    let unit = if unit.is_empty() { "B" } else { unit };
    let (_, bytes) = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit)?;
    usize::try_from(number).ok()?.checked_mul(bytes)
}

/// The shortest exact form, which [`parse_size`] reads back.
pub(super) fn show_size(size: usize) -> String {
    let exact = SIZE_UNITS.into_iter().find(|(_, bytes)| size.is_multiple_of(*bytes) && size > 0);
    let (unit, bytes) = exact.unwrap_or(("B", 1));
    format!("{}{unit}", size / bytes)
}

/// The digits at the start, and the unit after at most one space.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.strip_prefix(' ').unwrap_or(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        let milliseconds = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(milliseconds("250ms"), Some(250));
        assert_eq!(milliseconds("5s"), Some(5_000));
        assert_eq!(milliseconds("5 s"), Some(5_000));
        assert_eq!(milliseconds("1m"), Some(60_000));
        assert_eq!(milliseconds("2h"), Some(7_200_000));
        for bad in ["", "5", "s", "-5s", "1.5s", "5S", "5 min", "99999999999999999999s", "18446744073709551615h"] {
            assert_eq!(milliseconds(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("0"), Some(0));
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size("8 MiB"), Some(8_388_608));
        assert_eq!(parse_size("1GiB"), Some(1 << 30));
        assert_eq!(parse_size("17B"), Some(17));
        for bad in ["", "KiB", "64K", "64kb", "64KB", "1.5MiB", "-1", "18446744073709551615GiB"] {
            assert_eq!(parse_size(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(milliseconds in 0u64..10_000_000, size in 0usize..(1 << 40)) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
            prop_assert_eq!(parse_size(&show_size(size)), Some(size));
            let round = size & !0xf_ffff;
            prop_assert_eq!(parse_size(&show_size(round)), Some(round));
        }
    }
}

//! Durations and sizes as people write them. Pure.

use std::time::Duration;

type Units = [(&'static str, u64); 4];

/// In milliseconds.
const TIME_UNITS: Units = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZE_UNITS: Units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A whole number with a unit: `250ms`, `5s`, `1m`, `1h`. Nothing without a unit, since a bare number means seconds to
/// one reader and milliseconds to the next. `None` for anything else.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &TIME_UNITS, "").map(Duration::from_millis)
}

/// The shortest exact form, down to a millisecond, which [`parse_duration`] reads back.
pub(super) fn show_duration(duration: &Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &TIME_UNITS, "s")
}

/// A whole number of bytes with `B`, `KiB`, `MiB`, `GiB` or nothing after it.
pub(super) fn parse_size(text: &str) -> Option<usize> {
    parse(text, &SIZE_UNITS, "B").and_then(|bytes| usize::try_from(bytes).ok())
}

/// The shortest exact form, which [`parse_size`] reads back.
pub(super) fn show_size(size: &usize) -> String {
    show(*size as u64, &SIZE_UNITS, "B")
}

/// The digits at the start times the unit after at most one space, or times `bare` where no unit is.
fn parse(text: &str, units: &Units, bare: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = match unit.strip_prefix(' ').unwrap_or(unit) {
        "" => bare,
        unit => unit,
    };
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(number: u64, units: &Units, zero: &str) -> String {
    match units.iter().find(|(_, factor)| number > 0 && number.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", number / factor),
        None => format!("0{zero}"),
    }
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
            prop_assert_eq!(parse_duration(&show_duration(&duration)), Some(duration));
            prop_assert_eq!(parse_size(&show_size(&size)), Some(size));
            let round = size & !0xf_ffff;
            prop_assert_eq!(parse_size(&show_size(&round)), Some(round));
        }
    }
}

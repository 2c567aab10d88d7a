//! When a certificate expires. Reads no more of it than that; rustls has checked the rest.

/// `notAfter` of a DER certificate, unix time in seconds; `None` if it is none.
pub(super) fn not_after(certificate: &[u8]) -> Option<i64> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    // [0] version is there in every certificate but those of version 1.
    if fields.first() == Some(&0xa0) {
        fields = element(fields)?.2;
    }
    // serial, signature algorithm, issuer
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (_, validity, _) = element(fields)?;
    let (_, _, rest) = element(validity)?;
    let (kind, text, _) = element(rest)?;
    time(kind, text)
}

/// The first DER element: its tag, its content, and what is behind it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, first) = (*bytes.first()?, *bytes.get(1)?);
    let (head, length) = match first {
        0..=0x7f => (2, usize::from(first)),
        0x81..=0x84 => {
            let digits = usize::from(first & 0x7f);
            let length = bytes.get(2..2 + digits)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (2 + digits, length)
        }
        _ => return None,
    };
    let end = head.checked_add(length)?;
    Some((tag, bytes.get(head..end)?, bytes.get(end..)?))
}

/// UTCTime (`YYMMDDHHMMSSZ`, 1950 to 2049) or GeneralizedTime (`YYYYMMDDHHMMSSZ`).
fn time(kind: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text.strip_suffix(b"Z")?).ok()?;
    let (year, rest) = match kind {
        0x17 => {
            let short: i64 = text.get(..2)?.parse().ok()?;
            (if short < 50 { 2000 + short } else { 1900 + short }, text.get(2..)?)
        }
        0x18 => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
    Some(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days from 1970-01-01 in the Gregorian calendar, by years that begin in March, so that a leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    era * 146_097 + year * 365 + year / 4 - year / 100 + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_counted_as_everybody_does() {
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!(time(0x17, b"000229000001Z"), Some(951_782_401));
        assert_eq!(time(0x18, b"20501231235959Z"), Some(2_556_143_999));
        assert_eq!(time(0x17, b"6912"), None);
    }

    #[test]
    fn the_end_of_a_real_certificate_is_found() {
        let mut parameters = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2031, 7, 4);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        assert_eq!(not_after(certificate.der()), Some(1_940_889_600));
        assert_eq!(not_after(b"0\x82"), None);
    }
}

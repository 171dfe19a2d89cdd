//! Numbers, decimals and times as the text that playlists and manifests want, without formatting
//! machinery and without noise of floats; and the reading of the decimals that others wrote.

use std::fmt;

/// Days from 0000-03-01 to 1970-01-01: years begin in March here, so that leap days end them.
const EPOCH_DAYS: i64 = 719_468;
const DAYS_PER_ERA: i64 = 146_097;
const MS_PER_DAY: i64 = 86_400_000;

const DECIMALS_MAX: usize = 9;
const TIME_BYTES: usize = "2026-11-21T10:00:00.000Z".len();

/// The last millisecond of the year 9999; a later time, or one before the year 0, is held there.
const UNIX_MS_MAX: i64 = 253_402_300_799_999;
const UNIX_MS_MIN: i64 = -62_167_219_200_000;

pub fn push_integer(out: &mut String, value: u64) {
    out.push_str(itoa::Buffer::new().format(value));
}

/// Rounded to so many `decimals` (at most 9), all of them written. What is negative or no number
/// is 0: a clock or a timescale of somebody else may make one, and no reader takes it.
pub fn push_decimal(out: &mut String, value: f64, decimals: u32) {
    let decimals = decimals.min(DECIMALS_MAX as u32);
    let scale = 10_u64.pow(decimals);
    // The conversion saturates, and makes 0 of what is no number.
    let scaled = (value * scale as f64).round() as u64;
    push_integer(out, scaled / scale);
    if decimals > 0 {
        let mut fraction = [b'.'; 1 + DECIMALS_MAX];
        let fraction = &mut fraction[..1 + decimals as usize];
        write_digits(&mut fraction[1..], scaled % scale);
        out.extend(str::from_utf8(fraction));
    }
}

/// ISO 8601 in UTC with milliseconds: `2026-11-21T10:00:00.000Z`. Playlists (program date and
/// time), manifests (xs:dateTime) and the time page use the same form.
pub fn push_time(out: &mut String, unix_ms: i64) {
    let unix_ms = unix_ms.clamp(UNIX_MS_MIN, UNIX_MS_MAX);
    let (year, month, day) = civil_date(unix_ms.div_euclid(MS_PER_DAY));
    let ms = unix_ms.rem_euclid(MS_PER_DAY) as u64;
    let fields = [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (ms / 3_600_000, 2, b':'),
        (ms / 60_000 % 60, 2, b':'),
        (ms / 1000 % 60, 2, b'.'),
        (ms % 1000, 3, b'Z'),
    ];
    let mut text = [0_u8; TIME_BYTES];
    let mut at = 0;
    for (value, width, behind) in fields {
        write_digits(&mut text[at..at + width], value);
        text[at + width] = behind;
        at += width + 1;
    }
    out.extend(str::from_utf8(&text));
}

/// As many as there is room for, with leading zeros.
fn write_digits(digits: &mut [u8], mut value: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// The same as a value that can stand in a format string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UtcTime {
    pub unix_ms: i64,
}

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(24);
        push_time(&mut text, self.unix_ms);
        f.write_str(&text)
    }
}

/// Year, month and day of a day counted from 1970 (Howard Hinnant, "chrono-compatible low-level
/// date algorithms").
fn civil_date(unix_days: i64) -> (u64, u64, u64) {
    let days = unix_days + EPOCH_DAYS;
    let era = days.div_euclid(DAYS_PER_ERA);
    let of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as u64, month as u64, day as u64)
}

/// A decimal-floating-point of a playlist (`digits[.digits]`), or with an exponent, as others
/// write them; never negative, never infinite.
pub fn parse_decimal(text: &str) -> Option<f64> {
    let value: f64 = text.trim().parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(value: f64, decimals: u32) -> String {
        let mut out = String::new();
        push_decimal(&mut out, value, decimals);
        out
    }

    #[test]
    fn decimals_have_no_noise() {
        assert_eq!(decimal(2.0, 5), "2.00000");
        assert_eq!(decimal(0.1 + 0.2, 5), "0.30000");
        assert_eq!(decimal(1.999_999, 5), "2.00000");
        assert_eq!(decimal(0.021_333_3, 5), "0.02133");
        assert_eq!(decimal(29.97, 3), "29.970");
        assert_eq!(decimal(7.5, 0), "8");
        for value in [f64::NAN, -1.0, f64::NEG_INFINITY] {
            assert_eq!(decimal(value, 5), "0.00000");
        }
        assert!(decimal(f64::INFINITY, 5).starts_with("184467440737095"));
    }

    #[test]
    fn times_are_iso_8601() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_255_200_123, "2026-11-21T10:00:00.123Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (i64::MAX, "9999-12-31T23:59:59.999Z"),
            (i64::MIN, "0000-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(UtcTime { unix_ms }.to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn a_written_decimal_is_read_again(value in 0.0..1e9_f64) {
            let read = parse_decimal(&decimal(value, 5)).expect("it was written");
            prop_assert!((read - value).abs() <= 5.1e-6 + value * f64::EPSILON);
        }

        #[test]
        fn times_are_those_of_httpdate(unix_s in 0..253_402_300_799_u64) {
            let text = UtcTime { unix_ms: unix_s as i64 * 1000 }.to_string();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(unix_s);
            let other = httpdate::fmt_http_date(time);
            prop_assert_eq!(&text[8..10], &other[5..7]);
            prop_assert_eq!(&text[..4], &other[12..16]);
            prop_assert_eq!(&text[11..19], &other[17..25]);
        }
    }
}

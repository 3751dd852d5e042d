//! Intervals: `continuous`, or a number of units.

use super::is_digits;
use crate::resource::rules;

/// How long after a run the next one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interval {
    /// Immediately.
    Continuous,
    Seconds(i64),
}

impl Interval {
    const UNITS: [(&str, i64); 5] = [
        ("seconds", 1),
        ("minutes", 60),
        ("hours", 3600),
        ("days", 86400),
        ("weeks", 7 * 86400),
    ];

    /// Freezer API v2: `^(continuous|(\d+ +(weeks|days|hours|minutes|seconds)))$`. Here the next run must also lie before the end
    /// of time.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text == "continuous" {
            return Ok(Interval::Continuous);
        }
        let (count, unit) = text.split_once(' ').unwrap_or((text, ""));
        let unit_s = Self::UNITS
            .iter()
            .find(|(name, _)| *name == unit.trim_start_matches(' '));
        if let (Some((_, unit_s)), true) = (unit_s, is_digits(count)) {
            // A number that does not fit into an i64 is beyond the end of time, too.
            let interval_s = count
                .parse::<i64>()
                .ok()
                .and_then(|count| count.checked_mul(*unit_s));
            match interval_s {
                Some(0) => {}
                Some(interval_s @ 1..=rules::TIME_S_MAX) => {
                    return Ok(Interval::Seconds(interval_s));
                }
                _ => {
                    return Err(format!(
                        "must be an interval of at most {} seconds, not {}",
                        rules::TIME_S_MAX,
                        rules::quoted(text)
                    ));
                }
            }
        }
        Err(format!(
            "must be \"continuous\" or \"<n> seconds|minutes|hours|days|weeks\" with n at least 1, not {}",
            rules::quoted(text)
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_interval_is_continuous_or_a_count_of_a_unit() {
        for (good, interval) in [
            ("continuous", Interval::Continuous),
            ("1 seconds", Interval::Seconds(1)),
            ("05   minutes", Interval::Seconds(300)),
            ("24 hours", Interval::Seconds(86400)),
            ("1 days", Interval::Seconds(86400)),
            ("2 weeks", Interval::Seconds(1_209_600)),
            ("253402300799 seconds", Interval::Seconds(253_402_300_799)),
        ] {
            assert_eq!(Interval::parse(good), Ok(interval), "{good:?}");
        }
        for bad in [
            "5 minuts",
            "5 minute",
            "5 months",
            "0 days",
            "000 days",
            "-1 days",
            "+1 days",
            "1.5 days",
            "1days",
            "5",
            "days",
            " 5 days",
            "5 days ",
            "5\tdays",
            "5 Days",
            "Continuous",
            "continuous ",
            "٥ days",
            "5 days\n",
            " ",
        ] {
            assert_eq!(
                Interval::parse(bad),
                Err(format!(
                    "must be \"continuous\" or \"<n> seconds|minutes|hours|days|weeks\" with n at least 1, not {bad:?}"
                ))
            );
        }
        for bad in [
            "253402300800 seconds",
            "9223372036854775807 weeks",
            &format!("{} days", "9".repeat(50)),
        ] {
            assert_eq!(
                Interval::parse(bad),
                Err(format!(
                    "must be an interval of at most 253402300799 seconds, not {bad:?}"
                ))
            );
        }
    }

    proptest! {
        #[test]
        fn every_interval_in_range_is_accepted(n in 1..=418_985_i64, unit in 0..5_usize, spaces in 1..4_usize) {
            let (name, unit_s) = Interval::UNITS[unit];
            let text = format!("{n}{}{name}", " ".repeat(spaces));
            prop_assert_eq!(Interval::parse(&text), Ok(Interval::Seconds(n * unit_s)));
        }
    }
}

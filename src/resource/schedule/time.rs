//! Dates and times as Freezer writes them, and the zones that they are in.

use jiff::{
    SignedDuration,
    civil::{Date, DateTime, Time},
    tz::{self, AmbiguousOffset, TimeZone},
};

use super::is_digits;
use crate::resource::rules;

/// An ISO 8601 date-time, with the offset from UTC that it names, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScheduleTime {
    civil: DateTime,
    offset_s: Option<i32>,
}

impl ScheduleTime {
    /// Freezer API v2: `YYYY-MM-DDThh:mm:ss[.fraction][Z|±hh:mm]`. Its pattern lets years be negative or
    /// longer; its agents, in Python, know only 0001 to 9999.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Some(written) = WrittenTime::parse(text) else {
            return Err(format!(
                "must be an ISO 8601 date-time, YYYY-MM-DDThh:mm:ss[.fraction][Z|±hh:mm], not {}",
                rules::quoted(text)
            ));
        };
        let no_such = |what: &str| {
            Err(format!(
                "must be a date-time that exists, not {}: {what}",
                rules::quoted(text)
            ))
        };
        let Ok(time) = Time::new(
            written.hour,
            written.minute,
            written.second,
            written.subsecond_ns,
        ) else {
            return no_such("a day runs from 00:00:00 to 23:59:59");
        };
        if written.year == 0 {
            return no_such("there is no year 0000");
        }
        let Ok(date) = Date::new(written.year, written.month, written.day) else {
            return no_such("the calendar has no such day");
        };
        let offset_s = match written.offset {
            None => None,
            Some((sign, hours @ 0..=23, minutes @ 0..=59)) => {
                Some(sign * (hours * 3600 + minutes * 60))
            }
            Some(_) => return no_such("an offset is at most 23:59"),
        };
        Ok(ScheduleTime {
            civil: date.to_datetime(time),
            offset_s,
        })
    }

    /// The time since the Unix epoch, read in `zone` unless it names its offset. Where clocks skip or repeat it, it is
    /// jiff's compatible one: as if they had not been set yet.
    ///
    /// Not a `Timestamp`, which ends before 9999-12-31T23:59:59, a likely way to say "never".
    pub(super) fn instant(self, zone: &TimeZone) -> SignedDuration {
        let offset_s = self.offset_s.unwrap_or_else(|| {
            match zone.to_ambiguous_timestamp(self.civil).offset() {
                AmbiguousOffset::Unambiguous { offset }
                | AmbiguousOffset::Gap { before: offset, .. }
                | AmbiguousOffset::Fold { before: offset, .. } => offset.seconds(),
            }
        });
        let epoch = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
        self.civil.duration_since(epoch) - SignedDuration::from_secs(offset_s.into())
    }
}

/// The numbers of a date-time, whatever they are.
struct WrittenTime {
    year: i16,
    month: i8,
    day: i8,
    hour: i8,
    minute: i8,
    second: i8,
    subsecond_ns: i32,
    /// Sign, hours and minutes.
    offset: Option<(i32, i32, i32)>,
}

impl WrittenTime {
    /// None if `text` is not of the form.
    fn parse(text: &str) -> Option<Self> {
        let (date, text) = text.split_once('T')?;
        let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
        let (time, text) = text.split_at_checked("hh:mm:ss".len())?;
        let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
        let (subsecond_ns, text) = match text.strip_prefix('.') {
            None => (0, text),
            Some(text) => {
                let (digits, text) = text.split_at(
                    text.find(|c: char| !c.is_ascii_digit())
                        .unwrap_or(text.len()),
                );
                // What is finer than a nanosecond is cut.
                let nanoseconds = format!("{digits:0<9}").get(..9)?.parse().ok()?;
                if digits.is_empty() {
                    return None;
                }
                (nanoseconds, text)
            }
        };
        let offset = match text.split_at_checked(1) {
            None if text.is_empty() => None,
            Some(("Z", "")) => Some((1, 0, 0)),
            Some((sign @ ("+" | "-"), text)) => {
                let [hours, minutes] = numbers(text, ':', [2, 2])?;
                Some((if sign == "-" { -1 } else { 1 }, hours, minutes))
            }
            _ => return None,
        };
        let small = |number: i32| i8::try_from(number).ok();
        Some(WrittenTime {
            year: i16::try_from(year).ok()?,
            month: small(month)?,
            day: small(day)?,
            hour: small(hour)?,
            minute: small(minute)?,
            second: small(second)?,
            subsecond_ns,
            offset,
        })
    }
}

/// Numbers of so many digits each, with separators between.
fn numbers<const N: usize>(text: &str, separator: char, lengths: [usize; N]) -> Option<[i32; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, length) in numbers.iter_mut().zip(lengths) {
        let part = parts
            .next()
            .filter(|part| part.len() == length && is_digits(part))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// A zone of the bundled IANA database, written as it is there: agents look for it as a file.
pub(super) fn parse_zone(name: &str) -> Result<TimeZone, String> {
    let found = TimeZone::get(name).ok();
    if let Some(zone) = found
        && zone.iana_name() == Some(name)
        && !zone.is_unknown()
    {
        return Ok(zone);
    }
    let zones: Vec<_> = tz::db().available().collect();
    let suggestion = rules::did_you_mean(name, zones.iter().map(tz::TimeZoneName::as_str));
    Err(format!(
        "must be an IANA time zone, as in \"Europe/Berlin\", not {}{suggestion}",
        rules::quoted(name)
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resource::schedule::tests::said;

    #[test]
    fn a_date_time_is_of_freezers_form() {
        for good in [
            "2026-07-01T00:00:00",
            "2026-07-01T23:59:59.5",
            "2026-07-01T12:00:00.123456789123Z",
            "2026-07-01T12:00:00+00:00",
            "2026-07-01T12:00:00-23:59",
            "0001-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59.999999999-23:59",
        ] {
            assert!(ScheduleTime::parse(good).is_ok(), "{good:?}");
        }
        for bad in [
            "tomorrow",
            "2026-07-01",
            "2026-07-01 00:00:00",
            "2026-07-01T00:00",
            "2026-07-01t00:00:00",
            "2026-07-01T00:00:00z",
            "2026-07-01T00:00:00.",
            "2026-07-01T00:00:00.Z",
            "2026-07-01T00:00:00,5",
            "2026-07-01T00:00:00+0200",
            "2026-07-01T00:00:00+2:00",
            "2026-07-01T00:00:00+02",
            "2026-7-01T00:00:00",
            "02026-07-01T00:00:00",
            "-2026-07-01T00:00:00",
            "+2026-07-01T00:00:00",
            "2026-07-01T00:00:00 ",
            " 2026-07-01T00:00:00",
            "2026-07-01T00:00:00ZZ",
            "2026-07-01T00:00:00−02:00",
            "2026-07-01T00:00:0é",
            "2026-07-01T00:00:00[UTC]",
            "20260701T000000",
            "T",
            "2026-07-01T00:00:00\n",
            "2026-07-01T00:00:-1",
        ] {
            assert_eq!(
                ScheduleTime::parse(bad),
                Err(format!(
                    "must be an ISO 8601 date-time, YYYY-MM-DDThh:mm:ss[.fraction][Z|±hh:mm], not {bad:?}"
                ))
            );
        }
    }

    #[test]
    fn a_date_time_exists() {
        for good in [
            "2024-02-29T00:00:00",
            "2000-02-29T00:00:00",
            "2026-12-31T00:00:00",
        ] {
            assert!(ScheduleTime::parse(good).is_ok(), "{good:?}");
        }
        for (bad, why) in [
            ("2026-02-31T00:00:00", "the calendar has no such day"),
            ("2025-02-29T00:00:00", "the calendar has no such day"),
            ("1900-02-29T00:00:00", "the calendar has no such day"),
            ("2026-04-31T00:00:00", "the calendar has no such day"),
            ("2026-00-01T00:00:00", "the calendar has no such day"),
            ("2026-13-01T00:00:00", "the calendar has no such day"),
            ("2026-01-00T00:00:00", "the calendar has no such day"),
            ("0000-01-01T00:00:00", "there is no year 0000"),
            (
                "2026-01-01T24:00:00",
                "a day runs from 00:00:00 to 23:59:59",
            ),
            (
                "2026-01-01T23:60:00",
                "a day runs from 00:00:00 to 23:59:59",
            ),
            (
                "2016-12-31T23:59:60",
                "a day runs from 00:00:00 to 23:59:59",
            ),
            ("2026-01-01T00:00:00+24:00", "an offset is at most 23:59"),
            ("2026-01-01T00:00:00-00:60", "an offset is at most 23:59"),
        ] {
            assert_eq!(
                ScheduleTime::parse(bad),
                Err(format!(
                    "must be a date-time that exists, not {bad:?}: {why}"
                ))
            );
        }
    }

    #[test]
    fn a_zone_is_known_and_written_as_it_is_known() {
        for good in [
            "",
            "UTC",
            "Etc/UTC",
            "Europe/Berlin",
            "America/Argentina/Ushuaia",
            "US/Pacific",
            "Etc/GMT-14",
        ] {
            let said = said(|s| s.schedule_timezone = good.into());
            assert!(said.is_empty(), "{said:?}");
        }
        for (bad, suggestion) in [
            ("europe/berlin", "; did you mean \"Europe/Berlin\"?"),
            ("Europe/Berln", "; did you mean \"Europe/Berlin\"?"),
            ("Etc/Unknown", ""),
            ("Mars/Olympus_Mons", ""),
            ("+02:00", ""),
            ("UTC ", "; did you mean \"UTC\"?"),
            ("../../etc/passwd", ""),
        ] {
            assert_eq!(
                said(|s| s.schedule_timezone = bad.into()),
                [format!(
                    "s.schedule_timezone must be an IANA time zone, as in \"Europe/Berlin\", not {bad:?}{suggestion}"
                )]
            );
        }
    }

    proptest! {
        #[test]
        fn every_date_of_the_calendar_is_read_as_itself(
            days in -719_162..=2_932_896_i64,
            second in 0..86400_i64,
            offset in prop::option::of(-1439..=1439_i32),
        ) {
            let civil = DateTime::constant(1970, 1, 1, 0, 0, 0, 0)
                + SignedDuration::from_secs(days * 86400 + second);
            let suffix = offset.map_or_else(String::new, |minutes| {
                let sign = if minutes < 0 { '-' } else { '+' };
                format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
            });
            let read = ScheduleTime::parse(&format!("{civil}{suffix}"));
            prop_assert_eq!(read, Ok(ScheduleTime { civil, offset_s: offset.map(|minutes| minutes * 60) }));
        }

        #[test]
        fn every_time_in_every_zone_can_be_compared(days in -719_162..=2_932_896_i64, zone in 0..600_usize) {
            let zones: Vec<_> = tz::db().available().collect();
            let zone = TimeZone::get(zones[zone % zones.len()].as_str()).unwrap();
            let civil = DateTime::constant(1970, 1, 1, 12, 0, 0, 0) + SignedDuration::from_secs(days * 86400);
            let local = ScheduleTime { civil, offset_s: None }.instant(&zone);
            let utc = ScheduleTime { civil, offset_s: Some(0) }.instant(&zone);
            prop_assert!((local - utc).abs() < SignedDuration::from_hours(26));
        }
    }
}

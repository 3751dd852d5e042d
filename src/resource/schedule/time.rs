//! Dates and times as Freezer writes them, and their time zones.

use jiff::{
    SignedDuration,
    civil::{Date, DateTime, Time},
    fmt::temporal::DateTimeParser,
    tz::{self, AmbiguousOffset, Offset, TimeZone},
};

use crate::resource::rules;

/// Every offset from UTC is shorter.
const DAY_S: i32 = 24 * 3600;

/// An ISO 8601 date-time, with its offset from UTC, if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScheduleTime {
    civil: DateTime,
    offset_s: Option<i32>,
}

impl ScheduleTime {
    /// Freezer API v2: `YYYY-MM-DDThh:mm:ss[.fraction][Z|±hh:mm]`. Its pattern allows negative and longer years; its agents, which
    /// are in Python, know only 0001 to 9999.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Some(written) = WrittenTime::of(text) else {
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
        // jiff accepts a leap second; Python does not.
        let time = written.time.parse::<Time>().ok();
        let Some(time) = time.filter(|_| !written.time.contains(":60")) else {
            return no_such("a day runs from 00:00:00 to 23:59:59");
        };
        if written.date.starts_with("0000") {
            return no_such("there is no year 0000");
        }
        let Ok(date) = written.date.parse::<Date>() else {
            return no_such("the calendar has no such day");
        };
        let offset_s = match written.offset {
            "" => None,
            "Z" => Some(0),
            offset => {
                let zone = DateTimeParser::new().parse_time_zone(offset).ok();
                let offset = zone.and_then(|zone| zone.to_fixed_offset().ok());
                let seconds = offset.map(Offset::seconds);
                let Some(seconds) = seconds.filter(|seconds| seconds.abs() < DAY_S) else {
                    return no_such("an offset is at most 23:59");
                };
                Some(seconds)
            }
        };
        Ok(ScheduleTime {
            civil: date.to_datetime(time),
            offset_s,
        })
    }

    /// The time since the Unix epoch. It is read in `zone` unless it has an offset. A time that the clocks skip or repeat is read
    /// in jiff's compatible way: as if they had not been changed yet.
    ///
    /// This is not a `Timestamp`, because that type ends before 9999-12-31T23:59:59, which people use to say "never".
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

/// The parts of a date-time in Freezer's form, whatever its numbers are. jiff's parsers accept more forms than Freezer's agents do.
struct WrittenTime<'a> {
    date: &'a str,
    /// Down to nanoseconds; finer digits are cut.
    time: &'a str,
    /// Empty, Z, or ±hh:mm.
    offset: &'a str,
}

impl<'a> WrittenTime<'a> {
    /// None if `text` is not of the form.
    fn of(text: &'a str) -> Option<Self> {
        let (date, rest) = text.split_once('T')?;
        let (seconds, rest) = rest.split_at_checked("hh:mm:ss".len())?;
        let (fraction, offset) = match rest.strip_prefix('.') {
            None => ("", rest),
            Some(behind) => {
                let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
                let (fraction, offset) = rest.split_at(1 + digits);
                (Some(fraction).filter(|_| digits > 0)?, offset)
            }
        };
        let is_offset = matches!(offset, "" | "Z")
            || offset
                .strip_prefix(['+', '-'])
                .is_some_and(|offset| is_of_form(offset, "00:00"));
        let is_of_form = is_of_form(date, "0000-00-00") && is_of_form(seconds, "00:00:00");
        let time_bytes = seconds.len() + fraction.len().min(".123456789".len());
        (is_of_form && is_offset).then(|| WrittenTime {
            date,
            time: &text[date.len() + 1..][..time_bytes],
            offset,
        })
    }
}

/// Whether `text` has a digit wherever `form` has a 0, and equals it everywhere else.
fn is_of_form(text: &str, form: &str) -> bool {
    text.len() == form.len()
        && text
            .bytes()
            .zip(form.bytes())
            .all(|(byte, form)| match form {
                b'0' => byte.is_ascii_digit(),
                other => byte == other,
            })
}

/// A zone of the bundled IANA database. The name must have the same case, because agents look for a file with that name.
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

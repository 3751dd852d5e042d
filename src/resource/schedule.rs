//! When a job runs: the rules of `JobSchedule`.

use jiff::{
    SignedDuration,
    civil::{Date, DateTime, Time},
    tz::{self, AmbiguousOffset, TimeZone},
};

use super::{Violations, limits::STRING_BYTES_MAX, rules};
use crate::proto::JobSchedule;

/// Freezer API v2: what a job's client can be asked to do next.
pub(super) const EVENTS: &[&str] = &["start", "stop", "abort", "remove"];
/// Freezer API v2: how far a job is.
pub(super) const STATUSES: &[&str] = &[
    "scheduled",
    "running",
    "completed",
    "stop",
    "aborting",
    "removed",
];
/// Freezer API v2: how a job's last run ended.
pub(super) const RESULTS: &[&str] = &["success", "fail", "aborted"];

/// Notes everything that is wrong with `schedule`, at `path` in its request.
pub(crate) fn check_schedule(schedule: &JobSchedule, path: &str, violations: &mut Violations) {
    let interval = &schedule.schedule_interval;
    parsed(
        format_args!("{path}.schedule_interval"),
        interval,
        Interval::parse,
        violations,
    );
    check_dates(schedule, path, violations);
    for (field, text, unit) in [
        ("schedule_year", &schedule.schedule_year, &YEAR),
        ("schedule_month", &schedule.schedule_month, &MONTH),
        ("schedule_day", &schedule.schedule_day, &DAY),
        ("schedule_week", &schedule.schedule_week, &WEEK),
        (
            "schedule_day_of_week",
            &schedule.schedule_day_of_week,
            &DAY_OF_WEEK,
        ),
        ("schedule_hour", &schedule.schedule_hour, &HOUR),
        ("schedule_minute", &schedule.schedule_minute, &MINUTE),
        ("schedule_second", &schedule.schedule_second, &SECOND),
    ] {
        let parse = |text: &str| CronField::parse(text, unit);
        parsed(format_args!("{path}.{field}"), text, parse, violations);
    }
    rules::word(
        format_args!("{path}.event"),
        &schedule.event,
        EVENTS,
        violations,
    );
    rules::word(
        format_args!("{path}.status"),
        &schedule.status,
        STATUSES,
        violations,
    );
    rules::word(
        format_args!("{path}.result"),
        &schedule.result,
        RESULTS,
        violations,
    );
    rules::not_negative(
        format_args!("{path}.current_pid"),
        schedule.current_pid,
        violations,
    );
    rules::time_s(
        format_args!("{path}.time_created"),
        schedule.time_created,
        violations,
    );
    rules::time_s(
        format_args!("{path}.time_started"),
        schedule.time_started,
        violations,
    );
    rules::time_s(
        format_args!("{path}.time_ended"),
        schedule.time_ended,
        violations,
    );
}

fn check_dates(schedule: &JobSchedule, path: &str, violations: &mut Violations) {
    let mut date_time = |field: &str, text: &str| {
        parsed(
            format_args!("{path}.{field}"),
            text,
            ScheduleTime::parse,
            violations,
        )
    };
    let date = date_time("schedule_date", &schedule.schedule_date);
    let start = date_time("schedule_start_date", &schedule.schedule_start_date);
    let end = date_time("schedule_end_date", &schedule.schedule_end_date);
    let zone = match schedule.schedule_timezone.as_str() {
        "" => Some(TimeZone::UTC),
        name => parsed(
            format_args!("{path}.schedule_timezone"),
            name,
            parse_zone,
            violations,
        ),
    };
    // Without the zone that was meant, their order is not known.
    let (Some(end), Some(zone)) = (end, zone) else {
        return;
    };
    for (field, earlier) in [("schedule_start_date", start), ("schedule_date", date)] {
        if earlier.is_some_and(|earlier| end.instant(&zone) <= earlier.instant(&zone)) {
            violations.add(
                format!("{path}.schedule_end_date"),
                format!("must be after {field}"),
            );
        }
    }
}

/// What `parse` makes of a field, if it is set and of a size that is worth reading.
fn parsed<T>(
    path: rules::Path<'_>,
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
    violations: &mut Violations,
) -> Option<T> {
    if text.is_empty() || !rules::at_most(path, text, STRING_BYTES_MAX, violations) {
        return None;
    }
    parse(text)
        .map_err(|description| violations.add(path.to_string(), description))
        .ok()
}

/// How long a job's next run starts after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interval {
    /// At once.
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

    /// Freezer API v2: `^(continuous|(\d+ +(weeks|days|hours|minutes|seconds)))$`, here with a run that comes.
    fn parse(text: &str) -> Result<Self, String> {
        if text == "continuous" {
            return Ok(Interval::Continuous);
        }
        let (count, unit) = text.split_once(' ').unwrap_or((text, ""));
        let unit_s = Self::UNITS
            .iter()
            .find(|(name, _)| *name == unit.trim_start_matches(' '));
        if let (Some((_, unit_s)), true) = (unit_s, is_digits(count)) {
            // More digits than an i64 has room for are beyond the end of time too.
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

/// An ISO 8601 date-time, with the offset from UTC that it names, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ScheduleTime {
    civil: DateTime,
    offset_s: Option<i32>,
}

impl ScheduleTime {
    /// Freezer API v2: `YYYY-MM-DDThh:mm:ss[.fraction][Z|±hh:mm]`. Its pattern lets years be negative or
    /// longer; its agents, in Python, know only 0001 to 9999.
    fn parse(text: &str) -> Result<Self, String> {
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
    fn instant(self, zone: &TimeZone) -> SignedDuration {
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

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A zone of the bundled IANA database, written as it is there: agents look for it as a file.
fn parse_zone(name: &str) -> Result<TimeZone, String> {
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

/// What one cron-like field counts.
#[derive(Debug)]
struct CronUnit {
    first: u16,
    last: u16,
    /// Names for the numbers from `first` on.
    names: &'static [&'static str],
    /// Whether days can be told by their place in the month.
    has_month_days: bool,
    forms: &'static str,
}

const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: &[&str] = &["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const PLACES: &[&str] = &["1st", "2nd", "3rd", "4th", "5th"];

const YEAR: CronUnit = CronUnit::numbered(1970, 9999);
const MONTH: CronUnit = CronUnit {
    names: MONTHS,
    forms: "*, */n, a, a/n, a-b or a-b/n, or jan to dec",
    ..CronUnit::numbered(1, 12)
};
const DAY: CronUnit = CronUnit {
    has_month_days: true,
    forms: "*, */n, a, a/n, a-b or a-b/n, or last, \"1st mon\" to \"5th sun\" or \"last fri\"",
    ..CronUnit::numbered(1, 31)
};
const WEEK: CronUnit = CronUnit::numbered(1, 53);
const DAY_OF_WEEK: CronUnit = CronUnit {
    names: WEEKDAYS,
    forms: "*, */n, a, a/n, a-b or a-b/n with 0 for Monday, or mon to sun",
    ..CronUnit::numbered(0, 6)
};
const HOUR: CronUnit = CronUnit::numbered(0, 23);
const MINUTE: CronUnit = CronUnit::numbered(0, 59);
const SECOND: CronUnit = CronUnit::numbered(0, 59);

impl CronUnit {
    const fn numbered(first: u16, last: u16) -> Self {
        CronUnit {
            first,
            last,
            names: &[],
            has_month_days: false,
            forms: "*, */n, a, a/n, a-b or a-b/n",
        }
    }
}

/// A cron-like field, in the forms of the `APScheduler` that Freezer's scheduler runs on: it matches what any of its
/// terms matches.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CronField(Vec<CronTerm>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CronTerm {
    /// Every `step`th from `first` to `last`.
    Range { first: u16, last: u16, step: u16 },
    /// The last day of the month.
    LastDay,
    /// A weekday (Monday is 0) by its place in the month, 1 to 5, or the last.
    Weekday { place: Option<u16>, weekday: u16 },
}

impl CronField {
    /// Where `APScheduler` ignores the rest of a term, as in "jan/2", this refuses it.
    fn parse(text: &str, unit: &CronUnit) -> Result<Self, String> {
        let terms = text.split(',').map(|term| {
            let term = term.trim_matches(' ');
            CronTerm::parse(&term.to_ascii_lowercase(), unit).map_err(|wrong| {
                format!(
                    "must be a list of {} in {} to {}, but {} {wrong}",
                    unit.forms,
                    unit.first,
                    unit.last,
                    rules::quoted(term)
                )
            })
        });
        terms.collect::<Result<_, _>>().map(CronField)
    }
}

impl CronTerm {
    /// What is wrong with the term continues a sentence that began with it.
    fn parse(term: &str, unit: &CronUnit) -> Result<Self, &'static str> {
        const NO_FORM: &str = "is none of these";
        if unit.has_month_days
            && let Some(term) = CronTerm::parse_month_day(term)
        {
            return Ok(term);
        }
        let (range, step) = match term.split_once('/') {
            None => (term, None),
            Some((range, step)) if is_digits(step) => (range, Some(step)),
            Some(_) => return Err(NO_FORM),
        };
        let number = |text: &str| {
            let number = text.parse().map_err(|_| "is out of range")?;
            if (unit.first..=unit.last).contains(&number) {
                Ok(number)
            } else {
                Err("is out of range")
            }
        };
        let named = |name: &str| place_in(unit.names, name).map(|place| place + unit.first);
        let (first, last) = match range.split_once('-') {
            None if range == "*" => (unit.first, unit.last),
            None if is_digits(range) && step.is_some() => (number(range)?, unit.last),
            None if is_digits(range) => (number(range)?, number(range)?),
            Some((first, last)) if is_digits(first) && is_digits(last) => {
                (number(first)?, number(last)?)
            }
            range_of_names => {
                let (first, last) = range_of_names.unwrap_or((range, range));
                let (Some(first), Some(last)) = (named(first), named(last)) else {
                    return Err(NO_FORM);
                };
                if step.is_some() {
                    return Err("has a step, which names cannot have");
                }
                (first, last)
            }
        };
        if first > last {
            return Err("ends before it starts");
        }
        let step = match step.map(str::parse) {
            None => 1,
            Some(Ok(0)) => return Err("has a step of 0"),
            Some(Ok(step)) if step <= last - first => step,
            Some(_) => return Err("has a step longer than its range"),
        };
        Ok(CronTerm::Range { first, last, step })
    }

    fn parse_month_day(term: &str) -> Option<Self> {
        if term == "last" {
            return Some(CronTerm::LastDay);
        }
        let (place, weekday) = term.split_once(' ')?;
        let weekday = place_in(WEEKDAYS, weekday.trim_start_matches(' '))?;
        let place = if place == "last" {
            None
        } else {
            Some(place_in(PLACES, place)? + 1)
        };
        Some(CronTerm::Weekday { place, weekday })
    }
}

fn place_in(names: &[&str], name: &str) -> Option<u16> {
    (0..)
        .zip(names)
        .find(|(_, known)| **known == name)
        .map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is wrong with an empty schedule after `change`.
    fn said(change: impl FnOnce(&mut JobSchedule)) -> Vec<String> {
        let mut schedule = JobSchedule::default();
        change(&mut schedule);
        let mut violations = Violations::new();
        check_schedule(&schedule, "s", &mut violations);
        violations
            .iter()
            .map(|v| format!("{} {}", v.field, v.description))
            .collect()
    }

    #[test]
    fn a_schedule_may_be_empty() {
        assert!(said(|_| ()).is_empty());
    }

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

    #[test]
    fn the_end_is_after_the_start_and_the_date_as_instants() {
        let wrong = |start: &str, end: &str, zone: &str| {
            said(|s| {
                s.schedule_start_date = start.into();
                s.schedule_end_date = end.into();
                s.schedule_timezone = zone.into();
            })
        };
        for (start, end, zone) in [
            ("2026-07-01T00:00:00", "2026-07-01T00:00:01", ""),
            ("2026-07-01T00:00:00", "2026-07-01T00:00:00.000000001", ""),
            // Noon in Berlin is 10:00 UTC in summer and 11:00 in winter.
            (
                "2026-07-01T12:00:00",
                "2026-07-01T10:00:01Z",
                "Europe/Berlin",
            ),
            (
                "2026-01-01T12:00:00",
                "2026-01-01T11:00:01Z",
                "Europe/Berlin",
            ),
            ("2026-07-01T12:00:00+02:00", "2026-07-01T10:00:01", ""),
            ("2026-07-01T23:00:00+14:00", "2026-07-01T10:00:00", ""),
            (
                "9999-12-31T23:59:59Z",
                "9999-12-31T23:59:59-23:59",
                "Europe/Berlin",
            ),
            ("2026-07-01T00:00:00", "9999-12-31T23:59:59", "Pacific/Apia"),
            // The clocks skip 02:30 on this day: it is read as 03:30 in summer, 01:30 UTC.
            (
                "2026-03-29T01:29:59Z",
                "2026-03-29T02:30:00",
                "Europe/Berlin",
            ),
            // They repeat 02:30 on this one: it is read as the first, 00:30 UTC.
            (
                "2026-10-25T02:30:00",
                "2026-10-25T00:30:01Z",
                "Europe/Berlin",
            ),
            // Only one of them, or in no known zone: nothing to compare.
            ("2026-07-01T00:00:00", "", ""),
            ("", "2026-07-01T00:00:00", ""),
        ] {
            let said = wrong(start, end, zone);
            assert!(said.is_empty(), "{said:?}");
        }
        for (start, end, zone) in [
            ("2026-07-01T00:00:00", "2026-07-01T00:00:00", ""),
            ("2026-07-01T00:00:01", "2026-07-01T00:00:00", ""),
            (
                "2026-07-01T12:00:00",
                "2026-07-01T10:00:00Z",
                "Europe/Berlin",
            ),
            ("2026-07-01T12:00:00", "2026-07-01T11:00:00Z", ""),
            (
                "2026-03-29T01:30:00Z",
                "2026-03-29T02:30:00",
                "Europe/Berlin",
            ),
            (
                "2026-10-25T02:30:00",
                "2026-10-25T00:30:00Z",
                "Europe/Berlin",
            ),
        ] {
            assert_eq!(
                wrong(start, end, zone),
                ["s.schedule_end_date must be after schedule_start_date"],
                "{start} {end} {zone}"
            );
        }
        // The one mistake is told, not what might follow from it.
        assert_eq!(
            wrong("2026-07-02T00:00:00", "2026-07-01T00:00:00", "Nowhere").len(),
            1
        );
        assert_eq!(
            wrong("2026-07-32T00:00:00", "2026-07-01T00:00:00", "").len(),
            1
        );
        assert_eq!(
            said(|s| {
                s.schedule_date = "2026-07-03T00:00:00".into();
                s.schedule_start_date = "2026-07-01T00:00:00".into();
                s.schedule_end_date = "2026-07-02T00:00:00".into();
            }),
            ["s.schedule_end_date must be after schedule_date"]
        );
    }

    fn range(first: u16, last: u16, step: u16) -> CronTerm {
        CronTerm::Range { first, last, step }
    }

    #[test]
    fn a_cron_field_is_a_list_of_apschedulers_terms() {
        let weekday = |place, weekday| CronTerm::Weekday { place, weekday };
        for (unit, good, terms) in [
            (&MINUTE, "*", vec![range(0, 59, 1)]),
            (&MINUTE, "*/15", vec![range(0, 59, 15)]),
            (&MINUTE, "*/59", vec![range(0, 59, 59)]),
            (&MINUTE, "0", vec![range(0, 0, 1)]),
            (&MINUTE, "59", vec![range(59, 59, 1)]),
            (&MINUTE, "07", vec![range(7, 7, 1)]),
            (&MINUTE, "5/10", vec![range(5, 59, 10)]),
            (&MINUTE, "10-20", vec![range(10, 20, 1)]),
            (&MINUTE, "10-10", vec![range(10, 10, 1)]),
            (&MINUTE, "10-20/10", vec![range(10, 20, 10)]),
            (
                &MINUTE,
                " 0, 15 ,30,*/20 ",
                vec![
                    range(0, 0, 1),
                    range(15, 15, 1),
                    range(30, 30, 1),
                    range(0, 59, 20),
                ],
            ),
            (&HOUR, "23", vec![range(23, 23, 1)]),
            (&SECOND, "59", vec![range(59, 59, 1)]),
            (&YEAR, "1970-9999", vec![range(1970, 9999, 1)]),
            (&YEAR, "2026", vec![range(2026, 2026, 1)]),
            (&WEEK, "1,53", vec![range(1, 1, 1), range(53, 53, 1)]),
            (&MONTH, "jan,JUN-Dec", vec![range(1, 1, 1), range(6, 12, 1)]),
            (&MONTH, "12", vec![range(12, 12, 1)]),
            (
                &DAY_OF_WEEK,
                "mon-fri,SUN",
                vec![range(0, 4, 1), range(6, 6, 1)],
            ),
            (&DAY_OF_WEEK, "0-6/2", vec![range(0, 6, 2)]),
            (&DAY, "last", vec![CronTerm::LastDay]),
            (&DAY, "31, Last", vec![range(31, 31, 1), CronTerm::LastDay]),
            (
                &DAY,
                "1st mon,5TH  Sun",
                vec![weekday(Some(1), 0), weekday(Some(5), 6)],
            ),
            (&DAY, "last fri", vec![weekday(None, 4)]),
        ] {
            assert_eq!(
                CronField::parse(good, unit),
                Ok(CronField(terms)),
                "{good:?}"
            );
        }
    }

    #[test]
    fn a_cron_term_that_apscheduler_would_refuse_or_misread_is_refused() {
        for (unit, bad, why) in [
            (&MINUTE, "60", "\"60\" is out of range"),
            (
                &MINUTE,
                "99999999999999999999",
                "\"99999999999999999999\" is out of range",
            ),
            (&MINUTE, "50-60", "\"50-60\" is out of range"),
            (&MINUTE, "20-10", "\"20-10\" ends before it starts"),
            (&MINUTE, "*/0", "\"*/0\" has a step of 0"),
            (&MINUTE, "*/60", "\"*/60\" has a step longer than its range"),
            (
                &MINUTE,
                "*/65536",
                "\"*/65536\" has a step longer than its range",
            ),
            (
                &MINUTE,
                "10-20/11",
                "\"10-20/11\" has a step longer than its range",
            ),
            (
                &MINUTE,
                "50/10",
                "\"50/10\" has a step longer than its range",
            ),
            (&MINUTE, "1,,2", "\"\" is none of these"),
            (&MINUTE, " ", "\"\" is none of these"),
            (&MINUTE, "1,2,", "\"\" is none of these"),
            (&MINUTE, "1,x", "\"x\" is none of these"),
            (&MINUTE, "-1", "\"-1\" is none of these"),
            (&MINUTE, "+1", "\"+1\" is none of these"),
            (&MINUTE, "1-", "\"1-\" is none of these"),
            (&MINUTE, "1 - 2", "\"1 - 2\" is none of these"),
            (&MINUTE, "1-2-3", "\"1-2-3\" is none of these"),
            (&MINUTE, "*/", "\"*/\" is none of these"),
            (&MINUTE, "*/5/5", "\"*/5/5\" is none of these"),
            (&MINUTE, "**", "\"**\" is none of these"),
            (&MINUTE, "٣", "\"٣\" is none of these"),
            (&MINUTE, "5\n", "\"5\\n\" is none of these"),
            (&MINUTE, "mon", "\"mon\" is none of these"),
            (&MINUTE, "last", "\"last\" is none of these"),
            (&HOUR, "24", "\"24\" is out of range"),
            (&WEEK, "54", "\"54\" is out of range"),
            (&WEEK, "0", "\"0\" is out of range"),
            (&YEAR, "1969", "\"1969\" is out of range"),
            (&YEAR, "10000", "\"10000\" is out of range"),
            (&MONTH, "0", "\"0\" is out of range"),
            (&MONTH, "13", "\"13\" is out of range"),
            (&MONTH, "january", "\"january\" is none of these"),
            (&MONTH, "Jan-6", "\"Jan-6\" is none of these"),
            (&MONTH, "dec-jan", "\"dec-jan\" ends before it starts"),
            (
                &MONTH,
                "jan-jun/2",
                "\"jan-jun/2\" has a step, which names cannot have",
            ),
            (&DAY_OF_WEEK, "7", "\"7\" is out of range"),
            (&DAY_OF_WEEK, "sun-mon", "\"sun-mon\" ends before it starts"),
            (&DAY_OF_WEEK, "1st mon", "\"1st mon\" is none of these"),
            (&DAY, "0", "\"0\" is out of range"),
            (&DAY, "32", "\"32\" is out of range"),
            (&DAY, "6th mon", "\"6th mon\" is none of these"),
            (&DAY, "1st", "\"1st\" is none of these"),
            (&DAY, "1st 0", "\"1st 0\" is none of these"),
            (&DAY, "last day", "\"last day\" is none of these"),
            (&DAY, "mon", "\"mon\" is none of these"),
        ] {
            let said = CronField::parse(bad, unit).unwrap_err();
            assert!(said.ends_with(&format!("but {why}")), "{bad:?}: {said}");
        }
        assert_eq!(
            said(|s| s.schedule_day = "first".into()),
            [
                "s.schedule_day must be a list of *, */n, a, a/n, a-b or a-b/n, or last, \"1st mon\" to \"5th sun\" or \
                 \"last fri\" in 1 to 31, but \"first\" is none of these"
            ]
        );
    }

    #[test]
    fn words_are_freezers() {
        for event in ["", "start", "stop", "abort", "remove"] {
            assert!(said(|s| s.event = event.into()).is_empty());
        }
        for status in [
            "",
            "scheduled",
            "running",
            "completed",
            "stop",
            "aborting",
            "removed",
        ] {
            assert!(said(|s| s.status = status.into()).is_empty());
        }
        for result in ["", "success", "fail", "aborted"] {
            assert!(said(|s| s.result = result.into()).is_empty());
        }
        assert_eq!(
            said(|s| s.result = "failed".into()),
            [
                "s.result must be one of success, fail or aborted, not \"failed\"; did you mean \"fail\"?"
            ]
        );
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let x = || "x".to_owned();
        let said = said(|s| {
            *s = JobSchedule {
                schedule_interval: x(),
                schedule_date: x(),
                schedule_start_date: x(),
                schedule_end_date: "2".repeat(4097),
                schedule_year: x(),
                schedule_month: x(),
                schedule_day: x(),
                schedule_week: x(),
                schedule_day_of_week: x(),
                schedule_hour: x(),
                schedule_minute: x(),
                schedule_second: x(),
                schedule_timezone: x(),
                event: x(),
                status: x(),
                result: x(),
                current_pid: -1,
                time_created: -2,
                time_started: i64::MAX,
                time_ended: i64::MIN,
            }
        });
        assert_eq!(said.len(), 20, "{said:#?}");
        assert!(
            said.contains(&"s.schedule_end_date must be at most 4096 bytes, not 4097".to_owned())
        );
    }

    fn cron_term(unit: &'static CronUnit) -> impl Strategy<Value = String> {
        let (first, last) = (unit.first, unit.last);
        prop_oneof![
            Just("*".to_owned()),
            (1..=last - first).prop_map(|n| format!("*/{n}")),
            (first..=last).prop_map(|a| a.to_string()),
            (first..=last).prop_flat_map(move |a| (a..=last).prop_map(move |b| format!("{a}-{b}"))),
            (first..last)
                .prop_flat_map(move |a| (a + 1..=last).prop_map(move |b| (a, b)))
                .prop_flat_map(|(a, b)| (1..=b - a).prop_map(move |n| format!("{a}-{b}/{n}"))),
        ]
    }

    fn cron_field() -> impl Strategy<Value = (&'static CronUnit, String)> {
        prop::sample::select(vec![
            &YEAR,
            &MONTH,
            &DAY,
            &WEEK,
            &DAY_OF_WEEK,
            &HOUR,
            &MINUTE,
            &SECOND,
        ])
        .prop_flat_map(|unit| (Just(unit), prop::collection::vec(cron_term(unit), 1..5)))
        .prop_map(|(unit, terms)| (unit, terms.join(", ")))
    }

    proptest! {
        #[test]
        fn no_string_makes_a_check_panic(
            any in prop::array::uniform16(prop_oneof![
                ".*",
                "[0-9a-z*/, -]{0,12}",
                "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,12})?(Z|[+-][0-9]{2}:[0-9]{2})?",
            ]),
            number: i64,
        ) {
            let mut any = any.into_iter();
            let mut next = || any.next().unwrap_or_default();
            said(|s| {
                for field in [
                    &mut s.schedule_interval, &mut s.schedule_date, &mut s.schedule_start_date,
                    &mut s.schedule_end_date, &mut s.schedule_year, &mut s.schedule_month, &mut s.schedule_day,
                    &mut s.schedule_week, &mut s.schedule_day_of_week, &mut s.schedule_hour, &mut s.schedule_minute,
                    &mut s.schedule_second, &mut s.schedule_timezone, &mut s.event, &mut s.status, &mut s.result,
                ] {
                    *field = next();
                }
                s.time_created = number;
            });
        }

        #[test]
        fn every_interval_in_range_is_accepted(n in 1..=418_985_i64, unit in 0..5_usize, spaces in 1..4_usize) {
            let (name, unit_s) = Interval::UNITS[unit];
            let text = format!("{n}{}{name}", " ".repeat(spaces));
            prop_assert_eq!(Interval::parse(&text), Ok(Interval::Seconds(n * unit_s)));
        }

        #[test]
        fn every_cron_field_of_the_forms_is_accepted((unit, text) in cron_field()) {
            let parsed = CronField::parse(&text, unit);
            prop_assert!(parsed.is_ok(), "{:?}: {:?}", text, parsed);
        }

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

//! The rules of `JobSchedule`: when a job runs.

mod cron;
mod interval;
mod time;

use jiff::tz::TimeZone;

use self::{
    cron::{CronField, DAY, DAY_OF_WEEK, HOUR, MINUTE, MONTH, SECOND, WEEK, YEAR},
    interval::Interval,
    time::{ScheduleTime, parse_zone},
};
use super::{Violations, limits::STRING_BYTES_MAX, rules};
use crate::proto::JobSchedule;

/// Freezer API v2: what a job's client can be asked to do next.
pub(super) const EVENTS: &[&str] = &["start", "stop", "abort", "remove"];
/// Freezer API v2: the states of a job.
pub(super) const STATUSES: &[&str] = &[
    "scheduled",
    "running",
    "completed",
    "stop",
    "aborting",
    "removed",
];
/// Freezer API v2: the results of a job's last run.
pub(super) const RESULTS: &[&str] = &["success", "fail", "aborted"];

/// Adds everything that is wrong with `schedule`, at `path` in its request.
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
    // Without the right zone the order of the two times is not known.
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

/// Parses a field, if it is set and not too long.
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

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is wrong with an empty schedule after `change`.
    pub(super) fn said(change: impl FnOnce(&mut JobSchedule)) -> Vec<String> {
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
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
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
            // Noon in Berlin is 10:00 UTC in summer and 11:00 UTC in winter.
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
            // On this day the clocks skip 02:30. It is read as 03:30 in summer time, 01:30 UTC.
            (
                "2026-03-29T01:29:59Z",
                "2026-03-29T02:30:00",
                "Europe/Berlin",
            ),
            // On this day the clocks show 02:30 twice. It is read as the first one, 00:30 UTC.
            (
                "2026-10-25T02:30:00",
                "2026-10-25T00:30:01Z",
                "Europe/Berlin",
            ),
            // Only one of the times is set, or the zone is not known: there is nothing to compare.
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
        // Only the mistake itself is reported, and not what might follow from it.
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
    }
}

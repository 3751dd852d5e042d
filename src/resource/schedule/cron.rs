//! Cron-like fields, in the forms of `APScheduler`, which Freezer's scheduler uses.

use super::is_digits;
use crate::resource::rules;

/// The unit of a cron-like field.
#[derive(Debug)]
pub(super) struct CronUnit {
    first: u16,
    last: u16,
    /// Names for the numbers, starting with `first`.
    names: &'static [&'static str],
    /// Whether days may be given by their place in the month.
    has_month_days: bool,
    forms: &'static str,
}

const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: &[&str] = &["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const PLACES: &[&str] = &["1st", "2nd", "3rd", "4th", "5th"];

pub(super) const YEAR: CronUnit = CronUnit::numbered(1970, 9999);
pub(super) const MONTH: CronUnit = CronUnit {
    names: MONTHS,
    forms: "*, */n, a, a/n, a-b or a-b/n, or jan to dec",
    ..CronUnit::numbered(1, 12)
};
pub(super) const DAY: CronUnit = CronUnit {
    has_month_days: true,
    forms: "*, */n, a, a/n, a-b or a-b/n, or last, \"1st mon\" to \"5th sun\" or \"last fri\"",
    ..CronUnit::numbered(1, 31)
};
pub(super) const WEEK: CronUnit = CronUnit::numbered(1, 53);
pub(super) const DAY_OF_WEEK: CronUnit = CronUnit {
    names: WEEKDAYS,
    forms: "*, */n, a, a/n, a-b or a-b/n with 0 for Monday, or mon to sun",
    ..CronUnit::numbered(0, 6)
};
pub(super) const HOUR: CronUnit = CronUnit::numbered(0, 23);
pub(super) const MINUTE: CronUnit = CronUnit::numbered(0, 59);
pub(super) const SECOND: CronUnit = CronUnit::numbered(0, 59);

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

/// A cron-like field, in the forms of `APScheduler`. It matches if any of its terms matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CronField(Vec<CronTerm>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CronTerm {
    /// Every `step`-th number from `first` to `last`.
    Range { first: u16, last: u16, step: u16 },
    /// The last day of the month.
    LastDay,
    /// A weekday (Monday is 0) by its place in the month: 1 to 5, or `None` for the last.
    Weekday { place: Option<u16>, weekday: u16 },
}

impl CronField {
    /// `APScheduler` ignores the rest of a term such as "jan/2". This refuses it.
    pub(super) fn parse(text: &str, unit: &CronUnit) -> Result<Self, String> {
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
    /// The error continues a sentence that begins with the term.
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
    use crate::resource::schedule::tests::said;

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
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
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
        fn every_cron_field_of_the_forms_is_accepted((unit, text) in cron_field()) {
            let parsed = CronField::parse(&text, unit);
            prop_assert!(parsed.is_ok(), "{:?}: {:?}", text, parsed);
        }
    }
}

//! Cron expressions of five fields: minute, hour, day of month, month, day of week.

use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::clock::Timestamp;

/// Each field is a set of numbers, a bit for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Where both are restricted, either may match; that is how cron always was.
    either_day: bool,
}

/// Longer than any combination of 29 February and a day of the week lets wait.
const HORIZON_YEARS: i16 = 41;
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Cron {
    /// The error ends the sentence `"text" …`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let &[minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(format!("has {} fields instead of five", fields.len()));
        };
        let weekdays = field("day of week", weekday, 0, 7, &WEEKDAYS)?;
        let cron = Self {
            minutes: field("minute", minute, 0, 59, &[])?,
            hours: field("hour", hour, 0, 23, &[])?,
            days: field("day of month", day, 1, 31, &[])?,
            months: field("month", month, 1, 12, &MONTHS)?,
            // Sunday is 0 and 7.
            weekdays: weekdays | weekdays >> 7 & 1,
            either_day: !day.starts_with('*') && !weekday.starts_with('*'),
        };
        match cron.next(Timestamp::from_secs(0)) {
            Some(_) => Ok(cron),
            None => Err("never fires: no such day exists".to_owned()),
        }
    }

    /// The first moment after `time`.
    pub fn next(&self, time: Timestamp) -> Option<Timestamp> {
        let micros = i64::try_from(time.as_micros()).ok()?;
        let begin = TimeZone::UTC.to_datetime(jiff::Timestamp::from_microsecond(micros).ok()?);
        let mut date = begin.date();
        let horizon = date.year().saturating_add(HORIZON_YEARS);
        // On the first day only what is left of it.
        let mut from = i64::from(begin.hour()) * 60 + i64::from(begin.minute()) + 1;
        while date.year() < horizon {
            if self.has_day(date)
                && let Some((hour, minute)) = self.first_from(from)
            {
                let found = TimeZone::UTC.to_timestamp(date.at(hour, minute, 0, 0)).ok()?;
                return u64::try_from(found.as_microsecond()).ok().map(Timestamp::from_micros);
            }
            from = 0;
            date = date.tomorrow().ok()?;
        }
        None
    }

    fn has_day(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        has(self.months, date.month()) && if self.either_day { day || weekday } else { day && weekday }
    }

    fn first_from(&self, minute_of_day: i64) -> Option<(i8, i8)> {
        let minutes = (0..24)
            .filter(|hour| has(self.hours, *hour))
            .flat_map(|hour| (0..60).filter(|minute| has(self.minutes, *minute)).map(move |minute| (hour, minute)));
        minutes.into_iter().find(|&(hour, minute)| i64::from(hour) * 60 + i64::from(minute) >= minute_of_day)
    }
}

fn has(set: u64, number: i8) -> bool {
    set >> number & 1 == 1
}

/// A list of `*`, `N`, `N-M`, each perhaps with `/STEP`.
fn field(name: &str, text: &str, least: u32, most: u32, names: &[&str]) -> Result<u64, String> {
    let mut set = 0;
    for part in text.split(',') {
        let wrong = || format!("has {part:?} as its {name}, which takes {least} to {most}");
        let (range, step) = match part.split_once('/') {
            None => (part, None),
            Some((range, step)) => (range, Some(number(step, &[]).filter(|step| *step > 0).ok_or_else(wrong)?)),
        };
        let value = |text: &str| {
            let value =
                number(text, names).map(|value| value.checked_add(u32::from(names.len() == 12 && !is_digits(text))));
            value.flatten().filter(|value| (least..=most).contains(value))
        };
        let (from, to) = match (range, range.split_once('-')) {
            ("*", _) => (least, most),
            (_, Some((from, to))) => (value(from).ok_or_else(wrong)?, value(to).ok_or_else(wrong)?),
            (_, None) => {
                let from = value(range).ok_or_else(wrong)?;
                (from, if step.is_some() { most } else { from })
            }
        };
        if from > to {
            return Err(format!("has {part:?} as its {name}, which ends before it begins"));
        }
        let step = usize::try_from(step.unwrap_or(1)).unwrap_or(usize::MAX);
        set |= (from..=to).step_by(step).fold(0, |set, value| set | 1 << value);
    }
    Ok(set)
}

/// A name stands for its place in the list.
fn number(text: &str, names: &[&str]) -> Option<u32> {
    if is_digits(text) {
        return text.parse().ok();
    }
    let place = names.iter().position(|name| text.eq_ignore_ascii_case(name))?;
    u32::try_from(place).ok()
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        let time: jiff::Timestamp = text.parse().unwrap();
        Timestamp::from_micros(time.as_microsecond().try_into().unwrap())
    }

    #[test]
    fn fires_when_cron_would() {
        for (cron, after, next) in [
            ("* * * * *", "2026-11-21T00:00:00Z", "2026-11-21T00:01:00Z"),
            ("* * * * *", "2026-11-21T00:00:59.999999Z", "2026-11-21T00:01:00Z"),
            ("0 3 * * *", "2026-11-21T03:00:00Z", "2026-11-22T03:00:00Z"),
            ("0 3 * * *", "2026-11-21T02:59:59Z", "2026-11-21T03:00:00Z"),
            ("30 2 1 * *", "2026-11-21T00:00:00Z", "2026-12-01T02:30:00Z"),
            ("0 0 29 2 *", "2026-11-21T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 29 2 *", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"),
            ("0 0 31 * *", "2026-11-21T00:00:00Z", "2026-12-31T00:00:00Z"),
            ("*/15 9-17 * * MON-FRI", "2026-11-20T17:45:00Z", "2026-11-23T09:00:00Z"),
            ("5/20 0 * * *", "2026-11-21T00:05:00Z", "2026-11-21T00:25:00Z"),
            ("0 0 * * 7", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"),
            ("0 0 * * sun", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"),
            ("0 0 1 jan *", "2026-11-21T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("0 0 * dec *", "2026-11-21T00:00:00Z", "2026-12-01T00:00:00Z"),
            ("0,30 12 * * *", "2026-11-21T12:00:00Z", "2026-11-21T12:30:00Z"),
            // The thirteenth, or any Friday.
            ("0 0 13 * 5", "2026-11-21T00:00:00Z", "2026-11-27T00:00:00Z"),
            ("0 0 13 * 5", "2026-12-11T00:00:00Z", "2026-12-13T00:00:00Z"),
            // Every other day, if it is a Friday.
            ("0 0 */2 * 5", "2026-11-21T00:00:00Z", "2026-11-27T00:00:00Z"),
        ] {
            assert_eq!(Cron::parse(cron).unwrap().next(at(after)), Some(at(next)), "{cron} after {after}");
        }
    }

    #[test]
    fn a_rare_day_is_found_and_an_impossible_one_refused() {
        assert!(Cron::parse("0 0 29 2 */6").is_ok());
        for never in ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *"] {
            assert_eq!(Cron::parse(never), Err("never fires: no such day exists".to_owned()));
        }
        assert!(Cron::parse("0 0 30 2 1").is_ok(), "on each Monday of February");
    }

    #[test]
    fn what_is_no_cron_expression_is_refused() {
        for wrong in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * 32 * *",
            "* * * 13 * ",
            "* * * 0 *",
            "* * * * 8",
            "*/0 * * * *",
            "5-1 * * * *",
            "1- * * * *",
            "a * * * *",
            "* * * foo *",
            "-1 * * * *",
            "1,,2 * * * *",
            "@daily",
            "1.5 * * * *",
            "+1 * * * *",
            "4294967296 * * * *",
            "* * mon * *",
            "*/x * * * *",
        ] {
            assert!(Cron::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}

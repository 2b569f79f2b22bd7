//! The hours of a day in which a rotation may start.

use std::time::Duration;

use crate::clock::Timestamp;

const DAY: u64 = 24 * 60 * 60;

/// In seconds of the day; one that ends before it begins goes over midnight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    from: u64,
    to: u64,
    text: String,
}

impl Window {
    /// `HH:MM-HH:MM`; the error ends the sentence `"text" …`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once('-').ok_or("has no \"-\" between two times")?;
        let (from, to) = (time(from)?, time(to)?);
        if from == to || from == DAY {
            return Err("never opens".to_owned());
        }
        Ok(Self { from, to, text: text.to_owned() })
    }

    pub fn contains(&self, time: Timestamp) -> bool {
        let second = time.as_secs() % DAY;
        if self.from < self.to {
            (self.from..self.to).contains(&second)
        } else {
            second >= self.from || second < self.to
        }
    }

    /// The first moment from `time` on at which it is open.
    pub fn opening(&self, time: Timestamp) -> Timestamp {
        if self.contains(time) {
            return time;
        }
        let midnight = Timestamp::from_secs(time.as_secs() / DAY * DAY);
        let today = midnight.plus(Duration::from_secs(self.from));
        if today >= time { today } else { today.plus(Duration::from_secs(DAY)) }
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

fn time(text: &str) -> Result<u64, String> {
    let number = |text: &str, most: u64| {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|number| is_number && *number <= most)
    };
    let parts = text.split_once(':').and_then(|(hour, minute)| Some((number(hour, 24)?, number(minute, 59)?)));
    match parts {
        Some((hour, minute)) if hour < 24 || minute == 0 => Ok((hour * 60 + minute) * 60),
        _ => Err(format!("has {text:?}, which is no time from 00:00 to 24:00")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(hours: u64) -> Timestamp {
        Timestamp::from_secs(1_767_225_600 + hours * 3600)
    }

    #[test]
    fn opens_and_closes_also_over_midnight() {
        let day = Window::parse("02:00-04:00").unwrap();
        let night = Window::parse("22:00-04:00").unwrap();
        for (hour, in_day, in_night) in [
            (0, false, true),
            (1, false, true),
            (2, true, true),
            (4, false, false),
            (21, false, false),
            (22, false, true),
        ] {
            assert_eq!((day.contains(hours(hour)), night.contains(hours(hour))), (in_day, in_night), "{hour}");
        }
        assert!(Window::parse("20:00-24:00").unwrap().contains(hours(23)));
    }

    #[test]
    fn finds_its_next_opening() {
        let window = Window::parse("22:00-04:00").unwrap();
        for (from, opens) in [(0, 0), (3, 3), (4, 22), (12, 22), (23, 23), (28, 46)] {
            assert_eq!(window.opening(hours(from)), hours(opens), "{from}");
        }
        assert_eq!(Window::parse("02:00-03:00").unwrap().opening(hours(5)), hours(26));
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for wrong in
            ["", "02:00", "2:00-3:00", "02:00-02:00", "24:00-03:00", "02:00-24:01", "02:60-03:00", "+2:00-03:00"]
        {
            assert!(Window::parse(wrong).is_err(), "{wrong}");
        }
    }
}

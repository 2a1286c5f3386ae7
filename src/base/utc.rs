//! The time in UTC, for names and log lines.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A point in time, to the second. Its `Display` is RFC 3339: `2026-03-01T12:00:05Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UtcTime {
    year: u64,
    month: u64,
    day: u64,
    second_of_day: u64,
}

impl UtcTime {
    /// Returns the present time.
    pub(crate) fn now() -> UtcTime {
        UtcTime::from_unix(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }

    /// Returns the time `seconds` after 1970-01-01T00:00:00Z.
    pub(crate) fn from_unix(seconds: u64) -> UtcTime {
        // Years are counted from March, so that a leap day is the last of its year (H. Hinnant, "chrono-compatible
        // low-level date algorithms").
        let days = seconds / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        UtcTime {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            second_of_day: seconds % 86_400,
        }
    }

    /// Formats as `2026-03-01_12-00-05`, for names of files.
    pub(crate) fn file_stamp(self) -> String {
        self.to_string().replace('T', "_").replace(':', "-").replace('Z', "")
    }
}

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UtcTime { year, month, day, second_of_day: s } = self;
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(UtcTime::from_unix(seconds).to_string(), text);
        }
        assert_eq!(UtcTime::from_unix(951_868_799).file_stamp(), "2000-02-29_23-59-59");
    }
}

//! The time at the beginning of a line.

use std::fmt;

use time::OffsetDateTime;

/// A moment in UTC, to the millisecond: `2026-11-29T18:28:17.000Z`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timestamp(OffsetDateTime);

impl Timestamp {
    pub(crate) fn now() -> Timestamp {
        Timestamp(OffsetDateTime::now_utc())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (date, time) = (self.0.date(), self.0.time());
        write!(
            f,
            "{}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
            time.hour(),
            time.minute(),
            time.second(),
            time.millisecond(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_digits() {
        let moment = OffsetDateTime::UNIX_EPOCH + std::time::Duration::from_millis(7);
        assert_eq!(Timestamp(moment).to_string(), "1970-01-01T00:00:00.007Z");
    }
}

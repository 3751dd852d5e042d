//! The time of day. No other file asks the system for it.
//!
//! Clocks jump, and some show 1969 or the year 10000. Every time from this file fits into a `google.protobuf.Timestamp`, an id and
//! an HTTP date.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

/// 9999-12-30T22:00:00Z, where jiff's times end; `google.protobuf.Timestamp` and HTTP dates end a day later.
const LAST_MS: u64 = 253_402_207_200_000;

/// Now, in milliseconds since the Unix epoch: 0 before it, and never past the year 9999.
pub(crate) fn now_ms() -> u64 {
    ms_of(SystemTime::now())
}

/// Now, as seconds since the Unix epoch and nanoseconds: 0 before it, and never past the year 9999.
pub(crate) fn now_since_epoch() -> Duration {
    since_epoch(SystemTime::now())
}

/// The `google.protobuf.Timestamp` of a time in milliseconds since the Unix epoch.
pub(crate) fn timestamp(time_ms: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(time_ms / 1000).expect("u64::MAX / 1000 fits"),
        nanos: i32::try_from(time_ms % 1000).expect("below 1000") * 1_000_000,
    }
}

/// The date for an answer if no HTTP date can express the system's time. `None` if one can.
pub(crate) fn http_date_instead() -> Option<&'static str> {
    http_date_instead_of(SystemTime::now())
}

/// Whether the system's clock shows a time before 1970.
pub(crate) fn is_before_epoch() -> bool {
    SystemTime::now() < UNIX_EPOCH
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .min(Duration::from_millis(LAST_MS))
}

fn ms_of(time: SystemTime) -> u64 {
    u64::try_from(since_epoch(time).as_millis()).expect("at most LAST_MS")
}

fn http_date_instead_of(time: SystemTime) -> Option<&'static str> {
    match time.duration_since(UNIX_EPOCH) {
        Err(_) => Some("Thu, 01 Jan 1970 00:00:00 GMT"),
        Ok(since) if since > Duration::from_millis(LAST_MS) => {
            Some("Fri, 31 Dec 9999 23:59:59 GMT")
        }
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_says_1969_or_10000_is_brought_to_what_can_be_said() {
        let day = Duration::from_secs(86_400);
        let last = UNIX_EPOCH + Duration::from_millis(LAST_MS);
        assert_eq!((ms_of(UNIX_EPOCH - day), ms_of(last + day)), (0, LAST_MS));
        assert_eq!(ms_of(UNIX_EPOCH + day), 86_400_000);
        let last_ms = i64::try_from(LAST_MS).unwrap();
        assert!(jiff::Timestamp::from_millisecond(last_ms).is_ok());
        assert!(http_date_instead_of(UNIX_EPOCH - day).is_some());
        assert!(http_date_instead_of(last + day).is_some());
        assert_eq!(http_date_instead_of(UNIX_EPOCH + day), None);
        assert_eq!(http_date_instead_of(last), None);
    }
}

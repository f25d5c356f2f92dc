//! The outcome of one request.

/// The key of an upstream: stable for one pair of service and upstream names while they are in the
/// table, and never reused. The lower half is a dense slot, which is reused; the upper half is its
/// generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamKey(pub u64);

impl UpstreamKey {
    /// The index in a dense table, whose entries must be compared by key.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    pub const fn index(self) -> usize {
        self.0 as u32 as usize
    }
}

/// How a request ended.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The upstream's final response was 1xx: an upgrade of the connection.
    Informational,
    /// The upstream responded 2xx.
    Success,
    /// The upstream responded 3xx.
    Redirect,
    /// The upstream responded 4xx.
    ClientError,
    /// The upstream responded 5xx or higher.
    ServerError,
    /// The connection to the upstream failed.
    ConnectError,
    /// The upstream exceeded a timeout.
    Timeout,
    /// The upstream closed the connection before its response was complete.
    Reset,
    /// The upstream's response was not HTTP.
    ProtocolError,
    /// The client disconnected before its response was complete; not a failure of the upstream, and
    /// not a latency observation.
    ClientAbort,
}

impl Class {
    /// The number of classes.
    pub const COUNT: usize = 10;

    /// All classes, in the order of their numbers.
    pub const ALL: [Class; Class::COUNT] = [
        Class::Informational,
        Class::Success,
        Class::Redirect,
        Class::ClientError,
        Class::ServerError,
        Class::ConnectError,
        Class::Timeout,
        Class::Reset,
        Class::ProtocolError,
        Class::ClientAbort,
    ];

    /// The class of a complete response with this status.
    pub const fn of_status(status: u16) -> Class {
        match status {
            0..200 => Class::Informational,
            200..300 => Class::Success,
            300..400 => Class::Redirect,
            400..500 => Class::ClientError,
            500.. => Class::ServerError,
        }
    }

    /// Whether it counts against the upstream.
    pub const fn is_failure(self) -> bool {
        matches!(
            self,
            Class::ServerError
                | Class::ConnectError
                | Class::Timeout
                | Class::Reset
                | Class::ProtocolError
        )
    }

    /// The class's name in the API and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Informational => "1xx",
            Class::Success => "2xx",
            Class::Redirect => "3xx",
            Class::ClientError => "4xx",
            Class::ServerError => "5xx",
            Class::ConnectError => "connect_error",
            Class::Timeout => "timeout",
            Class::Reset => "reset",
            Class::ProtocolError => "protocol_error",
            Class::ClientAbort => "client_abort",
        }
    }

    /// The class as an index in a table of [`Class::COUNT`] entries.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// One finished request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub class: Class,
    /// The time from its arrival to the first byte of the response, if one arrived.
    pub first_byte_us: Option<u64>,
    /// The time from its arrival to the end of the response, or to the failure.
    pub total_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_numbered_in_order() {
        for (at, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), at);
        }
    }

    #[test]
    fn responses_are_classified_by_status() {
        let classed = [101, 200, 204, 302, 404, 429, 500, 599, 999]
            .map(|status| Class::of_status(status).as_str());
        assert_eq!(
            classed,
            [
                "1xx", "2xx", "2xx", "3xx", "4xx", "4xx", "5xx", "5xx", "5xx"
            ]
        );
        let failures: Vec<_> = Class::ALL
            .into_iter()
            .filter(|class| class.is_failure())
            .collect();
        assert_eq!(
            failures
                .iter()
                .map(|class| class.as_str())
                .collect::<Vec<_>>(),
            ["5xx", "connect_error", "timeout", "reset", "protocol_error"]
        );
    }
}

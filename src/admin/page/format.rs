//! Number formats of the pages.

/// Formats a share of requests, with more digits for a small share.
pub(super) fn share(failures: u64, requests: u64) -> String {
    if requests == 0 {
        return "no requests".to_owned();
    }
    let percent = failures as f64 / requests as f64 * 100.0;
    let digits = if percent > 0.0 && percent < 1.0 { 3 } else { 1 };
    format!("{percent:.digits$} % ({failures} of {requests})")
}

/// Formats a duration: `0.42 s`, `12.5 s`, `3 min 05 s`, `2 h 10 min`.
pub(super) fn span(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0 => format!("{:.2} s", ms as f64 / 1e3),
        1..60 => format!("{:.1} s", ms as f64 / 1e3),
        60..3_600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60),
    }
}

/// Formats a latency.
pub(super) fn latency(us: u64) -> String {
    match us {
        0..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_durations_and_latencies_are_formatted() {
        assert_eq!(share(0, 0), "no requests");
        assert_eq!(share(1, 1_000), "0.100 % (1 of 1000)");
        assert_eq!(share(5, 10), "50.0 % (5 of 10)");
        assert_eq!(
            [420, 12_500, 185_000, 7_800_000].map(span),
            ["0.42 s", "12.5 s", "3 min 05 s", "2 h 10 min"]
        );
        assert_eq!([940, 2_500_000].map(latency), ["0.9 ms", "2.50 s"]);
    }
}

//! Freeze windows over weeks, nights and clock changes.

use super::super::FreezeWindow;
use super::super::freeze::frozen;

fn unix_us(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

/// Checks the end of the freeze in force at `at`, or `-` for none.
#[track_caller]
fn check(windows: &[&str], at: &str, until: &str) {
    let windows: Vec<FreezeWindow> = windows
        .iter()
        .map(|text| FreezeWindow::parse(text).unwrap())
        .collect();
    let found = frozen(&windows, unix_us(at));
    let found = found.map(|frozen| {
        jiff::Timestamp::from_microsecond(frozen.until_us)
            .unwrap()
            .to_string()
    });
    assert_eq!(found.as_deref().unwrap_or("-"), until, "at {at}");
}

#[test]
fn weekly_window_follows_the_zone_and_clock_changes() {
    let weekend = ["Fri 17:00 - Mon 08:00 Europe/Berlin"];
    // Winter: 17:00 is 16:00 UTC. The start belongs to the window, the end does not.
    check(&weekend, "2026-11-27T15:59:59.999999Z", "-");
    check(&weekend, "2026-11-27T16:00:00Z", "2026-11-30T07:00:00Z");
    check(&weekend, "2026-11-29T12:00:00Z", "2026-11-30T07:00:00Z");
    check(&weekend, "2026-11-30T06:59:59Z", "2026-11-30T07:00:00Z");
    check(&weekend, "2026-11-30T07:00:00Z", "-");
    // The clocks go forward on Sunday, 29 March 2026: it starts at 16:00 UTC and ends at 06:00 UTC.
    check(&weekend, "2026-03-27T16:00:00Z", "2026-03-30T06:00:00Z");
    check(&weekend, "2026-03-30T06:00:00Z", "-");
    // The clocks go back on 25 October 2026.
    check(&weekend, "2026-10-23T15:00:00Z", "2026-10-26T07:00:00Z");
    check(&weekend, "2026-10-23T14:59:59Z", "-");
}

#[test]
fn daily_window_handles_midnight_and_ambiguous_times() {
    check(
        &["22:00 - 06:00"],
        "2026-11-25T23:00:00Z",
        "2026-11-26T06:00:00Z",
    );
    check(
        &["22:00 - 06:00"],
        "2026-11-25T05:59:59Z",
        "2026-11-25T06:00:00Z",
    );
    check(&["22:00 - 06:00"], "2026-11-25T12:00:00Z", "-");
    let morning = ["02:30 - 02:45 Europe/Berlin"];
    // 02:30 does not exist on 29 March: it maps to 03:30 summer time.
    check(&morning, "2026-03-29T01:29:00Z", "-");
    check(&morning, "2026-03-29T01:31:00Z", "2026-03-29T01:45:00Z");
    // On 25 October both times occur twice: frozen from the first 02:30 to the second 02:45.
    check(&morning, "2026-10-25T00:30:00Z", "2026-10-25T01:45:00Z");
    check(&morning, "2026-10-25T01:44:59Z", "2026-10-25T01:45:00Z");
    check(&morning, "2026-10-25T01:45:00Z", "-");
}

#[test]
fn one_time_windows_chain_with_recurring_ones() {
    let holidays = "2026-12-24 00:00 - 2027-01-02 08:00 Europe/Berlin";
    check(&[holidays], "2026-12-23T22:59:59Z", "-");
    check(&[holidays], "2026-12-23T23:00:00Z", "2027-01-02T07:00:00Z");
    check(&[holidays], "2027-01-02T07:00:00Z", "-");
    // The holidays end on a Saturday, within a weekend.
    let both = [holidays, "Fri 17:00 - Mon 08:00 Europe/Berlin"];
    check(&both, "2026-12-28T12:00:00Z", "2027-01-04T07:00:00Z");
    check(&["Mon 10:00 - Mon 08:00"], "2026-11-23T09:00:00Z", "-");
    check(
        &["Mon 10:00 - Mon 08:00"],
        "2026-11-23T07:00:00Z",
        "2026-11-23T08:00:00Z",
    );
    check(
        &["Mon 10:00 - Mon 08:00"],
        "2026-11-25T09:00:00Z",
        "2026-11-30T08:00:00Z",
    );
    check(
        &["sunday 00:00 – Mon 00:00 UTC"],
        "2026-11-29T23:59:59Z",
        "2026-11-30T00:00:00Z",
    );
}

#[test]
fn endless_chain_of_windows_is_bounded() {
    let windows = ["00:00 - 12:00", "12:00 - 00:00"].map(|text| FreezeWindow::parse(text).unwrap());
    let until = frozen(&windows, unix_us("2026-11-25T00:00:00Z"))
        .unwrap()
        .until_us;
    assert!(until > unix_us("2026-12-01T00:00:00Z"));
}

#[test]
fn invalid_windows_are_rejected_with_a_reason() {
    for (text, says) in [
        ("", "no ` - ` between"),
        ("Fri 17:00", "no ` - ` between"),
        ("Fri 17:00 -", "the end is missing"),
        ("- Fri 17:00", "the start is missing"),
        ("Fri 17:00 - Mon 24:00", "`24:00` is not a time of day"),
        ("Fri 17 - Mon 8", "`17` is not a time of day"),
        ("Fry 17:00 - Mon 08:00", "`Fry` is neither a weekday"),
        ("Fri 17:00 - 08:00", "must be of one kind"),
        ("10:00 - 10:00", "start and end are equal"),
        ("Mon 10:00 - Mon 10:00", "start and end are equal"),
        (
            "2026-12-24 00:00 - 2026-12-23 00:00",
            "the end is before the start",
        ),
        (
            "2026-02-30 00:00 - 2026-12-23 00:00",
            "`2026-02-30` is neither",
        ),
        (
            "10:00 - 12:00 Europe/Berln",
            "did you mean `Europe/Berlin`?",
        ),
        ("10:00 - 12:00 Nowhere/Atlantis-City", "not a time zone"),
        ("10:00 - 12:00 Europe/Berlin please", "not one time zone"),
        ("every Friday 17:00 - Mon 08:00", "not a time such as"),
    ] {
        let refused = FreezeWindow::parse(text).expect_err(text);
        assert!(refused.contains(says), "{text}: {refused}");
    }
    let window = FreezeWindow::parse("  Fri  17:00 -  Mon 08:00 ").unwrap();
    assert_eq!(window.to_string(), "Fri 17:00 - Mon 08:00");
}

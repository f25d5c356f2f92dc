use std::collections::BTreeSet;

use super::*;
use crate::model::{Name, Protocol, Weight};
use crate::stats::UpstreamKey;

use BodyAtHand::{All, None as Bodiless, Streamed};
use Repeatability::{Buffered, Idempotent, Never, Safe, Unsent};

fn upstream(endpoints: u16) -> RoutedUpstream {
    let endpoints: Box<[Arc<RoutedEndpoint>]> = (0..endpoints)
        .map(|number| {
            Arc::new(RoutedEndpoint::new(
                EndpointKey(number.into()),
                ([127, 0, 0, 1], 9000 + number).into(),
                Name::from("shop"),
                Name::from("blue"),
            ))
        })
        .collect();
    RoutedUpstream {
        key: UpstreamKey(0),
        name: Name::from("blue"),
        weight: Weight::default(),
        protocol: Protocol::default(),
        healthy: endpoints.clone(),
        endpoints,
        panics: false,
    }
}

fn unanswered(reused: bool, unsent: bool, answered: bool) -> AttemptOutcome<u16> {
    AttemptOutcome::Unanswered(Unanswered {
        reused,
        unsent,
        answered,
        invalid: false,
        upload: None,
    })
}

fn failed(reason: Reason) -> AttemptOutcome<u16> {
    AttemptOutcome::Failed(Error::new(reason, ""))
}

/// What follows an outcome: `again`, `failover` with a class, a status, or a reason.
fn after(attempts: &mut Attempts, outcome: AttemptOutcome<u16>, may_fail_over: bool) -> String {
    match attempts.after(outcome, |status| *status, || may_fail_over) {
        Next::Again => "again".to_owned(),
        Next::FailOver(class, _) => format!("failover {}", class.as_str()),
        Next::Respond(Ok(status)) => status.to_string(),
        Next::Respond(Err(error)) => error.reason.as_str().to_owned(),
    }
}

#[test]
fn repeatability_follows_from_method_body_and_declaration() {
    for (method, body, declared, expected) in [
        ("GET", Bodiless, false, Safe),
        ("HEAD", Bodiless, false, Safe),
        ("OPTIONS", Bodiless, false, Safe),
        ("TRACE", Bodiless, false, Safe),
        ("GET", Bodiless, true, Safe),
        ("PUT", Bodiless, false, Idempotent),
        ("DELETE", Bodiless, false, Idempotent),
        ("DELETE", Bodiless, true, Safe),
        ("POST", Bodiless, false, Unsent),
        ("POST", Bodiless, true, Buffered),
        ("PATCH", Bodiless, true, Buffered),
        ("POST", All, true, Buffered),
        ("PUT", All, true, Buffered),
        ("GET", All, true, Buffered),
        ("POST", All, false, Unsent),
        ("GET", Streamed, false, Unsent),
        ("PUT", Streamed, true, Unsent),
        ("POST", Streamed, true, Unsent),
        ("FETCH", Bodiless, false, Unsent),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let found = Repeatability::of(&method, body, declared);
        assert_eq!(found, expected, "{method} {body:?} {declared}");
    }
}

#[test]
fn a_stale_connection_is_replaced_as_far_as_the_request_may_be_repeated() {
    // Of each: unsent, sent and not answered, answered in part.
    for (repeatability, expected) in [
        (Never, [false, false, false]),
        (Unsent, [true, false, false]),
        (Buffered, [true, false, false]),
        (Idempotent, [true, true, false]),
        (Safe, [true, true, false]),
    ] {
        for ((unsent, answered), again) in [(true, false), (false, false), (false, true)]
            .into_iter()
            .zip(expected)
        {
            let mut attempts = Attempts::new(repeatability);
            let word = if again { "again" } else { "reset" };
            let stale = unanswered(true, unsent, answered);
            assert_eq!(
                after(&mut attempts, stale, false),
                word,
                "{repeatability:?}"
            );
            assert!(attempts.needs_fresh());
            let new = unanswered(false, unsent, answered);
            let mut attempts = Attempts::new(repeatability);
            assert_eq!(
                after(&mut attempts, new, false),
                "reset",
                "a new connection"
            );
        }
    }
}

#[test]
fn a_request_is_sent_twice_at_most() {
    let mut attempts = Attempts::new(Safe);
    assert!(!attempts.needs_fresh());
    assert_eq!(
        after(&mut attempts, unanswered(true, true, false), false),
        "again"
    );
    assert!(attempts.needs_fresh());
    assert_eq!(
        after(&mut attempts, unanswered(true, true, false), false),
        "reset"
    );
}

#[test]
fn a_body_that_broke_off_is_the_answer_whatever_the_upstream_did() {
    let mut attempts = Attempts::new(Safe);
    let outcome = AttemptOutcome::Unanswered(Unanswered {
        reused: true,
        unsent: true,
        answered: false,
        invalid: false,
        upload: Some(Error::new(Reason::BodyTimeout, "")),
    });
    assert_eq!(after(&mut attempts, outcome, true), "body_timeout");
}

#[test]
fn another_endpoint_is_asked_until_three_took_no_connection() {
    let upstream = upstream(5);
    let mut attempts = Attempts::new(Unsent);
    let mut tried = BTreeSet::new();
    for expected in ["again", "again", "connect_refused"] {
        let endpoint = attempts.next(&upstream, 7).unwrap().key;
        assert!(tried.insert(endpoint.0), "an endpoint is asked once");
        let outcome = AttemptOutcome::Unconnected(endpoint, Error::new(Reason::ConnectRefused, ""));
        assert_eq!(after(&mut attempts, outcome, false), expected);
    }
}

#[test]
fn the_last_failure_is_the_answer_when_no_endpoint_is_left() {
    let upstream = upstream(1);
    let mut attempts = Attempts::new(Unsent);
    let key = attempts.next(&upstream, 0).unwrap().key;
    let outcome = AttemptOutcome::Unconnected(key, Error::new(Reason::ConnectTimeout, ""));
    assert_eq!(after(&mut attempts, outcome, false), "again");
    let error = attempts.next(&upstream, 0).unwrap_err();
    assert_eq!(error.reason, Reason::ConnectTimeout);
    let none = Attempts::new(Unsent)
        .next(&self::upstream(0), 0)
        .unwrap_err();
    assert_eq!(none.reason, Reason::NoHealthyEndpoint);
}

#[test]
fn what_is_no_fault_of_the_endpoint_asks_no_other() {
    for reason in [Reason::TotalTimeout, Reason::LocalResources] {
        let mut attempts = Attempts::new(Safe);
        let outcome = AttemptOutcome::Unconnected(EndpointKey(0), Error::new(reason, ""));
        assert_eq!(after(&mut attempts, outcome, true), reason.as_str());
    }
}

#[test]
fn endpoints_that_took_no_connection_may_be_asked_again_for_another_connection() {
    let upstream = upstream(2);
    let mut attempts = Attempts::new(Safe);
    let error = Error::new(Reason::ConnectRefused, "");
    let first = attempts.next(&upstream, 0).unwrap().key;
    after(
        &mut attempts,
        AttemptOutcome::Unconnected(first, error),
        false,
    );
    assert_ne!(attempts.next(&upstream, 0).unwrap().key, first);
    after(&mut attempts, unanswered(true, false, false), false);
    assert_eq!(attempts.next(&upstream, 0).unwrap().key, first);
}

#[test]
fn an_upstream_that_was_taken_out_meanwhile_costs_no_attempt() {
    let mut attempts = Attempts::new(Unsent);
    for _ in 0..10 {
        assert_eq!(
            after(&mut attempts, AttemptOutcome::TakenOut, false),
            "again"
        );
    }
    assert!(!attempts.needs_fresh());
}

#[test]
fn a_failure_fails_over_where_the_request_may_be_sent_to_another_upstream() {
    for (repeatability, expected) in [
        (Never, "503"),
        (Unsent, "503"),
        (Idempotent, "503"),
        (Buffered, "failover 5xx"),
        (Safe, "failover 5xx"),
    ] {
        let mut attempts = Attempts::new(repeatability);
        assert_eq!(
            after(&mut attempts, AttemptOutcome::Response(503), true),
            expected
        );
        let mut attempts = Attempts::new(repeatability);
        assert_eq!(
            after(&mut attempts, AttemptOutcome::Response(503), false),
            "503"
        );
    }
}

#[test]
fn what_is_no_failure_of_the_upstream_does_not_fail_over() {
    for (outcome, expected) in [
        (AttemptOutcome::Response(200), "200"),
        (AttemptOutcome::Response(404), "404"),
        (failed(Reason::TotalTimeout), "total_timeout"),
        (failed(Reason::LocalResources), "local_resources"),
        (failed(Reason::ClientAbort), "client_abort"),
    ] {
        assert_eq!(after(&mut Attempts::new(Safe), outcome, true), expected);
    }
    for (outcome, expected) in [
        (failed(Reason::FirstByteTimeout), "failover timeout"),
        (
            failed(Reason::UpstreamProtocolError),
            "failover protocol_error",
        ),
        (failed(Reason::NoHealthyEndpoint), "failover connect_error"),
        (unanswered(false, false, false), "failover reset"),
    ] {
        assert_eq!(after(&mut Attempts::new(Safe), outcome, true), expected);
    }
}

#[test]
fn the_upstream_that_a_request_fails_over_to_has_attempts_of_its_own() {
    let mut attempts = Attempts::new(Safe);
    after(&mut attempts, unanswered(true, true, false), false);
    after(&mut attempts, unanswered(false, false, false), true);
    assert!(!attempts.needs_fresh());
    assert_eq!(
        after(&mut attempts, unanswered(true, true, false), false),
        "again"
    );
}

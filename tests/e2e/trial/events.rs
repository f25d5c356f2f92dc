//! The events of each request of a release.

use std::sync::Arc;

use weighbridge::model::Sticky;
use weighbridge::routing::BudgetKind;
use weighbridge::stats::{Arm, RequestEvent, RequestEventKind};
use weighbridge::time::{Clock, SystemClock};

use super::{GREEN, Trial};
use crate::errors::deaf;
use crate::harness::{Gate, Upstream, eventually};

const FULL: RequestEventKind = RequestEventKind::Assigned {
    uploading: false,
    canary_full: true,
};

#[test]
fn a_successful_request_has_events_from_assignment_to_end() {
    let gate = Arc::new(Gate::default());
    let opened = Arc::clone(&gate);
    let blue = Upstream::start(move |call| {
        call.write("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nha")
            .unwrap();
        opened.wait();
        call.write("lf").unwrap();
    });
    let green = Upstream::named("green");
    let before = SystemClock.now().monotonic_ns() / 1_000;
    let mut rig = Trial::new(blue.address, green.address).points(0).start();
    let mut client = rig.client();
    client.ask("/", "").head().unwrap();
    eventually("the head is recorded", || rig.events().len() == 2);
    assert_eq!(rig.events()[1].happened, RequestEventKind::Headed);
    gate.open();
    let events = rig.ended(1);
    let (first, last) = (events[0], events[2]);
    assert_eq!(events.len(), 3);
    assert!(
        events
            .iter()
            .all(|event| event.assignment == first.assignment && event.user == first.user)
    );
    let assignment = first.assignment;
    assert_eq!((assignment.side, assignment.watch.0), (Arm::Baseline, 7));
    assert_eq!(
        (assignment.canary_points, assignment.baseline_points),
        (0, 10_000)
    );
    let now = SystemClock.now().monotonic_ns() / 1_000;
    let RequestEventKind::Good { latency_us } = last.happened else {
        panic!("{last:?}")
    };
    assert!(before <= assignment.at_us && assignment.at_us + u64::from(latency_us) <= now);
    eventually("no event is buffered", || rig.watermark.floor(now) == now);
}

#[test]
fn a_response_in_one_write_releases_its_canary_permit() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let mut rig = Trial::new(blue.address, green.address)
        .points(2_500)
        .start();
    let mut client = rig.client();
    let on_green = (0..40)
        .filter(|_| client.get("/").text() == "green")
        .count();
    let events = rig.ended(40);
    let canary = events
        .iter()
        .filter(|event| event.assignment.side == Arm::Canary);
    let good = canary
        .filter(|event| matches!(event.happened, RequestEventKind::Good { .. }))
        .count();
    assert_eq!(good, on_green);
    assert!(
        events
            .iter()
            .all(|event| event.assignment.canary_points == 2_500
                && event.assignment.baseline_points == 7_500)
    );
    assert!(
        events.iter().all(|event| event.user == events[0].user),
        "all requests have the key of one client"
    );
    assert_eq!(rig.handle.in_flight(), 0);
}

#[test]
fn failures_of_the_baseline_reach_the_tripwire_and_spend_no_budget() {
    let blue = Upstream::start(|call| call.answer("503 Service Unavailable", "", "no"));
    let green = Upstream::named("green");
    let mut rig = Trial::new(blue.address, green.address).points(0).start();
    assert_eq!(rig.get("").status, 503);
    assert_eq!(
        rig.verdict(),
        (Arm::Baseline, RequestEventKind::Bad { visible: true })
    );
    let wire = rig.handle.tripwire();
    assert_eq!(
        (wire.baseline_failures(), wire.spent(BudgetKind::Visible)),
        (1, 0)
    );
    assert!(!rig.handle.is_urgent(), "an event waits to be judged");
}

#[test]
fn a_client_abort_counts_against_neither_arm() {
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(|call| call.await_hangup()),
    );
    let mut rig = Trial::new(blue.address, green.address).start();
    let mut client = rig.client();
    client.ask("/", "");
    eventually("green has the request", || green.count() == 1);
    assert_eq!(rig.handle.in_flight(), 1);
    client.reset();
    assert_eq!(
        rig.verdict(),
        (Arm::Canary, RequestEventKind::Aborted { late: false })
    );
    assert_eq!(
        (
            rig.handle.tripwire().spent(BudgetKind::Visible),
            rig.handle.in_flight()
        ),
        (0, 0)
    );
}

#[test]
fn a_failure_status_counts_even_if_the_client_aborts_the_body() {
    let green = Upstream::start(|call| {
        call.write("HTTP/1.1 500 Oh\r\nContent-Length: 10\r\n\r\nhalf")
            .unwrap();
        call.await_hangup();
    });
    let blue = Upstream::named("blue");
    let mut rig = Trial::new(blue.address, green.address).start();
    let mut client = rig.client();
    client.ask("/", "").head().unwrap();
    assert_eq!(
        rig.verdict(),
        (Arm::Canary, RequestEventKind::Bad { visible: true })
    );
    assert_eq!(rig.handle.in_flight(), 1, "the canary still sends the body");
    client.reset();
    eventually("the permit is released", || rig.handle.in_flight() == 0);
    assert_eq!(
        (
            rig.events().len(),
            rig.handle.tripwire().spent(BudgetKind::Visible)
        ),
        (2, 1)
    );
}

#[test]
fn testers_have_no_events() {
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(|call| call.answer("500 Oh", "", "green")),
    );
    let mut rig = Trial::new(blue.address, green.address).points(0).start();
    assert_eq!(rig.get("X-Version: green\r\n").expect(500).text(), "green");
    let counted = rig.counted(1);
    assert_eq!(counted.responses, [(GREEN, 500)]);
    assert!(rig.events().is_empty());
    assert_eq!(rig.handle.tripwire().spent(BudgetKind::Visible), 0);
}

#[test]
fn a_canary_at_its_limit_leaves_the_next_request_to_the_baseline() {
    let gate = Arc::new(Gate::default());
    let opened = Arc::clone(&gate);
    let green = Upstream::start(move |call| {
        opened.wait();
        call.ok("green");
    });
    let blue = Upstream::named("blue");
    let mut trial = Trial::new(blue.address, green.address);
    trial.in_flight_max = 1;
    let mut rig = trial.start();
    let mut first = rig.client();
    first.ask("/", "");
    eventually("green is full", || green.count() == 1);
    assert_eq!(rig.get("").expect(200).text(), "blue");
    assert_eq!(
        rig.verdict_of_displaced(),
        [FULL, RequestEventKind::Displaced]
    );
    gate.open();
    assert_eq!(first.receive().text(), "green");
    eventually("the permit is released", || rig.handle.in_flight() == 0);
    assert_eq!(rig.get("").text(), "green");
    rig.ended(3);
}

impl super::Rig {
    /// The events of the second request, while the first is in flight.
    fn verdict_of_displaced(&mut self) -> Vec<RequestEventKind> {
        let events = self.ended(1);
        assert!(
            events
                .iter()
                .all(|event| event.assignment.side == Arm::Canary)
        );
        events[1..].iter().map(|event| event.happened).collect()
    }
}

#[test]
fn a_user_is_identified_by_the_cookie_from_the_request_that_sets_it() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let trial = Trial::new(blue.address, green.address).sticky(Sticky::Cookie("wb".into()));
    let mut rig = trial.start();
    let cookie = rig.get("").header("set-cookie").unwrap();
    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    rig.get(&cookie);
    rig.get(&cookie);
    rig.get("Cookie: wb=another\r\n");
    rig.get(&format!("Cookie: wb={:032x}\r\n", 7));
    let another = rig.get("").header("set-cookie").unwrap();
    rig.get(&format!(
        "Cookie: {}\r\n",
        another.split(';').next().unwrap()
    ));
    let events = rig.ended(7);
    let assigned = events
        .iter()
        .filter(|event| matches!(event.happened, RequestEventKind::Assigned { .. }));
    let users: Vec<u32> = assigned.map(|event| event.user).collect();
    assert_ne!(users[0], RequestEvent::NO_KEY);
    assert_eq!(users[0], users[1]);
    assert_eq!(users[1], users[2]);
    let keys: std::collections::BTreeSet<u32> = users[2..6].iter().copied().collect();
    assert_eq!(
        keys.len(),
        4,
        "a forged cookie was not replaced by a new key"
    );
    assert!(!keys.contains(&RequestEvent::NO_KEY));
    assert_eq!(users[5], users[6]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_request_whose_upstream_is_removed_while_it_waits_counts_for_neither_arm() {
    let (listener, callers) = deaf();
    let blue = Upstream::named("blue");
    let mut rig = Trial::new(blue.address, listener.local_addr().unwrap()).start();
    let mut client = rig.client();
    client.ask("/", "");
    eventually("the request waits for green", || {
        rig.handle.in_flight() == 1
    });
    rig.publish(0);
    let green = Upstream::on(listener, |call| call.ok("green"));
    assert_eq!(client.receive().text(), "blue");
    assert_eq!(
        rig.verdict(),
        (Arm::Canary, RequestEventKind::Aborted { late: false })
    );
    assert_eq!((green.count(), rig.handle.in_flight()), (0, 0));
    drop(callers);
}

#[test]
fn while_flushing_is_urgent_each_event_is_sent_at_once() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let mut rig = Trial::new(blue.address, green.address).start();
    rig.handle.flush_now();
    rig.get("");
    let mut events = Vec::new();
    eventually("the request has ended", || {
        while let Ok(batch) = rig.events.try_recv() {
            assert_eq!(batch.notes.len(), 1, "{batch:?}");
            events.extend(batch.notes);
        }
        events.last().is_some_and(|event| event.happened.is_last())
    });
    assert_eq!(events[0].happened, RequestEventKind::ASSIGNED);
}

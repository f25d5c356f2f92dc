//! The tripwire: the worker that finishes the failure over the budget removes the canary itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use weighbridge::model::Sticky;
use weighbridge::routing::BudgetKind;
use weighbridge::stats::RequestEventKind;

use super::{Rig, Trial};
use crate::harness::{Http2, Upstream, block_on, eventually};

const FAILS: fn() -> Upstream = || Upstream::start(|call| call.answer("500 Oh", "", "green"));

/// The state after the third of three permitted failures.
#[track_caller]
fn is_out(rig: &mut Rig, green: &Upstream) {
    assert_eq!(rig.canary_points(), 0);
    assert_eq!(
        (
            green.count(),
            rig.handle.tripwire().spent(BudgetKind::Visible)
        ),
        (3, 3)
    );
    let trip = rig.handle.trip().expect("the trip is recorded");
    assert!(trip.decided_us > 0);
    let failed = rig
        .events()
        .iter()
        .filter(|event| event.happened == RequestEventKind::Bad { visible: true });
    assert_eq!(failed.count(), 3, "the events are flushed at once");
}

#[test]
fn the_failure_that_exhausts_the_budget_is_the_last_on_open_connections() {
    let (blue, green) = (Upstream::named("blue"), FAILS());
    let mut rig = Trial::new(blue.address, green.address).start();
    rig.handle.tripwire().arm(BudgetKind::Visible, 3, 0);
    let (mut first, mut other) = (rig.client(), rig.client());
    assert_eq!(first.get("/").status, 500);
    assert_eq!(other.get("/").status, 500);
    block_on(async {
        let mut http2 = Http2::connect(rig.address).await;
        assert_eq!(http2.get("/").await.status, 500);
        for _ in 0..10 {
            assert_eq!(http2.get("/").await.text, "blue");
        }
    });
    for _ in 0..10 {
        assert_eq!(first.get("/").expect(200).text(), "blue");
        assert_eq!(other.get("/").expect(200).text(), "blue");
        assert_eq!(rig.get("").expect(200).text(), "blue");
    }
    is_out(&mut rig, &green);
}

#[test]
fn sticky_users_leave_the_canary_and_no_late_publication_returns_them() {
    let (blue, green) = (Upstream::named("blue"), FAILS());
    let trial = Trial::new(blue.address, green.address).sticky(Sticky::Cookie("wb".into()));
    let mut rig = trial.start();
    rig.handle.tripwire().arm(BudgetKind::Visible, 3, 0);
    let users: Vec<String> = (0..3)
        .map(|_| {
            let failed = rig.get("");
            assert_eq!(failed.status, 500);
            let cookie = failed.header("set-cookie").unwrap();
            format!("Cookie: {}\r\n", cookie.split(';').next().unwrap())
        })
        .collect();
    for user in &users {
        assert_eq!(rig.get(user).expect(200).text(), "blue");
    }
    // The control plane does not know of the trip yet and publishes its next step.
    rig.publish(5_000);
    for user in &users {
        assert_eq!(rig.get(user).expect(200).text(), "blue");
    }
    for _ in 0..20 {
        assert_eq!(rig.get("").expect(200).text(), "blue");
    }
    is_out(&mut rig, &green);
}

#[test]
fn requests_without_a_key_spend_budget() {
    let (blue, green) = (Upstream::named("blue"), FAILS());
    let trial = Trial::new(blue.address, green.address).sticky(Sticky::Cookie("wb".into()));
    let mut rig = trial.start();
    rig.handle.tripwire().arm(BudgetKind::Visible, 3, 0);
    for _ in 0..3 {
        assert_eq!(rig.get("").status, 500);
    }
    assert_eq!(rig.get("").expect(200).text(), "blue");
    is_out(&mut rig, &green);
}

#[test]
fn all_workers_stop_within_the_budget_plus_requests_in_flight() {
    let (blue, green) = (Upstream::named("blue"), FAILS());
    let mut trial = Trial::new(blue.address, green.address);
    trial.workers = 2;
    trial.in_flight_max = 4;
    let mut rig = trial.start();
    rig.handle.tripwire().arm(BudgetKind::Visible, 20, 0);
    let failed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = rig.client();
                for _ in 0..50 {
                    if client.get("/").status == 500 {
                        failed.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!(
        (20..=24).contains(&failed),
        "{failed} for a budget of 20 and 4 in flight"
    );
    assert_eq!((rig.canary_points(), green.count()), (0, failed));
    eventually("the trip is recorded", || rig.handle.trip().is_some());
    rig.ended(400);
}

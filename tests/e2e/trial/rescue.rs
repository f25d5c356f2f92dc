//! Which failed requests of the canary fail over to the baseline, and how they count.

use http::HeaderName;
use weighbridge::model::Timeouts;
use weighbridge::routing::{BudgetKind, RescuePolicy};
use weighbridge::stats::{Arm, Reason, RequestEventKind};

use super::{BLUE, GREEN, Trial, short_timeouts};
use crate::harness::{Client, Http2, Reserved, Response, Upstream, block_on, eventually};

/// Ways in which a canary fails before its response has begun.
fn failing() -> Vec<(&'static str, Upstream, u16)> {
    vec![
        (
            "5xx",
            Upstream::start(|call| call.answer("500 Oh", "", "green")),
            500,
        ),
        ("reset", Upstream::start(|call| call.reset()), 502),
        ("close", Upstream::start(|call| call.close()), 502),
        ("silence", Upstream::start(|call| call.await_hangup()), 504),
        (
            "nonsense",
            Upstream::start(|call| {
                let _ = call.write("what?\r\n\r\n");
                call.close();
            }),
            502,
        ),
        (
            "5xx without end",
            Upstream::start(|call| {
                let _ = call.write("HTTP/1.1 502 Oh\r\nContent-Length: 100\r\n\r\nhalf");
                call.await_hangup();
            }),
            502,
        ),
    ]
}

#[test]
fn canary_failures_before_the_response_are_invisible_to_users() {
    for (how, green, _) in failing() {
        let blue = Upstream::named("blue");
        let trial = Trial::new(blue.address, green.address)
            .rescue(RescuePolicy::Safe)
            .timeouts(short_timeouts());
        let mut rig = trial.start();
        let response = rig.get("X-Mine: kept\r\n").expect(200);
        assert_eq!(response.text(), "blue", "{how}");
        // The second attempt has all fields of the first, each once.
        let request = blue.last();
        assert_eq!(request.header("x-mine").as_deref(), Some("kept"), "{how}");
        assert_eq!(
            request.header("host").as_deref(),
            Some("shop.test"),
            "{how}"
        );
        let hops = request.header("weighbridge-hops").unwrap_or_default();
        assert!(hops.len() == 16 && !hops.contains(','), "{how}: {hops}");
        assert_eq!(
            request.header("x-request-id"),
            response.header("x-request-id"),
            "{how}"
        );
        assert!(request.header("x-request-id").is_some(), "{how}");
        assert_eq!(
            rig.verdict(),
            (Arm::Canary, RequestEventKind::Bad { visible: false }),
            "{how}"
        );
        let counted = rig.counted(1);
        assert_eq!(
            counted.responses,
            [(BLUE, 200)],
            "{how}: one request, by the upstream that responded"
        );
        assert_eq!(
            (counted.failures, counted.successes),
            ([0, 1], [1, 0]),
            "{how}"
        );
        let handle = &rig.handle;
        assert_eq!(
            (
                handle.tripwire().spent(BudgetKind::Visible),
                handle.rescued()
            ),
            (0, 1),
            "{how}"
        );
        assert_eq!((handle.in_flight(), handle.is_urgent()), (0, true), "{how}");
    }
}

#[test]
fn without_failover_users_see_the_failure_and_it_spends_budget() {
    for (how, green, status) in failing()
        .into_iter()
        .filter(|(how, ..)| *how != "5xx without end")
    {
        let blue = Upstream::named("blue");
        let mut rig = Trial::new(blue.address, green.address)
            .timeouts(short_timeouts())
            .start();
        assert_eq!(rig.get("").status, status, "{how}");
        assert_eq!(
            rig.verdict(),
            (Arm::Canary, RequestEventKind::Bad { visible: true }),
            "{how}"
        );
        let counted = rig.counted(1);
        assert_eq!(counted.responses, [(GREEN, status)], "{how}");
        assert_eq!(
            (counted.failures, counted.successes),
            ([0, 1], [0, 0]),
            "{how}"
        );
        assert_eq!(
            (
                rig.handle.tripwire().spent(BudgetKind::Visible),
                rig.handle.rescued()
            ),
            (1, 0),
            "{how}"
        );
        assert_eq!(blue.count(), 0, "{how}");
    }
}

#[test]
fn requests_of_a_canary_that_is_unhealthy_or_refuses_connections_fail_over() {
    let (blue, closed_port) = (Upstream::named("blue"), Reserved::new());
    let mut rig = Trial::new(blue.address, closed_port.address)
        .rescue(RescuePolicy::Safe)
        .start();
    assert_eq!(rig.get("").expect(200).text(), "blue");
    let key = rig
        .publisher
        .current()
        .table
        .service("shop")
        .unwrap()
        .upstreams[1]
        .endpoints[0]
        .key;
    rig.publisher.update(|table| table.with_health(key, false));
    assert_eq!(rig.get("").expect(200).text(), "blue");
    let events = rig.ended(2);
    assert!(
        events
            .iter()
            .all(|event| event.assignment.side == Arm::Canary)
    );
    assert_eq!(
        events
            .iter()
            .filter(|event| event.happened == RequestEventKind::Bad { visible: false })
            .count(),
        2
    );
    let counted = rig.counted(2);
    assert_eq!(counted.failures, [0, 2]);
    let mut reasons = counted.reasons.clone();
    reasons.sort_by_key(|(_, _, reason)| reason.as_str());
    assert_eq!(
        reasons,
        [
            (false, GREEN, Reason::ConnectRefused),
            (false, GREEN, Reason::NoHealthyEndpoint)
        ],
        "failures of the canary that reached no client"
    );
    assert_eq!(rig.handle.rescued(), 2);
}

#[test]
fn a_truncated_response_cannot_fail_over() {
    let green = Upstream::start(|call| {
        let _ = call.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        call.close();
    });
    let blue = Upstream::named("blue");
    let mut rig = Trial::new(blue.address, green.address)
        .rescue(RescuePolicy::Safe)
        .start();
    rig.client().ask("/", "").try_receive().unwrap_err();
    assert_eq!(
        rig.verdict(),
        (Arm::Canary, RequestEventKind::Bad { visible: true })
    );
    assert_eq!(
        (
            rig.handle.tripwire().spent(BudgetKind::Visible),
            blue.count()
        ),
        (1, 0)
    );
}

#[test]
fn a_failed_failover_is_a_visible_canary_failure() {
    let blue = Upstream::start(|call| call.answer("503 Oh", "", "blue"));
    let green = Upstream::start(|call| call.answer("500 Oh", "", "green"));
    let mut rig = Trial::new(blue.address, green.address)
        .rescue(RescuePolicy::Safe)
        .start();
    assert_eq!(rig.get("").expect(503).text(), "blue");
    assert_eq!(
        rig.verdict(),
        (Arm::Canary, RequestEventKind::Bad { visible: true })
    );
    let counted = rig.counted(1);
    assert_eq!(
        (counted.failures, &*counted.responses),
        ([1, 1], &[(BLUE, 503)][..])
    );
    let wire = rig.handle.tripwire();
    assert_eq!(
        (
            wire.spent(BudgetKind::Visible),
            wire.baseline_failures(),
            rig.handle.rescued()
        ),
        (1, 0, 0)
    );
}

#[test]
fn a_truncated_failover_response_is_a_visible_failure() {
    let blue = Upstream::start(|call| {
        let _ = call.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        call.close();
    });
    let green = Upstream::start(|call| call.close());
    let mut rig = Trial::new(blue.address, green.address)
        .rescue(RescuePolicy::Safe)
        .start();
    rig.client().ask("/", "").try_receive().unwrap_err();
    assert_eq!(
        rig.verdict(),
        (Arm::Canary, RequestEventKind::Bad { visible: false })
    );
    eventually("the failure is spent", || {
        rig.handle.tripwire().spent(BudgetKind::Visible) == 1
    });
    assert_eq!(rig.handle.rescued(), 0);
}

#[test]
fn the_total_timeout_covers_both_attempts() {
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(|call| call.await_hangup()),
    );
    let timeouts = Timeouts {
        total: std::time::Duration::from_millis(50),
        ..Timeouts::default()
    };
    let trial = Trial::new(blue.address, green.address)
        .rescue(RescuePolicy::Safe)
        .timeouts(timeouts);
    let mut rig = trial.start();
    assert_eq!(rig.get("").status, 504);
    assert_eq!(
        rig.verdict(),
        (Arm::Canary, RequestEventKind::Bad { visible: true })
    );
    assert_eq!(blue.count(), 0);
}

fn post(client: &mut Client, headers: &str, body: &str) -> Response {
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: shop.test\r\n{headers}\r\n{body}"
        ))
        .receive()
}

fn five(body: &str) -> String {
    format!("Content-Length: {}\r\n", body.len())
}

#[test]
fn only_safe_methods_fail_over_unless_a_header_permits_it() {
    let header = RescuePolicy::Header(HeaderName::from_static("x-retry-safe"));
    let large = "x".repeat(64 * 1024 + 1);
    for (policy, headers, body, rescued) in [
        (RescuePolicy::Safe, String::new(), "", false),
        (
            RescuePolicy::Safe,
            format!("X-Retry-Safe: 1\r\n{}", five("hello")),
            "hello",
            false,
        ),
        (header.clone(), five("hello"), "hello", false),
        (
            header.clone(),
            format!("X-Retry-Safe: 0\r\n{}", five("hello")),
            "hello",
            false,
        ),
        (
            header.clone(),
            format!("X-Retry-Safe: 1\r\n{}", five("hello")),
            "hello",
            true,
        ),
        (header.clone(), "X-Retry-Safe: 1\r\n".to_owned(), "", true),
        (
            header.clone(),
            format!("X-Retry-Safe: 1\r\n{}", five(&large)),
            &large,
            false,
        ),
        (
            header.clone(),
            "X-Retry-Safe: 1\r\nTransfer-Encoding: chunked\r\n".to_owned(),
            "5\r\nhello\r\n0\r\n\r\n",
            false,
        ),
    ] {
        let blue = Upstream::named("blue");
        let green = Upstream::start(|call| call.answer("500 Oh", "", "green"));
        let mut rig = Trial::new(blue.address, green.address)
            .rescue(policy.clone())
            .start();
        let response = post(&mut rig.client(), &headers, body);
        let case = format!("{policy:?} {headers}");
        assert_eq!(
            response.text(),
            if rescued { "blue" } else { "green" },
            "{case}"
        );
        assert_eq!(
            rig.verdict().1,
            RequestEventKind::Bad { visible: !rescued },
            "{case}"
        );
        assert_eq!(blue.count(), usize::from(rescued), "{case}");
        assert_eq!(green.count(), 1, "{case}");
        if rescued {
            for upstream in [&blue, &green] {
                eventually("the body has arrived", || {
                    upstream.last().body.as_deref() == Some(body.as_bytes())
                });
            }
        }
    }
}

#[test]
fn a_stalled_request_body_is_a_client_error_and_is_not_assigned() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let header = RescuePolicy::Header(HeaderName::from_static("x-retry-safe"));
    let mut rig = Trial::new(blue.address, green.address)
        .rescue(header)
        .start();
    let mut client = rig.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: shop.test\r\nX-Retry-Safe: 1\r\nContent-Length: 9\r\nExpect: \
         100-continue\r\n\r\n",
    );
    assert!(
        client.head().unwrap().first.contains(" 100 "),
        "the request waits for its body"
    );
    client.send("half");
    client.reset();
    rig.counted(1);
    assert!(rig.events().is_empty());
    assert_eq!((blue.count(), green.count()), (0, 0));
}

#[test]
fn connections_stay_usable_after_any_canary_failure() {
    let green = Upstream::start(|call| {
        let _ = call.write("HTTP/1.1 500 Oh\r\nContent-Length: 100\r\n\r\nhalf");
        call.await_hangup();
    });
    let blue = Upstream::named("blue");
    let mut rig = Trial::new(blue.address, green.address)
        .rescue(RescuePolicy::Safe)
        .start();
    let mut client = rig.client();
    for _ in 0..5 {
        assert_eq!(client.get("/").expect(200).text(), "blue");
    }
    block_on(async {
        let mut http2 = Http2::connect(rig.address).await;
        for _ in 0..5 {
            assert_eq!(http2.get("/").await.text, "blue");
        }
    });
    rig.ended(10);
    eventually("partly read connections are closed", || {
        green.hangups() == 10
    });
}

#[test]
fn failover_stops_at_the_capacity_of_the_baseline() {
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(|call| call.answer("500 Oh", "", "green")),
    );
    let mut rig = Trial::new(blue.address, green.address)
        .rescue(RescuePolicy::Safe)
        .start();
    let mut client = rig.client();
    let rescued = (0..180).filter(|_| client.get("/").status == 200).count();
    assert!((100..180).contains(&rescued), "{rescued}");
    rig.ended(180);
    assert_eq!(rig.handle.rescued(), rescued as u64);
    assert_eq!(
        rig.handle.tripwire().spent(BudgetKind::Visible) as usize,
        180 - rescued
    );
    assert_eq!(blue.count(), rescued);
}

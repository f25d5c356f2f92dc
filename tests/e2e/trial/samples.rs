//! Which exchanges are sampled, and what a sample contains.

use weighbridge::routing::RescuePolicy;
use weighbridge::stats::{Arm, SampledExchange};

use super::{Rig, Trial, short_timeouts};
use crate::harness::{Reserved, Upstream, until};

impl Rig {
    #[track_caller]
    fn samples(&mut self, least: usize) -> Vec<SampledExchange> {
        until(&format!("{least} samples"), || {
            self.events();
            (self.samples.len() >= least).then(|| self.samples.clone())
        })
    }
}

fn header<'a>(sample: &'a SampledExchange, name: &str) -> Option<&'a str> {
    let found = sample.headers.iter().find(|(known, _)| &**known == name);
    found.map(|(_, value)| &**value)
}

#[test]
fn a_sampled_failure_has_its_response_without_secrets() {
    let green = Upstream::start(|call| {
        call.answer(
            "503 Oh",
            "Set-Cookie: id=hunter2\r\nX-Build: 7\r\n",
            "hunter2",
        )
    });
    let mut rig = Trial::new(Upstream::named("blue").address, green.address).start();
    let target = format!("/orders/{}?token=hunter2", "x".repeat(300));
    let response = rig.client().ask(&target, "X-Request-Id: one\r\n").receive();
    assert_eq!(response.status, 503);
    let samples = rig.samples(1);
    let [sample] = &*samples else {
        panic!("{samples:?}")
    };
    assert_eq!((sample.side, &*sample.method), (Arm::Canary, "GET"));
    assert_eq!((sample.status, sample.reason), (Some(503), Some("5xx")));
    assert_eq!(&*sample.path, "/orders/*");
    assert_eq!(
        sample.request_id.as_deref(),
        response.header("x-request-id").as_deref()
    );
    assert_eq!(
        (header(sample, "x-build"), header(sample, "set-cookie")),
        (Some("7"), None)
    );
    assert!(sample.latency_us > 0);
    assert!(!format!("{sample:?}").contains("hunter2"));
}

#[test]
fn a_sample_without_a_response_has_the_reason() {
    let closed_port = Reserved::new();
    let silent = Upstream::start(|call| call.await_hangup());
    let short = Upstream::start(|call| {
        let _ = call.write("HTTP/1.1 200 OK\r\nX-Build: 7\r\nContent-Length: 100\r\n\r\nhalf");
        call.close();
    });
    for (address, status, reason) in [
        (closed_port.address, None, "connect_error"),
        (silent.address, None, "timeout"),
        (short.address, Some(200), "reset"),
    ] {
        let trial = Trial::new(Upstream::named("blue").address, address);
        let mut rig = trial.timeouts(short_timeouts()).start();
        let _ = rig.client().ask("/", "").try_receive();
        let samples = rig.samples(1);
        assert_eq!(
            (samples[0].status, samples[0].reason),
            (status, Some(reason))
        );
        assert_eq!(header(&samples[0], "x-build"), status.map(|_| "7"));
    }
}

#[test]
fn the_sample_of_a_failed_over_request_has_the_canarys_response() {
    let green = Upstream::start(|call| call.answer("500 Oh", "X-Build: 7\r\n", "green"));
    let blue = Upstream::named("blue");
    let mut rig = Trial::new(blue.address, green.address)
        .rescue(RescuePolicy::Safe)
        .start();
    assert_eq!(rig.get("").expect(200).text(), "blue");
    rig.ended(1);
    let samples = rig.samples(1);
    assert_eq!(
        samples.len(),
        1,
        "one sample for each exchange: {samples:?}"
    );
    assert_eq!(
        (samples[0].side, samples[0].status),
        (Arm::Canary, Some(500))
    );
    assert_eq!(header(&samples[0], "x-build"), Some("7"));
}

#[test]
fn only_a_few_of_many_exchanges_are_sampled() {
    let green = Upstream::start(|call| match call.path() {
        "/bad" => call.answer("500 Oh", "", ""),
        _ => call.ok("green"),
    });
    let mut rig = Trial::new(Upstream::named("blue").address, green.address).start();
    let mut client = rig.client();
    let began = std::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(client.get("/good").status, 200);
        assert_eq!(client.get("/bad").status, 500);
    }
    // On a slow machine as many whole seconds may have begun.
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 2;
    rig.ended(200);
    let samples = rig.samples(2);
    let (good, bad): (Vec<_>, Vec<_>) = samples.iter().partition(|sample| sample.reason.is_none());
    assert!(
        (1..=seconds).contains(&good.len()),
        "{} in {seconds} s",
        good.len()
    );
    assert!(
        bad.len() <= 20 * seconds && !bad.is_empty(),
        "{} in {seconds} s",
        bad.len()
    );
    assert!(
        good.iter()
            .all(|sample| &*sample.path == "/good" && sample.status == Some(200))
    );
    assert!(bad.iter().all(|sample| &*sample.path == "/bad"));
}

//! Closed-loop clients during hundreds of swaps: an upstream at weight 0 gets no request, and no
//! request fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use crate::harness::{Http2, Proxy, Upstream, block_on, eventually, shop};

/// State shared by the clients and the thread that swaps.
#[derive(Debug, Default)]
struct Race {
    /// Odd from the response that removed green until just before the call that restores it.
    phase: AtomicU64,
    /// Requests that began and ended within one odd phase.
    within: AtomicU64,
    over: AtomicBool,
}

impl Race {
    /// Checks a response to a request that was sent in phase `before`.
    fn judge(&self, before: u64, status: u16, text: &str) {
        assert_eq!(status, 200, "a request failed: {text}");
        if before % 2 == 1 && self.phase.load(SeqCst) == before {
            assert_eq!(
                text, "blue",
                "a request sent after the swap was served by the removed upstream"
            );
            self.within.fetch_add(1, SeqCst);
        }
    }

    /// Adds and removes green repeatedly under load.
    fn run(&self, proxy: &Proxy, green: &Upstream, swaps: u32) {
        for swap in 0..swaps {
            self.phase.fetch_add(1, SeqCst);
            proxy.set_weights(50.0, 50.0);
            let before = green.count();
            eventually("green gets requests", || green.count() > before + 3);
            if swap % 2 == 0 {
                proxy.roll_back();
            } else {
                proxy.set_weights(100.0, 0.0);
            }
            self.phase.fetch_add(1, SeqCst);
            let so_far = self.within.load(SeqCst);
            eventually("requests arrive while green is removed", || {
                self.within.load(SeqCst) > so_far + 10
            });
        }
        self.over.store(true, SeqCst);
    }
}

/// Both upstreams, a proxy, and a race in the phase without green.
fn prepare() -> (Upstream, Upstream, Proxy, Arc<Race>) {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = Proxy::with_shop(shop(&blue, &green));
    let race = Arc::new(Race {
        phase: AtomicU64::new(1),
        ..Race::default()
    });
    (blue, green, proxy, race)
}

/// Every request at an upstream is a response at a client: none was repeated or lost.
#[track_caller]
fn all_are_counted(proxy: &Proxy, blue: &Upstream, green: &Upstream, sent: usize) {
    assert_eq!(blue.count() + green.count(), sent);
    for (name, upstream) in [("blue", blue), ("green", green)] {
        let received = f64::from(u32::try_from(upstream.count()).unwrap());
        eventually(
            &format!("the metrics count the requests that {name} received"),
            || proxy.metrics().requests(name) == received,
        );
    }
}

#[test]
fn after_a_swap_no_request_on_open_connections_reaches_the_removed_upstream() {
    let (blue, green, proxy, race) = prepare();
    let sent: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (mut client, mut sent) = (proxy.client(), 0);
                    while !race.over.load(SeqCst) {
                        let before = race.phase.load(SeqCst);
                        let response = client.get("/");
                        race.judge(before, response.status, &response.text());
                        sent += 1;
                    }
                    sent
                })
            })
            .collect();
        race.run(&proxy, &green, 200);
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum()
    });
    all_are_counted(&proxy, &blue, &green, sent);
}

#[test]
fn after_a_swap_no_stream_of_open_http2_connections_reaches_the_removed_upstream() {
    let (blue, green, proxy, race) = prepare();
    let sent: usize = thread::scope(|scope| {
        let clients = scope.spawn(|| {
            block_on(async {
                let client = Http2::connect(proxy.address).await;
                let streams: Vec<_> = (0..8)
                    .map(|_| {
                        let (mut client, race) = (client.clone(), Arc::clone(&race));
                        tokio::spawn(async move {
                            let mut sent = 0;
                            while !race.over.load(SeqCst) {
                                let before = race.phase.load(SeqCst);
                                let response = client.get("/").await;
                                race.judge(before, response.status, &response.text);
                                sent += 1;
                            }
                            sent
                        })
                    })
                    .collect();
                let mut sent = 0;
                for stream in streams {
                    sent += stream.await.unwrap();
                }
                sent
            })
        });
        race.run(&proxy, &green, 100);
        clients.join().unwrap()
    });
    all_are_counted(&proxy, &blue, &green, sent);
}

#[test]
fn after_a_swap_no_request_on_a_new_connection_reaches_the_removed_upstream() {
    let (blue, green, proxy, race) = prepare();
    let sent: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut sent = 0;
                    while !race.over.load(SeqCst) {
                        let before = race.phase.load(SeqCst);
                        let response = proxy.get("/");
                        race.judge(before, response.status, &response.text());
                        sent += 1;
                    }
                    sent
                })
            })
            .collect();
        race.run(&proxy, &green, 50);
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum()
    });
    all_are_counted(&proxy, &blue, &green, sent);
}

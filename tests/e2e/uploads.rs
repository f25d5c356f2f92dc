//! Uploads during a release: the side that delays them is at fault.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Gate, Proxy, Upstream, eventually, shop};

/// A service whose release stays at 25 %, with a small budget.
fn released(blue: &Upstream, green: &Upstream) -> Proxy {
    let mut shop = shop(blue, green);
    // Longer than a case takes, so that no timeout ends the exchanges.
    shop["timeouts"] = json!({ "first_byte": "10m" });
    shop["release"] = json!({
        "steps": [25], "bake": "1h", "budget": 5, "rescued_budget": 4, "rescue": "off",
        "min_canary_failures": 3,
        "objectives": [{ "error_rate": {} }],
    });
    let mut config = json!({ "services": { "shop": shop } });
    config["listeners"] = json!([{ "address": "127.0.0.1:0", "timeouts": { "body_idle": "10m" } }]);
    let proxy = Proxy::start(config);
    let mut client = proxy.client();
    (0..300).for_each(|_| drop(client.get("/").expect(200)));
    let path = "/api/v1/services/shop/releases";
    let headers = "Content-Type: application/json\r\n";
    proxy
        .admin("POST", path, headers, Some(r#"{"canary": "green"}"#))
        .expect(201);
    eventually("the canary has traffic", || {
        release(&proxy)["phase"] == "progressing"
    });
    proxy
}

fn release(proxy: &Proxy) -> Value {
    proxy
        .admin("GET", "/api/v1/releases/shop-1", "", None)
        .expect(200)
        .json()
}

/// An upstream that does not read request bodies until the gate opens.
fn not_reading(name: &'static str, gate: &Arc<Gate>) -> Upstream {
    let gate = Arc::clone(gate);
    Upstream::start(move |call| {
        if call.path() == "/upload" {
            gate.wait();
        }
        call.ok(name);
    })
}

/// Sends a body of 16 MiB, more than all buffers on the path hold, as fast as it is read.
fn upload(address: SocketAddr) {
    thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream
            .write_all(b"POST /upload HTTP/1.1\r\nHost: shop\r\nContent-Length: 16777216\r\n\r\n");
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..16 {
            if stream.write_all(&piece).is_err() {
                return;
            }
        }
        // Stays open until the proxy exits.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
}

/// Waits until requests that were assigned after this call are judged.
fn until_judged(proxy: &Proxy) {
    let mut client = proxy.client();
    let judged = || release(proxy)["canary_requests"].as_u64().unwrap();
    let before = judged();
    (0..400).for_each(|_| drop(client.get("/").expect(200)));
    eventually("later requests are judged", || judged() >= before + 50);
}

/// Starts a few more upload at each call.
fn start_uploads(proxy: &Proxy, begun: &mut usize) {
    if *begun < 80 {
        *begun += 1;
        upload(proxy.address);
    }
    proxy.get("/").expect(200);
}

#[test]
fn a_canary_that_reads_no_upload_is_rolled_back_before_any_timeout() {
    let gate = Arc::new(Gate::default());
    // A slow reader could exceed the latency objective, too.
    let blue = Upstream::start(|call| match call.path() {
        "/upload" => {
            let _ = call.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            call.await_hangup();
        }
        _ => call.ok("blue"),
    });
    let green = not_reading("green", &gate);
    let proxy = released(&blue, &green);
    let mut begun = 0;
    eventually("the release is rolled back", || {
        start_uploads(&proxy, &mut begun);
        release(&proxy)["phase"] == "rolled_back"
    });
    gate.open();
}

#[test]
fn failures_count_for_both_versions_if_neither_reads_uploads() {
    let gate = Arc::new(Gate::default());
    let (blue, green) = (not_reading("blue", &gate), not_reading("green", &gate));
    let proxy = released(&blue, &green);
    let mut begun = 0;
    eventually("failures of both are counted", || {
        start_uploads(&proxy, &mut begun);
        let release = release(&proxy);
        let failures = |arm: &str| release["objectives"][0][arm]["failures"].as_u64() >= Some(5);
        (failures("baseline") && failures("canary")) || release["phase"] != "progressing"
    });
    assert_eq!(
        release(&proxy)["phase"],
        "progressing",
        "{}",
        release(&proxy)
    );
    gate.open();
}

#[test]
fn an_upload_delayed_by_the_client_counts_against_neither_version() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = released(&blue, &green);
    let steady = Arc::new(AtomicBool::new(true));
    let mut idle = Vec::new();
    for n in 0..24 {
        let mut stream = TcpStream::connect(proxy.address).unwrap();
        stream
            .write_all(
                b"POST /upload HTTP/1.1\r\nHost: shop\r\nContent-Length: 16777216\r\n\r\nhalf",
            )
            .unwrap();
        if n % 2 == 0 {
            idle.push(stream);
            continue;
        }
        let steady = Arc::clone(&steady);
        thread::spawn(move || {
            while steady.load(SeqCst) && stream.write_all(b"a little more").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
    }
    eventually("the uploads have arrived", || {
        let upload = |upstream: &Upstream| {
            let requests = upstream.seen();
            requests
                .iter()
                .filter(|request| request.target == "/upload")
                .count()
        };
        upload(&blue) + upload(&green) == 24
    });
    until_judged(&proxy);
    let release = release(&proxy);
    assert_eq!(release["phase"], "progressing", "{release}");
    assert_eq!(release["rescued_budget"]["spent"], 0, "{release}");
    assert_eq!(
        release["objectives"][0]["canary"]["failures"], 0,
        "{release}"
    );
    assert_eq!(
        release["objectives"][0]["baseline"]["failures"], 0,
        "{release}"
    );
    steady.store(false, SeqCst);
}

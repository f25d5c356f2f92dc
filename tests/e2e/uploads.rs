//! Uploads during a release: whom one waits for decides whose fault it is.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Gate, Proxy, Upstream, eventually, shop};

/// A service whose release stays at a quarter of the traffic, and has few failures to spend.
fn released(blue: &Upstream, green: &Upstream) -> Proxy {
    let mut shop = shop(blue, green);
    // Longer than a case takes, so that no limit of time ends what is judged here.
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
    eventually("the canary has users", || {
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

/// An upstream that never takes the body of what is posted to it, until the gate opens.
fn deaf(name: &'static str, gate: &Arc<Gate>) -> Upstream {
    let gate = Arc::clone(gate);
    Upstream::start(move |call| {
        if call.path() == "/upload" {
            gate.wait();
        }
        call.ok(name);
    })
}

/// Sends a body of 16 MiB, more than all buffers on the way hold, as fast as it is taken.
fn uploads(address: SocketAddr) {
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
        // Kept open until the proxy ends.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
}

/// Requests are judged that were drawn after this was called.
fn until_judged(proxy: &Proxy) {
    let mut client = proxy.client();
    let judged = || release(proxy)["canary_requests"].as_u64().unwrap();
    let before = judged();
    (0..400).for_each(|_| drop(client.get("/").expect(200)));
    eventually("later requests are judged", || judged() >= before + 50);
}

/// Uploads, a few more at each call.
fn uploads_more(proxy: &Proxy, begun: &mut usize) {
    if *begun < 80 {
        *begun += 1;
        uploads(proxy.address);
    }
    proxy.get("/").expect(200);
}

#[test]
fn a_canary_that_takes_no_upload_is_rolled_back_before_any_limit_of_time() {
    let gate = Arc::new(Gate::default());
    // What takes time to read could be late too.
    let blue = Upstream::start(|call| match call.path() {
        "/upload" => {
            let _ = call.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            call.await_hangup();
        }
        _ => call.ok("blue"),
    });
    let green = deaf("green", &gate);
    let proxy = released(&blue, &green);
    let mut begun = 0;
    eventually("it is rolled back", || {
        uploads_more(&proxy, &mut begun);
        release(&proxy)["phase"] == "rolled_back"
    });
    gate.open();
}

#[test]
fn when_neither_version_takes_uploads_both_are_held_against_them() {
    let gate = Arc::new(Gate::default());
    let (blue, green) = (deaf("blue", &gate), deaf("green", &gate));
    let proxy = released(&blue, &green);
    let mut begun = 0;
    eventually("failures of both are counted", || {
        uploads_more(&proxy, &mut begun);
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
fn an_upload_that_waits_for_the_client_is_no_fault_of_either() {
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
    eventually("they have come", || {
        let uploads = |upstream: &Upstream| {
            let seen = upstream.seen();
            seen.iter().filter(|seen| seen.target == "/upload").count()
        };
        uploads(&blue) + uploads(&green) == 24
    });
    until_judged(&proxy);
    let told = release(&proxy);
    assert_eq!(told["phase"], "progressing", "{told}");
    assert_eq!(told["rescued_budget"]["spent"], 0, "{told}");
    assert_eq!(told["objectives"][0]["canary"]["failures"], 0, "{told}");
    assert_eq!(told["objectives"][0]["baseline"]["failures"], 0, "{told}");
    steady.store(false, SeqCst);
}

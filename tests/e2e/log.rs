//! The program's log when standard error is not read.

use std::fs::OpenOptions;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use serde_json::{Value, json};

use crate::harness::{Proxy, Upstream, eventually, shop};

/// A pipe whose buffer is full.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    // Opened again, the same pipe can be written in non-blocking mode.
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut options = OpenOptions::new();
    let mut filler = options
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .unwrap();
    for size in [4096, 1] {
        let error =
            std::iter::repeat_with(|| filler.write(&vec![b'.'; size])).find_map(Result::err);
        assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::WouldBlock));
    }
    (reader, writer)
}

fn config(blue: &Upstream, green: &Upstream) -> Value {
    let mut service = shop(blue, green);
    service["routes"] = json!([{ "host": "shop.test" }]);
    json!({ "log": { "level": "debug" }, "workers": 1, "services": { "shop": service } })
}

#[test]
fn an_unread_standard_error_blocks_neither_traffic_nor_rollbacks() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let (reader, writer) = full_pipe();
    let mut proxy = Proxy::start_with_stderr(config(&blue, &green), writer);
    let mut client = proxy.client();
    let lost = || proxy.metrics().sum("log_dropped_total", &[]);
    assert!(proxy.metrics().has("log_dropped_total"));
    let unknown = "GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n";
    // The queue is bounded: once it is full, further lines are dropped and counted.
    let mut exercise = || {
        for _ in 0..500 {
            client.send(unknown).receive().expect(404);
        }
        proxy.set_weights(0.0, 100.0);
        assert_eq!(client.get("/").expect(200).text(), "green");
        proxy.roll_back();
        assert_eq!(client.get("/").expect(200).text(), "blue");
    };
    eventually("lines are dropped", || {
        exercise();
        lost() > 0.0
    });
    let before = lost();
    exercise();
    assert!(
        lost() >= before + 500.0,
        "each request is a line at this level"
    );
    proxy.signal("TERM");
    assert!(proxy.ended().status.success());
    drop(reader);
}

#[test]
fn a_second_signal_exits_although_standard_error_is_not_read() {
    let blue = Upstream::start(|call| call.await_hangup());
    let (reader, writer) = full_pipe();
    let mut proxy = Proxy::start_with_stderr(config(&blue, &blue), writer);
    let mut waiting = proxy.client();
    waiting.ask("/", "");
    eventually("a request is in flight", || blue.count() == 1);
    proxy.signal("TERM");
    eventually("the proxy drains", || {
        proxy.admin("GET", "/readyz", "", None).status == 503
    });
    proxy.signal("TERM");
    assert_eq!(proxy.ended().status.code(), Some(1));
    drop(reader);
}

#[test]
fn the_last_log_lines_are_written_before_exit() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let (mut reader, writer) = pipe().unwrap();
    let mut proxy = Proxy::start_with_stderr(config(&blue, &green), writer);
    proxy.signal("TERM");
    assert!(proxy.ended().status.success());
    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    assert!(log.contains("ready") && log.contains("draining"), "{log}");
}

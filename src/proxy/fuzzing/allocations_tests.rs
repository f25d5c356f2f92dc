//! Allocations of a worker for each request of a kept connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use super::stage::{TestWorker, service};
use crate::model::{HeaderMatch, HostPattern, PathPrefix, ServiceSpec, Sticky, StickyCookie};
use crate::net::ListenerOptions;

/// Requests that are counted. Those before them fill pools and buffers.
const REQUESTS: usize = 1_000;
const WARM_UP: usize = 100;

/// Answers every request of every connection with the same response; tells its address. A request
/// has a body of `body` bytes.
fn upstream(body: usize, response: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let response = Arc::new(response);
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let response = Arc::clone(&response);
            thread::spawn(move || {
                while take(&mut stream, body) {
                    stream.write_all(&response).unwrap();
                }
            });
        }
    });
    address
}

/// Reads a head and what follows it; tells whether there was one.
fn take(stream: &mut impl Read, body: usize) -> bool {
    let mut read = Vec::new();
    let mut block = [0; 4096];
    loop {
        let head = read.windows(4).position(|four| four == b"\r\n\r\n");
        if head.is_some_and(|end| read.len() >= end + 4 + body) {
            return true;
        }
        match stream.read(&mut block) {
            Ok(0) | Err(_) => return false,
            Ok(bytes) => read.extend_from_slice(&block[..bytes]),
        }
    }
}

/// Allocations for each of many requests that follow each other on one connection.
fn allocations(service: &ServiceSpec, request: &str, response_body: usize) -> f64 {
    let stage = TestWorker::new(std::slice::from_ref(service), ListenerOptions::default());
    // The first connection opens that to the upstream; its memory is there for the second.
    let few = count(&stage, request, response_body, WARM_UP);
    let some = count(&stage, request, response_body, WARM_UP);
    let many = count(&stage, request, response_body, WARM_UP + REQUESTS);
    assert!(few >= some, "{few} allocations at first, {some} then");
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let each = (many - some) as f64 / REQUESTS as f64;
    each
}

fn count(stage: &TestWorker, request: &str, response_body: usize, requests: usize) -> u64 {
    let (mut client, server) = UnixStream::pair().unwrap();
    let request = request.to_owned();
    let client = thread::spawn(move || {
        for _ in 0..requests {
            client.write_all(request.as_bytes()).unwrap();
            assert!(take(&mut client, response_body), "a response");
        }
    });
    // Counts this thread alone, which is the worker's.
    let serve = || stage.runtime.block_on(async { stage.serve(server).await });
    let counted = allocation_counter::measure(serve);
    client.join().unwrap();
    counted.count_total
}

fn response(fields: &str, body: usize) -> Vec<u8> {
    let body = "x".repeat(body);
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{fields}\r\n{body}").into()
}

#[test]
fn a_plain_request_takes_hardly_more_than_one_allocation() {
    let service = service(upstream(0, response("", 1024)));
    let each = allocations(&service, "GET /1k HTTP/1.1\r\nHost: a\r\n\r\n", 1024);
    assert!(each <= 1.2, "{each} allocations for each request");
}

#[test]
fn header_fields_of_request_and_response_take_few_allocations() {
    let fields: String = (0..10)
        .map(|at| format!("X-Field-{at}: value-{at}\r\n"))
        .collect();
    let service = service(upstream(0, response(&fields, 1024)));
    let request = format!("GET /1k HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let each = allocations(&service, &request, 1024);
    assert!(each <= 21.3, "{each} allocations for each request");
}

#[test]
fn an_upload_takes_few_allocations() {
    let body = "x".repeat(10 * 1024);
    let service = service(upstream(body.len(), response("", 100)));
    let length = body.len();
    let request = format!("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
    let each = allocations(&service, &request, 100);
    assert!(each <= 4.0, "{each} allocations for each request");
}

#[test]
fn routes_by_header_and_sticky_users_take_few_allocations() {
    let mut service = service(upstream(0, response("", 1024)));
    let route = &mut service.routes[0];
    route.host = HostPattern::Exact("a".into());
    route.path_prefix = PathPrefix("/api".into());
    route.headers = vec![HeaderMatch {
        name: http::HeaderName::from_static("x-version"),
        value: http::HeaderValue::from_static("2"),
    }];
    service.sticky = Some(Sticky::Header(http::HeaderName::from_static("x-user")));
    let request = "GET /api/1k HTTP/1.1\r\nHost: a\r\nX-Version: 2\r\nX-User: u1\r\n\r\n";
    let each = allocations(&service, request, 1024);
    assert!(
        each <= 4.3,
        "by header: {each} allocations for each request"
    );
    service.sticky = Some(Sticky::Cookie(StickyCookie::named("user")));
    let request = "GET /api/1k HTTP/1.1\r\nHost: a\r\nX-Version: 2\r\n\r\n";
    let each = allocations(&service, request, 1024);
    assert!(
        each <= 7.4,
        "with a new cookie: {each} allocations for each request"
    );
}

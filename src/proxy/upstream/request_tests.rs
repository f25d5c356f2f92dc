use http::HeaderValue;
use http::header::HOST;

use super::*;
use crate::net::Scheme;
use crate::proxy::upstream::forwarded_headers::Origin;
use crate::proxy::upstream::forwarded_headers::samples::{hop, own_hop, without_hop};

/// A head without what the hop says in it.
fn bytes(request: &Request<()>, framing: RequestFraming) -> Vec<u8> {
    let mut out = Vec::new();
    write_head(&mut out, request, framing, &hop());
    without_hop(&out, request.headers())
}

fn written(request: &Request<()>, framing: RequestFraming) -> String {
    String::from_utf8(bytes(request, framing)).unwrap()
}

fn request(target: &str) -> Request<()> {
    Request::get(target)
        .header(HOST, "shop.test")
        .body(())
        .unwrap()
}

#[test]
fn a_head_is_written_as_it_is() {
    let mut request = request("/a%2Fb?c=d");
    *request.method_mut() = "PURGE".parse().unwrap();
    request
        .headers_mut()
        .append("x-a", HeaderValue::from_bytes(b"b\xff").unwrap());
    request
        .headers_mut()
        .append("x-a", HeaderValue::from_static(""));
    assert_eq!(
        bytes(&request, RequestFraming::Nothing),
        b"PURGE /a%2Fb?c=d HTTP/1.1\r\nhost: shop.test\r\nx-a: b\xff\r\nx-a: \r\n\r\n"
    );
}

#[test]
fn the_target_is_in_origin_form() {
    let first = |target: &str| {
        written(&request(target), RequestFraming::Nothing)
            .lines()
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(first("/"), "GET / HTTP/1.1");
    assert_eq!(first("*"), "GET * HTTP/1.1");
    assert_eq!(first("http://shop.test?a=b"), "GET /?a=b HTTP/1.1");
    assert_eq!(first("http://shop.test"), "GET / HTTP/1.1");
    assert_eq!(first("//a/b"), "GET //a/b HTTP/1.1");
}

#[test]
fn what_the_fields_say_of_the_framing_is_what_is_done() {
    let with = |name: &'static str, value: &'static str, framing| {
        let mut request = request("/");
        request
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
        let text = written(&request, framing);
        let fields = text
            .strip_prefix("GET / HTTP/1.1\r\nhost: shop.test\r\n")
            .unwrap();
        fields.strip_suffix("\r\n").unwrap().to_owned()
    };
    let chunked = "transfer-encoding: chunked\r\n";
    assert_eq!(
        with("content-length", "5", RequestFraming::Length(5)),
        "content-length: 5\r\n"
    );
    assert_eq!(
        with("content-length", "0", RequestFraming::Nothing),
        "content-length: 0\r\n"
    );
    assert_eq!(with("content-length", "5", RequestFraming::Nothing), "");
    assert_eq!(
        with("content-length", "5", RequestFraming::Chunked),
        chunked
    );
    assert_eq!(
        with("transfer-encoding", "gzip", RequestFraming::Chunked),
        chunked
    );
    assert_eq!(
        with("transfer-encoding", "chunked", RequestFraming::Nothing),
        ""
    );
    assert_eq!(
        with("transfer-encoding", "chunked", RequestFraming::Length(5)),
        ""
    );
}

#[test]
fn a_body_without_a_length_that_can_be_believed_goes_out_in_chunks() {
    let of = |length: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static(length));
        framing(&headers)
    };
    assert_eq!(framing(&HeaderMap::new()), RequestFraming::Chunked);
    assert_eq!(
        (of("12"), of("x"), of("-1")),
        (
            RequestFraming::Length(12),
            RequestFraming::Chunked,
            RequestFraming::Chunked
        )
    );
}

#[test]
fn chunks_and_trailers_are_written() {
    let mut out = Vec::new();
    chunked::write_size(&mut out, 0x1_0ab);
    assert_eq!(out, b"10ab\r\n");
    let mut trailers = HeaderMap::new();
    for name in [
        "x-sum",
        "content-length",
        "transfer-encoding",
        "host",
        "x-forwarded-for",
        "grpc-status",
        "te",
    ] {
        trailers.insert(name, HeaderValue::from_static("1"));
    }
    out.clear();
    write_trailers(&mut out, &trailers);
    let text = String::from_utf8(out).unwrap();
    let mut fields: Vec<_> = text.strip_prefix("0\r\n").unwrap().lines().collect();
    fields.sort_unstable();
    assert_eq!(fields, ["", "grpc-status: 1", "x-sum: 1"]);
    strip_trailers(&mut trailers);
    assert_eq!(trailers.len(), 2);
}

/// The fields that an upstream gets of a request with those of the client.
fn passed_on(trusted: bool, fields: &[(&'static str, &'static str)]) -> Vec<String> {
    let mut request = Request::get("/").body(()).unwrap();
    for (name, value) in fields {
        request
            .headers_mut()
            .append(*name, HeaderValue::from_static(value));
    }
    let id = HeaderValue::from_static("id-1");
    let hop = ForwardedHeaders {
        origin: &Origin::new([192, 0, 2, 7].into(), 8080, Scheme::Http, trusted),
        id: Some(&id),
        user: trusted.then(|| [198, 51, 100, 3].into()),
        ..hop()
    };
    let mut out = Vec::new();
    write_head(&mut out, &request, RequestFraming::Nothing, &hop);
    let text = String::from_utf8(out).unwrap();
    let fields = text
        .strip_prefix("GET / HTTP/1.1\r\n")
        .unwrap()
        .strip_suffix("\r\n")
        .unwrap();
    let mut lines: Vec<String> = fields.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn what_a_stranger_says_of_itself_does_not_count() {
    let expected = [
        "accept: */*",
        "host: shop.test",
        "via: 1.0 other",
        &own_hop(),
        "x-forwarded-for: 192.0.2.7",
        "x-forwarded-host: shop.test",
        "x-forwarded-port: 8080",
        "x-forwarded-proto: http",
        "x-real-ip: 192.0.2.7",
        "x-request-id: id-1",
    ];
    let plain = [
        ("host", "shop.test"),
        ("accept", "*/*"),
        ("via", "1.0 other"),
    ];
    assert_eq!(passed_on(false, &plain), expected);
    let mut lies = plain.to_vec();
    for name in [
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
    ] {
        lies.extend([(name, "lie"), (name, "another")]);
    }
    lies.extend([
        ("x-real-ip", "lie"),
        ("forwarded", "for=lie"),
        ("x-request-id", "lie"),
    ]);
    lies.extend([
        ("x_real_ip", "lie"),
        ("x_forwarded-for", "lie"),
        ("x_request_id", "lie"),
    ]);
    lies.extend([("x-forwarded-prefix", "/lie"), ("x_forwarded_ssl", "on")]);
    assert_eq!(passed_on(false, &lies), expected);
}

#[test]
fn what_a_trusted_proxy_says_is_passed_on_and_completed() {
    let said = [
        ("host", "inner.test"),
        ("x-forwarded-for", "198.51.100.1, 198.51.100.2"),
        ("x-forwarded-for", "198.51.100.3"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=198.51.100.1"),
    ];
    assert_eq!(
        passed_on(true, &said),
        [
            "forwarded: for=198.51.100.1",
            "host: inner.test",
            &*own_hop(),
            "x-forwarded-for: 198.51.100.1, 198.51.100.2, 198.51.100.3, 192.0.2.7",
            "x-forwarded-host: inner.test",
            "x-forwarded-port: 443",
            "x-forwarded-proto: https",
            "x-real-ip: 198.51.100.3",
            "x-request-id: id-1",
        ]
    );
}

#[test]
fn a_request_without_a_host_is_given_the_endpoint_and_claims_none() {
    let passed = passed_on(false, &[]);
    assert!(
        passed.contains(&"host: 192.0.2.9:80".to_owned()),
        "{passed:?}"
    );
    assert!(
        !passed
            .iter()
            .any(|line| line.starts_with("x-forwarded-host")),
        "{passed:?}"
    );
}

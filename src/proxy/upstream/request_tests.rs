use http::HeaderValue;
use http::header::HOST;

use super::*;

fn written(request: &Request<()>, framing: Framing) -> String {
    let mut out = Vec::new();
    write_head(&mut out, request, framing, None);
    String::from_utf8(out).unwrap()
}

fn request(target: &str) -> Request<()> {
    Request::get(target).header(HOST, "shop.test").body(()).unwrap()
}

#[test]
fn a_head_is_written_as_it_is() {
    let mut request = request("/a%2Fb?c=d");
    *request.method_mut() = "PURGE".parse().unwrap();
    request
        .headers_mut()
        .append("x-a", HeaderValue::from_bytes(b"b\xff").unwrap());
    request.headers_mut().append("x-a", HeaderValue::from_static(""));
    let mut out = Vec::new();
    write_head(&mut out, &request, Framing::Nothing, None);
    assert_eq!(
        out,
        b"PURGE /a%2Fb?c=d HTTP/1.1\r\nhost: shop.test\r\nx-a: b\xff\r\nx-a: \r\n\r\n"
    );
}

#[test]
fn the_target_is_in_origin_form() {
    let first = |target: &str| {
        written(&request(target), Framing::Nothing)
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
        request.headers_mut().insert(name, HeaderValue::from_static(value));
        let text = written(&request, framing);
        let fields = text.strip_prefix("GET / HTTP/1.1\r\nhost: shop.test\r\n").unwrap();
        fields.strip_suffix("\r\n").unwrap().to_owned()
    };
    let chunked = "transfer-encoding: chunked\r\n";
    assert_eq!(with("content-length", "5", Framing::Length(5)), "content-length: 5\r\n");
    assert_eq!(with("content-length", "0", Framing::Nothing), "content-length: 0\r\n");
    assert_eq!(with("content-length", "5", Framing::Nothing), "");
    assert_eq!(with("content-length", "5", Framing::Chunked), chunked);
    assert_eq!(with("transfer-encoding", "gzip", Framing::Chunked), chunked);
    assert_eq!(with("transfer-encoding", "chunked", Framing::Nothing), "");
    assert_eq!(with("transfer-encoding", "chunked", Framing::Length(5)), "");
}

#[test]
fn a_body_without_a_length_that_can_be_believed_goes_out_in_chunks() {
    let of = |length: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static(length));
        framing(&headers)
    };
    assert_eq!(framing(&HeaderMap::new()), Framing::Chunked);
    assert_eq!(
        (of("12"), of("x"), of("-1")),
        (Framing::Length(12), Framing::Chunked, Framing::Chunked)
    );
}

#[test]
fn chunks_and_trailers_are_written() {
    let mut out = Vec::new();
    write_chunk_size(&mut out, 0x1_0ab);
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

use proptest::prelude::*;

use super::*;

/// Reads heads from `bytes` as they come in pieces of the given lengths, and the rest at the end;
/// what is left behind the head comes with it.
fn read_in_pieces(
    asked: ResponseTo,
    bytes: &[u8],
    cuts: &[usize],
) -> Result<Option<(ResponseHead, Vec<u8>)>, Malformed> {
    let mut reader = ResponseHeadReader::new(asked);
    let (mut buffer, mut headers) = (BytesMut::new(), HeaderMap::new());
    let mut rest = bytes;
    for cut in cuts.iter().copied().chain([usize::MAX]) {
        let (piece, after) = rest.split_at(cut.min(rest.len()));
        rest = after;
        buffer.extend_from_slice(piece);
        if let Some(head) = reader.advance(&mut buffer, &mut headers, &mut |_| {})? {
            buffer.extend_from_slice(rest);
            return Ok(Some((head, buffer.to_vec())));
        }
    }
    Ok(None)
}

fn whole(text: &str) -> Result<Option<ResponseHead>, Malformed> {
    read_in_pieces(ResponseTo::Other, text.as_bytes(), &[]).map(|head| head.map(|(head, _)| head))
}

fn head(text: &str) -> ResponseHead {
    whole(text).unwrap().expect("the head is whole")
}

/// What is wrong with an answer; empty when nothing is.
fn refused(text: &str) -> &'static str {
    match whole(text) {
        Err(Malformed(why)) => why,
        Ok(_) => "",
    }
}

#[test]
fn an_ordinary_answer_is_read() {
    let text = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Empty:\r\nSet-Cookie: \
                a=1\r\nSet-Cookie:  b=2 \r\nContent-Length: 5\r\n\r\nhello";
    let (head, rest) = read_in_pieces(ResponseTo::Other, text.as_bytes(), &[])
        .unwrap()
        .unwrap();
    assert_eq!(
        (head.response.status().as_u16(), head.framing),
        (200, ResponseFraming::Length(5))
    );
    assert_eq!(rest, b"hello");
    assert!(head.reusable);
    let headers = head.response.headers();
    let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    assert_eq!((headers["x-empty"].len(), headers.len()), (0, 5));
    assert!(
        head.response.extensions().is_empty(),
        "the usual reason needs no room"
    );
}

#[test]
fn what_was_in_the_map_before_is_no_part_of_the_answer() {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", "secret".parse().unwrap());
    let mut buffer = BytesMut::from("HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n");
    let head = ResponseHeadReader::new(ResponseTo::Other)
        .advance(&mut buffer, &mut headers, &mut |_| {})
        .unwrap();
    let response = head.unwrap().response;
    assert_eq!(
        (response.headers().len(), &response.headers()["x-a"]),
        (1, &"b".parse().unwrap())
    );
}

#[test]
fn a_reason_of_its_own_is_kept() {
    let of = |text: &str| {
        head(text)
            .response
            .extensions()
            .get::<ReasonPhrase>()
            .cloned()
    };
    assert_eq!(of("HTTP/1.1 200 Fine\r\n\r\n").unwrap().as_bytes(), b"Fine");
    assert_eq!(of("HTTP/1.1 200 OK\r\n\r\n"), None);
    assert_eq!(of("HTTP/1.1 200 \r\n\r\n"), None);
    assert_eq!(of("HTTP/1.1 200\r\n\r\n"), None);
}

#[test]
fn framing_and_reuse_follow_from_status_version_and_fields() {
    use ResponseFraming::{Chunked, Close, Length};
    for (text, framing, reusable) in [
        ("1.1 200 OK\r\nContent-Length: 0", Length(0), true),
        (
            "1.1 200 OK\r\nContent-Length: 9999999999999999999",
            Length(9_999_999_999_999_999_999),
            true,
        ),
        ("1.1 200 OK\r\nTransfer-Encoding: Chunked", Chunked, true),
        ("1.1 200 OK", Close, false),
        (
            "1.1 200 OK\r\nConnection: close\r\nContent-Length: 3",
            Length(3),
            false,
        ),
        (
            "1.1 200 OK\r\nConnection: X, Close\r\nTransfer-Encoding: chunked",
            Chunked,
            false,
        ),
        (
            "1.1 200 OK\r\nConnection: Upgrade, Keep-Alive\r\nUpgrade: h2,h2c\r\nContent-Length: 3",
            Length(3),
            true,
        ),
        (
            "1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: \
             TLS/1.3\r\nContent-Length: 3",
            Length(3),
            true,
        ),
        (
            "1.1 200 OK\r\nConnection: upgrade, close\r\nContent-Length: 3",
            Length(3),
            false,
        ),
    ] {
        let head = head(&format!("HTTP/{text}\r\n\r\n"));
        assert_eq!((head.framing, head.reusable), (framing, reusable), "{text}");
    }
}

#[test]
fn framing_and_reuse_of_http10_and_of_statuses_without_a_body() {
    use ResponseFraming::{Close, Length};
    for (text, framing, reusable) in [
        ("1.0 200 OK\r\nContent-Length: 3", Length(3), false),
        (
            "1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 3",
            Length(3),
            true,
        ),
        ("1.0 200 OK\r\nConnection: keep-alive", Close, false),
        ("1.1 204 No Content", Length(0), true),
        ("1.1 204 No Content\r\nContent-Length: 0", Length(0), true),
        ("1.1 204 No Content\r\nContent-Length: 5", Length(0), false),
        (
            "1.1 204 No Content\r\nTransfer-Encoding: chunked",
            Length(0),
            false,
        ),
        (
            "1.1 304 Not Modified\r\nContent-Length: 500",
            Length(0),
            true,
        ),
        (
            "1.1 304 Not Modified\r\nTransfer-Encoding: chunked",
            Length(0),
            true,
        ),
        (
            "1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade",
            Length(0),
            false,
        ),
        ("1.1 101 Switching Protocols", Length(0), false),
        ("1.1 999 Whatever\r\nContent-Length: 1", Length(1), true),
    ] {
        let head = head(&format!("HTTP/{text}\r\n\r\n"));
        assert_eq!((head.framing, head.reusable), (framing, reusable), "{text}");
    }
}

#[test]
fn a_response_to_head_keeps_its_length_and_has_no_body() {
    let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n";
    let (head, _) = read_in_pieces(ResponseTo::Head, bytes, &[])
        .unwrap()
        .unwrap();
    assert_eq!(
        (head.framing, head.reusable),
        (ResponseFraming::Length(0), true)
    );
    assert_eq!(head.response.headers()["content-length"], "12345");
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    for fields in [
        "Content-Length: 2\r\nContent-Length: 5",
        "Content-Length: 2\r\nContent-Length: 2",
        "Content-Length: 2, 2",
        "Content-Length: -1",
        "Content-Length: +1",
        "Content-Length: 0x10",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 2",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding:",
        "Content-Length : 2",
        "Content-Length\t: 2",
        "Content_Length : 2",
        "Transfer-Encoding : chunked",
        "Connection  : close",
        "Upgrade : h2c",
        "Trailer : X",
        "X-A \t : b\r\nKeep-Alive : timeout=5",
        "X-A: a\r\n folded",
        "X-A: a\0b",
        "X-A: a\rSet-Cookie: evil=1",
        "X-A: a\x7fb",
        "X A: b",
        ": b",
        "X-A",
    ] {
        assert_ne!(
            refused(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n")),
            "",
            "{fields:?}"
        );
    }
    assert_ne!(
        refused("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ""
    );
}

#[test]
fn a_space_before_a_colon_is_taken_off() {
    let head = head(
        "HTTP/1.1 200 OK\r\nContent-Type : text/plain\r\nX-A\t : b : c\r\nContent-Length: \
         2\r\n\r\n",
    );
    assert_eq!(head.response.headers()["content-type"], "text/plain");
    assert_eq!(head.response.headers()["x-a"], "b : c");
    assert_eq!(
        (head.framing, head.reusable),
        (ResponseFraming::Length(2), true)
    );
}

#[test]
fn interim_answers_have_a_bound_and_say_whether_work_goes_on() {
    let interim = |status: u16, times: usize| format!("HTTP/1.1 {status} X\r\n\r\n").repeat(times);
    let end = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let read = |text: String| {
        let mut reader = ResponseHeadReader::new(ResponseTo::Other);
        let read = reader.advance(
            &mut BytesMut::from(text.as_bytes()),
            &mut HeaderMap::new(),
            &mut |_| {},
        );
        (
            read.map(|head| head.is_some())
                .map_err(|fault| fault.to_string()),
            reader.processing(),
        )
    };
    assert_eq!(read(interim(102, 2) + &interim(103, 3)), (Ok(false), 2));
    assert_eq!(
        read(interim(102, 40) + &interim(100, 60) + end),
        (Ok(true), 40)
    );
    assert_eq!(
        read(interim(103, 101) + end).0,
        Err("interim answers without end".into())
    );
}

#[test]
fn what_is_no_answer_is_refused() {
    for text in [
        "<html>hi</html>",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "nonsense\r\n\r\n",
        "HTTP/3.7 200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 Low\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP /1.1 200 OK\r\n\r\n",
        "H\n\n",
    ] {
        assert_ne!(refused(text), "", "{text:?}");
    }
}

#[test]
fn a_head_that_is_not_whole_is_waited_for() {
    for text in [
        "",
        "H",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n",
        "HTTP/1.1 200 OK\r\n\r",
    ] {
        assert!(whole(text).unwrap().is_none(), "{text:?}");
    }
}

#[test]
fn interim_answers_are_left_out_and_bounded() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    let head = head(&format!(
        "{interim}{interim}HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    ));
    assert_eq!(
        (
            head.response.status().as_u16(),
            head.response.headers().len()
        ),
        (404, 1)
    );
    assert_eq!(
        refused("HTTP/1.1 100 Continue\r\n\r\nrubbish"),
        "not an answer"
    );
    let flood = "HTTP/1.1 102 Processing\r\n\r\n".repeat(ANSWER_BYTES_MAX / 27 + 1);
    assert_eq!(refused(&flood), "interim answers without end");
}

#[test]
fn a_head_has_its_limits() {
    let long = |bytes: usize| format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(bytes));
    assert_eq!(
        refused(&long(HEAD_BYTES_MAX)),
        "an answer's head is too long"
    );
    assert_eq!(
        refused(&format!("{}\r\n\r\n", long(HEAD_BYTES_MAX - 30))),
        ""
    );
    let many = |fields: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(fields));
    assert_eq!(refused(&many(HEADERS_MAX)), "");
    assert_ne!(refused(&many(HEADERS_MAX + 1)), "");
}

#[test]
fn a_head_is_the_same_wherever_it_is_cut() {
    let text =
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 4\r\n\r\nbody";
    let expected = head(text);
    let bytes: Vec<usize> = vec![1; text.len()];
    let everywhere = (0..text.len()).map(|at| vec![at]).chain([bytes]);
    for cuts in everywhere {
        let (head, rest) = read_in_pieces(ResponseTo::Other, text.as_bytes(), &cuts)
            .unwrap()
            .unwrap();
        assert_eq!(
            head.response.headers(),
            expected.response.headers(),
            "{cuts:?}"
        );
        assert_eq!(
            (head.framing, &*rest),
            (ResponseFraming::Length(4), &b"body"[..]),
            "{cuts:?}"
        );
    }
}

proptest! {
    #[test]
    fn any_cut_of_any_answer_reads_the_same(
        status in 200_u16..600,
        fields in proptest::collection::vec(("[a-zA-Z][a-zA-Z0-9-]{0,20}", "[ -~]{0,40}"), 0..20),
        interim in 0_usize..3,
        cuts in proptest::collection::vec(0_usize..60, 0..12),
    ) {
        let mut text = "HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n".repeat(interim);
        text.push_str(&format!("HTTP/1.1 {status} Reason\r\n"));
        for (name, value) in &fields {
            text.push_str(&format!("x-{name}: {value}\r\n"));
        }
        text.push_str("\r\nrest");
        let (head, rest) = read_in_pieces(ResponseTo::Other, text.as_bytes(), &cuts).unwrap().unwrap();
        prop_assert_eq!(rest, b"rest");
        prop_assert_eq!(head.response.status().as_u16(), status);
        prop_assert_eq!(head.response.headers().len(), fields.len());
        for (name, value) in &fields {
            let values = head.response.headers().get_all(format!("x-{name}"));
            prop_assert!(values.iter().any(|have| have.as_bytes() == value.trim().as_bytes()));
        }
    }

    /// Whatever comes, it is read the same however it is cut: a whole head, nonsense, or a part.
    #[test]
    fn anything_is_read_the_same_however_it_is_cut(
        text in "(HTTP/1\\.[01] [12345][0-9]{2} [A-Z]{0,3}(\r\n|\n|\r)?|[A-Za-z-]{1,8}: ?[ -~]{0,9}(\r\n|\n)|\r\n|\n|[\\x00-\\x7f]){0,9}",
        cuts in proptest::collection::vec(0_usize..9, 0..12),
    ) {
        let kind = |read: Result<Option<(ResponseHead, Vec<u8>)>, Malformed>| match read {
            Ok(None) => "part".to_owned(),
            Ok(Some((head, rest))) => format!("{:?} {rest:?}", head.response),
            Err(fault) => fault.to_string(),
        };
        let once = kind(read_in_pieces(ResponseTo::Other, text.as_bytes(), &[]));
        let cut = kind(read_in_pieces(ResponseTo::Other, text.as_bytes(), &cuts));
        prop_assert_eq!(once, cut);
    }
}

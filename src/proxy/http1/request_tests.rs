use proptest::prelude::*;

use super::*;
use crate::proxy::http1::Malformed;
use crate::proxy::http1::chunked::{Chunked, ChunkedPiece};
use crate::proxy::http1::target;

const LIMITS: HeadLimits = HeadLimits {
    head_bytes: 4096,
    headers: 20,
    target_bytes: 256,
};

/// A connection without a socket: its requests as they come, bodies left out.
struct Connection {
    reader: RequestHeadReader,
    buffer: BytesMut,
    body: Body,
    heads: Vec<RequestHead>,
}

enum Body {
    Length(u64),
    Chunked(Chunked),
}

impl Connection {
    fn new() -> Connection {
        Connection {
            reader: RequestHeadReader::new(LIMITS),
            buffer: BytesMut::new(),
            body: Body::Length(0),
            heads: Vec::new(),
        }
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<(), HeadError> {
        self.buffer.extend_from_slice(bytes);
        loop {
            match &mut self.body {
                Body::Length(left) if *left > 0 => {
                    let here = usize::try_from(*left).unwrap().min(self.buffer.len());
                    self.buffer.advance(here);
                    *left -= here as u64;
                    if *left > 0 {
                        return Ok(());
                    }
                }
                Body::Chunked(chunked) => match chunked.next(&mut self.buffer) {
                    Ok(ChunkedPiece::End) => self.body = Body::Length(0),
                    Ok(ChunkedPiece::More) => return Ok(()),
                    Ok(_) => {}
                    Err(Malformed(why)) => return Err(HeadError::Malformed(why)),
                },
                Body::Length(_) => match self.reader.advance(&mut self.buffer, HeaderMap::new)? {
                    None => return Ok(()),
                    Some(head) => {
                        self.body = match head.body {
                            BodyLength::Nothing => Body::Length(0),
                            BodyLength::Exactly(length) => Body::Length(length),
                            BodyLength::Chunked => Body::Chunked(Chunked::strict(LIMITS.headers)),
                        };
                        self.heads.push(head);
                    }
                },
            }
        }
    }

    fn in_head(&self) -> bool {
        self.reader.is_in_head(self.buffer.len())
    }

    /// What has been read of each head.
    fn requests(&self) -> Vec<String> {
        let head = |head: &RequestHead| {
            let RequestHead {
                request,
                body,
                keep_alive,
                expects_continue,
                accepts_trailers,
            } = head;
            format!("{request:?} {body:?} {keep_alive} {expects_continue} {accepts_trailers}")
        };
        self.heads.iter().map(head).collect()
    }
}

/// What is read of a whole connection, which is the same when it comes byte by byte.
fn connection(bytes: &[u8]) -> (Connection, Result<(), HeadError>) {
    let (mut whole, mut slow) = (Connection::new(), Connection::new());
    let verdict = whole.advance(bytes);
    let by_byte = bytes.iter().try_for_each(|byte| slow.advance(&[*byte]));
    assert_eq!(
        (verdict, whole.requests()),
        (by_byte, slow.requests()),
        "{}",
        bytes.escape_ascii()
    );
    (whole, verdict)
}

fn whole(bytes: &[u8]) -> Result<(), HeadError> {
    connection(bytes).1
}

fn refused(text: &str) -> &'static str {
    match whole(text.as_bytes()) {
        Err(HeadError::Malformed(why)) => why,
        Err(HeadError::TargetTooLong) => "414",
        Err(HeadError::HeadTooLarge) => "431",
        Err(HeadError::UnknownCoding) => "501",
        Err(HeadError::Version) => "505",
        Ok(()) => "",
    }
}

#[test]
fn ordinary_messages_pass() {
    for text in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET /a?b=c HTTP/1.1\r\nHost: a:80\r\nX-Y: \tz \r\n\r\nGET / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: \
         a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \
         Chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX-T: v\r\n\r\n",
        "GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(refused(text), "", "{text:?}");
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let head = |rest: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{rest}\r\n\r\n");
    for fields in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Content-Length: 3\r\nContent-Length: 3",
        "Content-Length: +3",
        "Content-Length: 3,3",
        "Content-Length: ",
        "Content-Length: 99999999999999999999",
        "Content_Length: 3",
        "Transfer_Encoding: chunked",
        "Content-Length : 3",
        " folded: x",
        "X: a\r\n folded",
        "X: a\nY: b",
        "X: a\rY: b",
        "X: a\0",
        "X",
        ": x",
        "Host: b",
        "Host: a b",
    ] {
        assert!(
            refused(&head(fields)).len() > 3,
            "{fields:?} gave {:?}",
            refused(&head(fields))
        );
    }
    for host in ["a]", "a]b:80", "[::1", "[::1]]", "[a]", "a:b", "a:123456"] {
        let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert!(refused(&head).len() > 3, "{host} gave {:?}", refused(&head));
    }
    for coding in [
        "gzip",
        "chunked, chunked",
        "identity",
        "gzip, chunked",
        "xchunked",
        "",
    ] {
        assert_eq!(
            refused(&head(&format!("Transfer-Encoding: {coding}"))),
            "501",
            "{coding}"
        );
    }
}

#[test]
fn request_lines_follow_the_grammar_to_the_letter() {
    for line in [
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET a HTTP/1.1",
        "GET /# HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET * HTTP/1.1",
        "CONNECT / HTTP/1.1",
        "GET / http/1.1",
        "GET ftp://a/ HTTP/1.1",
        "GET http:///x HTTP/1.1",
    ] {
        assert!(
            refused(&format!("{line}\r\nHost: a\r\n\r\n")).len() > 3,
            "{line}"
        );
    }
    assert_eq!(refused("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), "505");
    assert!(refused("GET / HTTP/1.1\r\n\r\n").contains("Host"));
    assert!(refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n").contains("Host"));
}

#[test]
fn what_browsers_send_unescaped_passes_masked_and_is_kept_as_it_was() {
    let head = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\nX: `\"\r\n\r\n");
    for (target, masked, kept) in [
        ("/a`b", "/a_b", "/a`b"),
        ("/?q=\"x\"", "/?q=_x_", "/?q=\"x\""),
        ("/`\"?`\"\\^|{}[]", "/__?__\\^|{}[]", "/`\"?`\"\\^|{}[]"),
        ("http://a/`?\"", "http://a/_?_", "/`?\""),
    ] {
        let text = head("/plain") + &head(target) + &head("/plain");
        let (connection, verdict) = connection(text.as_bytes());
        assert_eq!(verdict, Ok(()));
        let requests: Vec<_> = connection.heads.iter().map(|head| &head.request).collect();
        assert_eq!(requests[1].uri().to_string(), masked);
        assert_eq!(
            requests
                .iter()
                .map(|request| target::of(request))
                .collect::<Vec<_>>(),
            ["/plain", kept, "/plain"]
        );
        assert_eq!(
            requests[1].headers()["x"],
            "`\"",
            "only the target is masked"
        );
    }
    for target in [
        "/a\\b",
        "/<",
        "/?<",
        "/?>",
        "/?a#b",
        "http://a%zz/",
        "http://a/\\",
    ] {
        assert!(!refused(&head(target)).is_empty(), "{target}");
    }
}

#[test]
fn a_head_says_what_becomes_of_body_and_connection() {
    let read = |text: &str| {
        let (connection, verdict) = connection(text.as_bytes());
        assert_eq!(verdict, Ok(()), "{text:?}");
        let head = &connection.heads[0];
        (
            head.body,
            head.keep_alive,
            head.expects_continue,
            head.accepts_trailers,
        )
    };
    let with = |version: &str, fields: &str| {
        read(&format!("POST / HTTP/{version}\r\nHost: a\r\n{fields}\r\n"))
    };
    let nothing = BodyLength::Nothing;
    assert_eq!(with("1.1", ""), (nothing, true, false, false));
    assert_eq!(with("1.0", ""), (nothing, false, false, false));
    assert_eq!(
        with("1.0", "Connection: x, Keep-Alive\r\n"),
        (nothing, true, false, false)
    );
    assert_eq!(
        with("1.1", "Connection: keep-alive\r\nConnection: Close\r\n"),
        (nothing, false, false, false)
    );
    assert_eq!(
        with("1.1", "TE: gzip, Trailers\r\n"),
        (nothing, true, false, true)
    );
    assert_eq!(
        with("1.1", "Content-Length: 0\r\nExpect: 100-continue\r\n"),
        (nothing, true, false, false)
    );
    let expecting = "Content-Length: 2\r\nExpect: 100-Continue\r\n";
    assert_eq!(
        with("1.1", expecting),
        (BodyLength::Exactly(2), true, true, false)
    );
    assert_eq!(
        with("1.0", expecting),
        (BodyLength::Exactly(2), false, false, false)
    );
    assert_eq!(
        with("1.1", "Transfer-Encoding: chunked\r\n").0,
        BodyLength::Chunked
    );
}

#[test]
fn chunks_follow_the_grammar_to_the_letter() {
    let body = |chunks: &str| {
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
    };
    for chunks in [
        "3\nabc\r\n",
        "3\r\nabcd\r\n",
        "3\r\nabc\n",
        "g\r\n",
        "-1\r\n",
        "0x3\r\nabc\r\n",
        "\r\n",
        " 3\r\n",
    ] {
        assert!(!refused(&body(chunks)).is_empty(), "{chunks:?}");
    }
    assert!(refused(&body("ffffffffffffffffff\r\n")).contains("malformed"));
    assert!(refused(&body("0\r\nContent-Length: 3\r\n\r\n")).contains("trailer"));
    assert!(refused(&body(&format!("1;{}\r\n", "x".repeat(300)))).contains("too long"));
}

#[test]
fn limits_hold_even_before_a_line_has_ended() {
    assert_eq!(
        refused(&format!(
            "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
            "a".repeat(256)
        )),
        "414"
    );
    assert_eq!(refused(&format!("GET /{}", "a".repeat(1000))), "414");
    assert_eq!(
        refused(&format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(5000))),
        "431"
    );
    assert_eq!(
        refused(&format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "a: b\r\n".repeat(20)
        )),
        "431"
    );
    assert!(refused(&"x".repeat(1000)).contains("request line"));
}

#[test]
fn limits_hold_to_the_byte_and_to_the_field() {
    let long = |bytes: usize| {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
        head.replace("X: ", &format!("X: {}", "a".repeat(bytes - head.len())))
    };
    assert_eq!((refused(&long(4096)), refused(&long(4097))), ("", "431"));
    let many = |fields: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "a: b\r\n".repeat(fields - 1)
        )
    };
    assert_eq!((refused(&many(20)), refused(&many(21))), ("", "431"));
    let target =
        |bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(bytes - 1));
    assert_eq!((refused(&target(256)), refused(&target(257))), ("", "414"));
}

#[test]
fn only_what_stands_before_a_refused_message_is_read() {
    let good = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok";
    let (both, verdict) =
        connection(format!("{good}GET / HTTP/1.1\r\nBad Header: x\r\n\r\n").as_bytes());
    assert_eq!((both.heads.len(), verdict.is_err()), (1, true));
    let mut connection = Connection::new();
    assert!(!connection.in_head());
    connection.advance(b"\r\n").unwrap();
    assert!(!connection.in_head(), "an empty line begins nothing");
    connection
        .advance(b"GET / HTTP/1.1\r\nHost: a\r\nX")
        .unwrap();
    assert!(connection.in_head());
    assert!(
        connection.advance(b" : y\r\n").is_err(),
        "the head need not be whole"
    );
    assert!(connection.heads.is_empty());
}

proptest! {
    #[test]
    fn it_does_not_matter_how_bytes_are_cut(
        text in "(GET|POST) /[a-z#]{0,4} HTTP/1\\.[01]\r\n(Host: a\r\n|X: y\r?\n|Content-Length: [0-4]\r\n|Transfer-Encoding: chunked\r\n){0,4}\r\n([0-3]\r\n[ab]{0,3}\r\n){0,3}",
        cuts in proptest::collection::vec(0_usize..200, 0..6),
    ) {
        let bytes = text.as_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let mut cut_up = Connection::new();
        let mut start = 0;
        let mut verdict = Ok(());
        for cut in cuts {
            verdict = cut_up.advance(&bytes[start..cut]);
            if verdict.is_err() {
                break;
            }
            start = cut;
        }
        let (once, expected) = connection(bytes);
        prop_assert_eq!((verdict, cut_up.requests()), (expected, once.requests()));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = whole(&bytes);
    }
}

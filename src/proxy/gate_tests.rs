use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    head_bytes: 4096,
    headers: 20,
    target_bytes: 256,
};

/// What the gate says of a whole connection, which is what it says when that comes byte by byte.
fn whole(bytes: &[u8]) -> Result<(), (usize, Refusal)> {
    let verdict = Gate::new(LIMITS).advance(bytes);
    let mut slow = Gate::new(LIMITS);
    let by_byte = bytes.iter().try_for_each(|byte| slow.advance(&[*byte]));
    assert_eq!(
        verdict.map_err(|(_, why)| why),
        by_byte.map_err(|(_, why)| why),
        "{}",
        bytes.escape_ascii()
    );
    verdict
}

fn refused(text: &str) -> &'static str {
    match whole(text.as_bytes()) {
        Err((_, Refusal::Malformed(why))) => why,
        Err((_, Refusal::TargetTooLong)) => "414",
        Err((_, Refusal::HeadTooLarge)) => "431",
        Err((_, Refusal::UnknownCoding)) => "501",
        Err((_, Refusal::Version)) => "505",
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
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
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
    let head = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    for (target, masked) in [
        ("/a`b", "/a_b"),
        ("/?q=\"x\"", "/?q=_x_"),
        ("/`\"?`\"\\^|{}[]", "/__?__\\^|{}[]"),
        ("http://a/`?\"", "http://a/_?_"),
    ] {
        let text = head("/plain") + &head(target) + &head("/plain");
        for size in [text.len(), 1, 7] {
            let mut gate = Gate::new(LIMITS);
            let mut seen = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                let mut piece = piece.to_vec();
                gate.advance(&piece).unwrap();
                gate.mask(&mut piece);
                seen.extend(piece);
            }
            assert_eq!(
                String::from_utf8(seen).unwrap(),
                text.replace(target, masked),
                "{size}"
            );
            assert_eq!(gate.heads(), 3);
            let kept: Vec<_> = (1..=3).map(|head| gate.target(head)).collect();
            assert_eq!(kept, [None, Some(target.as_bytes().into()), None], "{size}");
        }
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
    // Only the target is masked.
    let mut text = b"A`B /` HTTP/1.1\r\nHost: a\r\nX: `\"\r\n\r\n".to_vec();
    let mut gate = Gate::new(LIMITS);
    gate.advance(&text).unwrap();
    gate.mask(&mut text);
    assert!(text.starts_with(b"A`B /_ HTTP/1.1\r\nHost: a\r\nX: `\"\r\n"));
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
    assert!(refused(&body("ffffffffffffffffff\r\n")).contains("hexadecimal"));
    assert!(refused(&body("0\r\nContent-Length: 3\r\n\r\n")).contains("trailers"));
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
fn only_what_stands_before_a_refused_message_passes() {
    let good = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok";
    let both = format!("{good}GET / HTTP/1.1\r\nBad Header: x\r\n\r\n");
    assert_eq!(whole(both.as_bytes()).unwrap_err().0, good.len());
    let mut gate = Gate::new(LIMITS);
    assert_eq!(gate.advance(b"GET / HTTP/1.1\r\nHost: a\r\nX"), Ok(()));
    assert!(gate.in_head());
    assert_eq!(gate.advance(b" : y\r\n\r\n").unwrap_err().0, 0);
    assert!(!gate.closed_in_body());
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
        let mut gate = Gate::new(LIMITS);
        let mut start = 0;
        let mut verdict = Ok(());
        for cut in cuts {
            if let Err((_, refusal)) = gate.advance(&bytes[start..cut]) {
                verdict = Err(refusal);
                break;
            }
            start = cut;
        }
        prop_assert_eq!(verdict, whole(bytes).map_err(|(_, refusal)| refusal));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = whole(&bytes);
    }
}

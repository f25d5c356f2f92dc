use proptest::prelude::*;

use super::*;

/// What is read of a body that comes in pieces of the given lengths: its data, its trailers, and
/// what is left behind it; `None` when its end has not come.
type Read = Option<(Vec<u8>, HeaderMap, Vec<u8>)>;

fn read_in_pieces(bytes: &[u8], cuts: &[usize], look_ahead: bool) -> Result<Read, Malformed> {
    let (mut chunked, mut buffer) = (Chunked::new(), BytesMut::new());
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    let mut rest = bytes;
    for cut in cuts.iter().copied().chain([usize::MAX]) {
        let (piece, after) = rest.split_at(cut.min(rest.len()));
        rest = after;
        buffer.extend_from_slice(piece);
        loop {
            let piece = chunked.next(&mut buffer)?;
            if look_ahead {
                chunked.look_ahead(&mut buffer);
            }
            match piece {
                ChunkedPiece::Data(piece) => data.extend_from_slice(&piece),
                ChunkedPiece::Trailers(fields) => trailers = fields,
                ChunkedPiece::More => break,
                ChunkedPiece::End => {
                    assert!(chunked.is_done());
                    buffer.extend_from_slice(rest);
                    return Ok(Some((data, trailers, buffer.to_vec())));
                }
            }
        }
    }
    Ok(None)
}

fn whole(text: &str) -> Result<Read, Malformed> {
    read_in_pieces(text.as_bytes(), &[], false)
}

#[test]
fn bodies_are_read_to_their_end_and_not_further() {
    for (text, data, left) in [
        ("0\r\n\r\n", "", ""),
        ("5\r\nhello\r\n0\r\n\r\n", "hello", ""),
        (
            "3\r\nabc\r\n00a\r\n0123456789\r\n0\r\n\r\nHTTP/1.1 200",
            "abc0123456789",
            "HTTP/1.1 200",
        ),
        (
            "A;x=y;z=\"q\"\r\n0123456789\r\n0;last\r\n\r\n",
            "0123456789",
            "",
        ),
        ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n", ""),
    ] {
        let (read, trailers, rest) = whole(text).unwrap().expect("the body is whole");
        assert_eq!((read, rest), (data.into(), left.into()), "{text:?}");
        assert!(trailers.is_empty());
    }
    let (_, trailers, _) = whole("1\r\nx\r\n0\r\nX-A: 1\r\nx-b:\t2 \r\nX-A: 3\r\n\r\n")
        .unwrap()
        .unwrap();
    let all: Vec<_> = trailers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    assert_eq!(all, [("x-a", "1"), ("x-a", "3"), ("x-b", "2")]);
}

#[test]
fn what_is_not_the_grammar_is_refused() {
    for text in [
        "\r\n",
        "G\r\n",
        "ZZ\r\nxx\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "-1\r\n",
        "+5\r\nhello\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhelloworld\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a\0b\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff\r\n",
        "10000000000000000\r\n",
        "0\r\nX\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n: y\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX: a\0b\r\n\r\n",
        "0\r\nX: a\rb\r\n\r\n",
        "0\r\nX: a\r\r\n\r\n",
        "0\r\nX: a\x0c\r\n\r\n",
        "0\r\n folded\r\n\r\n",
        "0\n\n",
    ] {
        for look_ahead in [false, true] {
            let read = read_in_pieces(text.as_bytes(), &[], look_ahead);
            assert!(matches!(read, Err(Malformed(_))), "{text:?} gave {read:?}");
        }
    }
}

#[test]
fn lines_and_trailers_have_their_limits() {
    let refused = |text: String| match whole(&text) {
        Err(Malformed(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused("0".repeat(300)), "a chunk's size line is too long");
    assert_eq!(
        refused(format!("1;{}\r\n", "x".repeat(300))),
        "a chunk's size line is too long"
    );
    let long = "x".repeat(TRAILER_BYTES_MAX);
    assert_eq!(
        refused(format!("0\r\nX: {long}")),
        "the trailers are too long"
    );
    let many = "a: b\r\n".repeat(TRAILERS_MAX + 1);
    assert_eq!(
        refused(format!("0\r\n{many}\r\n")),
        "the trailers are too many"
    );
    let endless = format!("a: {}\r\n", "b".repeat(1000)).repeat(20);
    assert_eq!(
        refused(format!("0\r\n{endless}\r\n")),
        "the trailers are too long"
    );
}

#[test]
fn a_part_never_looks_like_the_whole() {
    for body in [
        "5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
    ] {
        for end in 0..body.len() {
            for look_ahead in [false, true] {
                let read = read_in_pieces(&body.as_bytes()[..end], &[], look_ahead).unwrap();
                assert_eq!(read, None, "{end} bytes of {body:?}");
            }
        }
    }
}

#[test]
fn the_end_is_known_with_the_last_data_when_it_came_with_it() {
    let mut chunked = Chunked::new();
    let mut buffer = BytesMut::from("5\r\nhello\r\n0\r\n\r\nrest");
    assert_eq!(
        chunked.next(&mut buffer).unwrap(),
        ChunkedPiece::Data("hello".into())
    );
    assert!(!chunked.is_done());
    chunked.look_ahead(&mut buffer);
    assert!(chunked.is_done());
    assert_eq!(buffer, "rest");
    // Trailers are a piece of their own, and what is wrong comes after what was right.
    let mut chunked = Chunked::new();
    let mut buffer = BytesMut::from("5\r\nhello\r\n0\r\nX: y\r\n\r\n");
    chunked.next(&mut buffer).unwrap();
    chunked.look_ahead(&mut buffer);
    assert!(!chunked.is_done());
    assert!(matches!(
        chunked.next(&mut buffer),
        Ok(ChunkedPiece::Trailers(_))
    ));
    assert!(chunked.is_done());
    let mut chunked = Chunked::new();
    let mut buffer = BytesMut::from("5\r\nhello\r\nZZ\r\n");
    assert!(matches!(
        chunked.next(&mut buffer),
        Ok(ChunkedPiece::Data(_))
    ));
    chunked.look_ahead(&mut buffer);
    assert!(chunked.next(&mut buffer).is_err());
    assert!(chunked.next(&mut buffer).is_err(), "an error is for good");
}

#[test]
fn a_body_is_the_same_wherever_it_is_cut() {
    let text = "3;x=y\r\nabc\r\n00A\r\n0123456789\r\n0\r\nX-T: v\r\n\r\nrest";
    let expected = whole(text).unwrap();
    let each: Vec<usize> = vec![1; text.len()];
    for cuts in (0..text.len()).map(|at| vec![at]).chain([each]) {
        for look_ahead in [false, true] {
            assert_eq!(
                read_in_pieces(text.as_bytes(), &cuts, look_ahead).unwrap(),
                expected,
                "{cuts:?}"
            );
        }
    }
}

proptest! {
    #[test]
    fn any_body_reads_the_same_however_it_is_cut(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..8),
        trailers in proptest::collection::vec(("[a-z][a-z0-9-]{0,10}", "[!-~]{0,10}"), 0..4),
        cuts in proptest::collection::vec(0_usize..40, 0..20),
        look_ahead: bool,
    ) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n");
        for (name, value) in &trailers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        let (data, fields, rest) = read_in_pieces(&bytes, &cuts, look_ahead).unwrap().expect("whole");
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!((fields.len(), rest.len()), (trailers.len(), 0));
    }

    /// Also what is wrong is wrong however it is cut, and a part stays one.
    #[test]
    fn anything_reads_the_same_however_it_is_cut(
        text in "([0-3](;[a-z]{0,3})?(\r\n|\n|\r)?|[a-c]{0,3}|\r\n|0\r\n|[A-Z]: [a-z]{0,3}\r\n|[\\x00-\\x7f]){0,9}",
        cuts in proptest::collection::vec(0_usize..5, 0..20),
        look_ahead: bool,
    ) {
        let kind = |read: Result<Read, Malformed>| read.map_err(|fault| fault.to_string());
        let once = kind(read_in_pieces(text.as_bytes(), &[], false));
        let cut = kind(read_in_pieces(text.as_bytes(), &cuts, look_ahead));
        prop_assert_eq!(once, cut);
    }
}

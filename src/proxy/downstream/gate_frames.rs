//! How many fields and pieces of bodies a client of HTTP/2 may send at once.
//!
//! In HPACK a byte can stand for a whole field, so a few kilobytes that come in one read could
//! unpack to megabytes before anybody has looked at the first request. So only so many bytes of
//! header blocks pass in one turn of the connection's task; then the requests in them are taken up,
//! and counted, before more pass. A DATA frame, however short, holds the block of memory that it
//! was read into until it is copied, so there is a bound for them too. Nothing is refused here, and
//! all other frames pass as they are.

/// The client's preface (RFC 9113 section 3.4), after which frames follow.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
const HEAD: usize = 9;
/// Bytes of header blocks that pass in one turn; a single frame passes whatever its length.
const TURN_MAX: usize = 4 * 1024;
/// DATA frames that pass in one turn.
const DATA_MAX: usize = 32;
/// The type of frames that carry pieces of bodies.
const DATA: u8 = 0;
/// What a frame counts beside its header block.
const FRAME: usize = 16;
/// The types of frames that carry header blocks: HEADERS and CONTINUATION.
const BLOCKS: [u8; 2] = [1, 9];

/// Where in the frames a connection stands.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of the preface that have come; `None` where something else has, which is no business
    /// of this.
    preface: Option<usize>,
    head: [u8; HEAD],
    /// Bytes of the head that have come.
    have: usize,
    /// Bytes of the frame at hand that are still to come.
    left: usize,
    /// Bytes of header blocks that have passed in this turn.
    passed: usize,
    /// DATA frames that have.
    data: usize,
    /// Whether anything of a request or a body has passed in this turn.
    messages: bool,
}

impl Frames {
    /// At the beginning of a connection.
    pub(super) fn new() -> Frames {
        Frames {
            preface: Some(0),
            head: [0; HEAD],
            have: 0,
            left: 0,
            passed: 0,
            data: 0,
            messages: false,
        }
    }

    /// Another turn begins.
    pub(super) fn turn(&mut self) {
        self.passed = 0;
        self.data = 0;
        self.messages = false;
    }

    /// Whether anything of a request or a body has passed in this turn.
    pub(super) fn brought_messages(&self) -> bool {
        self.messages
    }

    /// How many of the next bytes pass in this turn. The others come again in the next one.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> usize {
        let Some(mut at) = self.preface(bytes) else {
            return bytes.len();
        };
        while at < bytes.len() {
            if self.left > 0 {
                self.messages |= self.is_message();
                at += skip(&mut self.left, bytes.len() - at);
                continue;
            }
            let had = self.have;
            let (start, rest) = (at, bytes.get(at..).unwrap_or_default());
            let room = self.head.get_mut(had..).unwrap_or_default();
            let new = room.len().min(rest.len());
            room.iter_mut()
                .zip(rest)
                .for_each(|(into, byte)| *into = *byte);
            at += new;
            self.have += new;
            if self.have < HEAD {
                break;
            }
            if !self.begin() {
                self.have = had;
                return start;
            }
        }
        at
    }

    /// How many of these bytes are the preface's; `None` when it is not HTTP/2 that is spoken.
    fn preface(&mut self, bytes: &[u8]) -> Option<usize> {
        let come = self.preface?;
        let left = PREFACE.get(come..).unwrap_or_default();
        let here = left.len().min(bytes.len());
        self.preface = left.starts_with(bytes.get(..here)?).then_some(come + here);
        self.preface.map(|_| here)
    }

    /// Whether the frame whose head has come last is a part of a request.
    fn is_message(&self) -> bool {
        let [_, _, _, kind, ..] = self.head;
        kind == DATA || BLOCKS.contains(&kind)
    }

    /// The head of a frame is whole. Tells whether the frame passes.
    fn begin(&mut self) -> bool {
        let [a, b, c, kind, ..] = self.head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if BLOCKS.contains(&kind) {
            let passed = self.passed + length + FRAME;
            if self.passed > 0 && passed > TURN_MAX {
                return false;
            }
            self.passed = passed;
        }
        if kind == DATA {
            if self.data == DATA_MAX {
                return false;
            }
            self.data += 1;
        }
        self.messages |= self.is_message();
        self.left = length;
        self.have = 0;
        true
    }
}

/// Takes up to `here` off what is left, and tells how much.
fn skip(left: &mut usize, here: usize) -> usize {
    let skipped = here.min(*left);
    *left -= skipped;
    skipped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let length = u32::try_from(length).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, 0, 0, 0, 0, 1];
        frame.resize(HEAD + u32::from_be_bytes(length) as usize, kind);
        frame
    }

    fn connection(frames: &[(u8, usize)]) -> Vec<u8> {
        let frames = frames
            .iter()
            .flat_map(|(kind, length)| frame(*kind, *length));
        PREFACE.iter().copied().chain(frames).collect()
    }

    #[test]
    fn so_many_bytes_of_header_blocks_pass_in_a_turn_and_anything_else_freely() {
        let bytes = connection(&[(4, 0), (1, 3000), (0, 50_000), (1, 1000), (1, 100), (8, 4)]);
        let mut frames = Frames::new();
        let passed = frames.pass(&bytes);
        assert_eq!(bytes.len() - passed, 2 * HEAD + 100 + 4);
        assert_eq!(frames.pass(&bytes[passed..]), 0, "it is the same turn");
        frames.turn();
        assert_eq!(frames.pass(&bytes[passed..]), bytes.len() - passed);
    }

    #[test]
    fn so_many_pieces_of_bodies_pass_in_a_turn() {
        let bytes = connection(&[(0, 1); DATA_MAX + 1]);
        let mut frames = Frames::new();
        let passed = frames.pass(&bytes);
        assert_eq!(bytes.len() - passed, HEAD + 1);
        frames.turn();
        assert!(!frames.brought_messages());
        assert_eq!(frames.pass(&bytes[passed..]), HEAD + 1);
        assert!(frames.brought_messages());
    }

    #[test]
    fn the_rest_of_a_frame_is_a_part_of_a_message_too() {
        let bytes = connection(&[(0, 100)]);
        let mut frames = Frames::new();
        frames.pass(&bytes[..bytes.len() - 1]);
        frames.turn();
        frames.pass(&bytes[bytes.len() - 1..]);
        assert!(frames.brought_messages());
    }

    #[test]
    fn http1_passes_whatever_it_looks_like() {
        let mut frames = Frames::new();
        assert_eq!(frames.pass(b"P"), 1);
        let rest = [
            &b"OST / HTTP/1.1\r\n\r\n"[..],
            &connection(&[(1, 9000), (1, 9000)]),
        ]
        .concat();
        assert_eq!(frames.pass(&rest), rest.len());
        assert_eq!(frames.pass(&rest), rest.len());
    }

    #[test]
    fn one_frame_passes_whatever_its_length() {
        let bytes = connection(&[(1, 16_000), (9, 16_000)]);
        let mut frames = Frames::new();
        assert_eq!(frames.pass(&bytes), PREFACE.len() + HEAD + 16_000);
        frames.turn();
        assert_eq!(
            frames.pass(&bytes[PREFACE.len() + HEAD + 16_000..]),
            HEAD + 16_000
        );
    }

    proptest! {
        #[test]
        fn however_bytes_are_cut_all_of_them_pass_in_their_order_and_in_bounded_turns(
            given in proptest::collection::vec((0_u8..10, 0_usize..3000), 0..40),
            pieces in proptest::collection::vec(1_usize..2000, 1..20),
        ) {
            let bytes = connection(&given);
            let mut frames = Frames::new();
            let (mut at, mut turns) = (0, 0);
            for piece in pieces.iter().cycle() {
                if at == bytes.len() {
                    break;
                }
                let end = bytes.len().min(at + piece);
                let passed = frames.pass(&bytes[at..end]);
                at += passed;
                if at < end {
                    frames.turn();
                    turns += 1;
                }
                prop_assert!(frames.passed <= TURN_MAX && frames.data <= DATA_MAX);
            }
            let blocks: usize = given.iter().filter(|(kind, _)| BLOCKS.contains(kind)).map(|(_, length)| length + FRAME).sum();
            let data = given.iter().filter(|(kind, _)| *kind == DATA).count();
            prop_assert!(turns <= 2 * blocks / TURN_MAX + data / DATA_MAX + 1, "{} turns for {}", turns, blocks);
        }
    }
}

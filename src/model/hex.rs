//! Hexadecimal digits.

/// Both digits of a byte, in lower case.
pub(crate) const fn pair(byte: u8) -> [u8; 2] {
    [digit(byte >> 4), digit(byte & 0xf)]
}

const fn digit(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' + nibble - 10,
    }
}

/// Bytes as digits in lower case.
pub(crate) fn encode(bytes: &[u8]) -> String {
    bytes
        .iter()
        .copied()
        .flat_map(pair)
        .map(char::from)
        .collect()
}

/// A digest of 64 digits in either case; `None` for anything else.
pub(crate) fn digest(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        // `from_str_radix` alone would take a sign.
        if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_round_trips() {
        let bytes = std::array::from_fn(|i| u8::try_from(i * 8 + 7).unwrap());
        let text = encode(&bytes);
        assert_eq!(&text[..8], "070f171f");
        assert_eq!(digest(&text), Some(bytes));
        assert_eq!(digest(&text.to_uppercase()), Some(bytes));
    }

    #[test]
    fn an_invalid_digest_is_rejected() {
        let good = "0".repeat(64);
        for text in [
            "",
            "00",
            &good[1..],
            &format!("{good}0"),
            &good.replacen("00", "+0", 1),
            &good.replacen("00", "ä", 1),
        ] {
            assert_eq!(digest(text), None, "{text}");
        }
    }
}

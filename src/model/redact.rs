//! What may be shown of an exchange to everybody who may look at a release.
//!
//! Nothing here knows what is secret; so it shows what looks like a name that a developer gave, and
//! `*` for the rest. A path keeps the segments that read like words, and none behind a word such as
//! `reset` or `token`. Of a URL no userinfo, query or fragment is kept, and of header fields those
//! that a list names, as far as their value has the form that it should have. What was shown once
//! is shown the same again, so that old evidence can be shown by newer rules.

/// What stands for everything that is not shown.
const HIDDEN: &str = "*";
/// What stands for the segments behind those that are kept.
const MORE: &str = "…";
/// A longer segment is no name (STATISTICS.md 1.i).
const SEGMENT_BYTES_MAX: usize = 24;
const WORD_BYTES_MAX: usize = 15;
/// Words that are so short say nothing that is worth to be hidden.
const SHORT: usize = 5;
const SEGMENTS_MAX: usize = 16;
const LABELS_MAX: usize = 8;
const LIST_MAX: usize = 8;
const LINE_BYTES_MAX: usize = 200;

/// A segment that contains one of these has secrets behind it.
const LEADING: [&str; 33] = [
    "activat",
    "apikey",
    "bearer",
    "confirm",
    "cookie",
    "credential",
    "invit",
    "jwt",
    "login",
    "logon",
    "magic",
    "oauth",
    "onetime",
    "otp",
    "passcode",
    "passphrase",
    "passwd",
    "password",
    "passwort",
    "passkey",
    "recover",
    "reset",
    "saml",
    "secret",
    "session",
    "signature",
    "signin",
    "signup",
    "ticket",
    "token",
    "unlock",
    "unsubscribe",
    "verif",
];

/// The same for a whole word of a segment.
const LEADING_WORDS: [&str; 16] = [
    "access", "auth", "code", "hash", "join", "key", "keys", "link", "nonce", "pass", "pin", "pwd",
    "share", "shared", "sid", "sso",
];

/// Words of paths with letters that seldom follow each other.
const COMMON: [&str; 17] = [
    "background",
    "callback",
    "checkout",
    "dashboard",
    "deployment",
    "endpoint",
    "feedback",
    "graphql",
    "hardware",
    "healthcheck",
    "localhost",
    "project",
    "thumbnail",
    "webhook",
    "wishlist",
    "workflow",
    "workspace",
];

/// How names of files end.
const ENDINGS: [&str; 26] = [
    "aspx", "atom", "avif", "cgi", "css", "csv", "gif", "htm", "html", "ico", "jpeg", "jpg", "js",
    "json", "jsp", "map", "pdf", "php", "png", "rss", "svg", "txt", "webp", "woff", "xml", "zip",
];

/// For each letter those that follow it in the words of several languages that technical texts use
/// often.
const FOLLOWS: [&str; 26] = [
    "bcdfgiklmnprstuvwxy",
    "aceilorstuy",
    "acdehikloprstuy",
    "adegilorsuvy",
    "abcdefghiklmnopqrstuvwxy",
    "adefilorstuy",
    "aeghilnorsu",
    "adeimorstuy",
    "abcdefgklmnoprstvxz",
    "eou",
    "aeins",
    "acdefilopstuvy",
    "abeilmopsu",
    "abcdefghiklnoprstuvwy",
    "abcdfgiklmnoprstuvwx",
    "aehiloprstuy",
    "u",
    "abcdefgiklmnoprstuvwy",
    "acdefghiklmnopstuwy",
    "acdefhilmnoprstuwy",
    "abcdefgilmnoprst",
    "aeio",
    "aehilnors",
    "aceipt",
    "eilmnopst",
    "aei",
];

/// A path, segment by segment. What follows a `?` or `#` is not part of it.
pub(crate) fn path(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let mut shown = segments(text, SEGMENTS_MAX);
    if shown.len() > LINE_BYTES_MAX {
        shown.truncate(shown.floor_char_boundary(LINE_BYTES_MAX));
        shown.push_str(MORE);
    }
    shown
}

/// The group of a path: its first two segments, which tell routes apart, and not users.
pub(crate) fn group(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    segments(text, 2)
}

/// A method as it is, if it can be one.
pub(crate) fn method(text: &str) -> &str {
    let is_name = text
        .bytes()
        .all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    if is_name && text.len() <= SEGMENT_BYTES_MAX {
        text
    } else {
        HIDDEN
    }
}

/// A URL, or a reference to one: its scheme and host and the path as [`path`] shows it.
pub(crate) fn url(text: &str) -> String {
    let text = text.trim();
    let (scheme, rest) = match text.split_once("//") {
        Some((scheme, rest))
            if ["", "http:", "https:"].contains(&scheme.to_ascii_lowercase().as_str()) =>
        {
            (scheme, rest)
        }
        _ => return path(text),
    };
    // Some readers take a backslash for a slash: no userinfo may hide behind one.
    let end = rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    format!(
        "{}//{}{}",
        scheme.to_ascii_lowercase(),
        host(authority),
        path(&behind.replacen('\\', "/", 1))
    )
}

/// A header field of an answer; `None` for one that is not shown at all.
pub(crate) fn field(name: &str, value: &str) -> Option<String> {
    let value = value.trim();
    let shown = match name.to_ascii_lowercase().as_str() {
        "age" | "content-length" | "grpc-status" | "retry-after" => number(value),
        "accept-ranges" | "content-encoding" | "transfer-encoding" | "vary" => list(value),
        "allow" => Some(items(value, method)),
        "cache-control" => Some(items(value, directive)),
        "content-type" => media_type(value),
        "content-location" | "location" => Some(url(value)),
        "server" => product(value),
        "x-build" | "x-version" => is_version(value).then(|| value.to_owned()),
        _ => return None,
    };
    Some(shown.unwrap_or_else(|| HIDDEN.to_owned()))
}

fn segments(text: &str, most: usize) -> String {
    let mut shown = String::new();
    let (mut hides, mut kept) = (false, 0);
    for (i, segment) in text.split('/').enumerate() {
        if i > 0 {
            shown.push('/');
        }
        // The first piece is empty unless the path is relative.
        if i == 0 && segment.is_empty() {
            continue;
        }
        if kept == most {
            shown.push_str(MORE);
            break;
        }
        kept += 1;
        let keeps = segment.is_empty() || segment == MORE || (!hides && is_name(segment));
        shown.push_str(if keeps { segment } else { HIDDEN });
        hides |= leads_to_secrets(segment);
    }
    shown
}

/// Whether what follows this segment may open doors.
fn leads_to_secrets(segment: &str) -> bool {
    let lower = segment.to_ascii_lowercase();
    let joined: String = lower.chars().filter(char::is_ascii_alphanumeric).collect();
    LEADING.iter().any(|word| joined.contains(word))
        || words(segment).any(|word| LEADING_WORDS.contains(&word.to_ascii_lowercase().as_str()))
}

/// Whether a segment reads like a name that a developer gave.
fn is_name(segment: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_' | b'.');
    if segment.len() > SEGMENT_BYTES_MAX || !segment.bytes().all(is_letter) {
        return segment == HIDDEN;
    }
    let segment = match segment.rsplit_once('.') {
        Some((name, ending)) if ENDINGS.contains(&ending) => name,
        _ => segment,
    };
    let (count, letters) = words(segment).fold((0, 0), |(count, letters), word| {
        (count + 1, letters + word.len())
    });
    match count {
        0 => true,
        1 => words(segment).all(|word| (word.len() <= SHORT && is_low(word)) || is_word(word)),
        _ => {
            letters >= 3 * count
                && words(segment).all(|word| (2..4).contains(&word.len()) || is_word(word))
        }
    }
}

/// Whether all letters but the first are small.
fn is_low(word: &str) -> bool {
    word.bytes().skip(1).all(|byte| byte.is_ascii_lowercase())
}

/// The words of `getUser`, `get-user` or `get_user`. Of several capitals in a row each is a word.
fn words(segment: &str) -> impl Iterator<Item = &str> {
    let pieces = segment.split(|c: char| !c.is_ascii_alphanumeric());
    let humps = pieces.flat_map(|piece| {
        let all_capitals = piece.bytes().all(|byte| byte.is_ascii_uppercase());
        let mut rest = piece;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let next = rest
                .bytes()
                .skip(1)
                .position(|byte| byte.is_ascii_uppercase() && !all_capitals);
            let (word, behind) = rest.split_at(next.map_or(rest.len(), |at| at + 1));
            rest = behind;
            Some(word)
        })
    });
    humps.filter(|word| !word.is_empty())
}

/// Whether letters look like a word: of a length that words have, with vowels among them, and no
/// two letters in a row that hardly ever are.
fn is_word(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    let singular = word.strip_suffix('s').unwrap_or(&word);
    if COMMON.contains(&singular) {
        return true;
    }
    if word.len() < 2
        || word.len() > WORD_BYTES_MAX
        || !word.bytes().all(|byte| byte.is_ascii_lowercase())
    {
        return false;
    }
    let vowels = word.bytes().filter(|byte| b"aeiouy".contains(byte)).count();
    let runs = word.split(|c| "aeiouy".contains(c)).map(str::len);
    vowels * 5 >= word.len()
        && vowels * 3 <= 2 * word.len() + 1
        && runs.max().unwrap_or(0) <= 4
        && word
            .bytes()
            .zip(word.bytes().skip(1))
            .all(|(first, second)| follows(first, second))
}

fn follows(first: u8, second: u8) -> bool {
    let following = FOLLOWS.get(usize::from(first.wrapping_sub(b'a')));
    following.is_some_and(|letters| letters.as_bytes().contains(&second))
}

/// A host and its port, label by label: those that could be an id are hidden.
fn host(authority: &str) -> String {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port))
            if !port.is_empty()
                && port.len() <= 5
                && port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            (host, format!(":{port}"))
        }
        _ => (authority, String::new()),
    };
    let is_short =
        |label: &str| label.len() <= 4 && label.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let show = |label| {
        if is_short(label) || is_name(label) {
            label
        } else {
            HIDDEN
        }
    };
    let labels: Vec<&str> = host.split('.').take(LABELS_MAX).map(show).collect();
    labels.join(".") + &port
}

fn number(value: &str) -> Option<String> {
    let is_number =
        !value.is_empty() && value.len() <= 15 && value.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| value.to_owned())
}

/// Names, with commas between them.
fn list(value: &str) -> Option<String> {
    Some(items(value, |item| {
        if item == HIDDEN || is_name(item) {
            item
        } else {
            HIDDEN
        }
    }))
}

fn items(value: &str, show: impl Fn(&str) -> &str) -> String {
    let items = value.split(',').map(|item| show(item.trim()));
    items.take(LIST_MAX).collect::<Vec<_>>().join(", ")
}

/// A directive of `Cache-Control`.
fn directive(text: &str) -> &str {
    const KNOWN: [&str; 15] = [
        "immutable",
        "max-age",
        "max-stale",
        "min-fresh",
        "must-revalidate",
        "must-understand",
        "no-cache",
        "no-store",
        "no-transform",
        "only-if-cached",
        "private",
        "proxy-revalidate",
        "public",
        "s-maxage",
        "stale-if-error",
    ];
    let (name, value) = text
        .split_once('=')
        .map_or((text, None), |(name, value)| (name, Some(value)));
    let is_known = KNOWN.contains(&name) && value.is_none_or(|value| number(value).is_some());
    if is_known { text } else { HIDDEN }
}

/// The type and the subtype, and of the parameters a charset that is well known.
fn media_type(value: &str) -> Option<String> {
    const TYPES: [&str; 9] = [
        "application",
        "audio",
        "font",
        "image",
        "message",
        "model",
        "multipart",
        "text",
        "video",
    ];
    const CHARSETS: [&str; 5] = [
        "utf-8",
        "\"utf-8\"",
        "us-ascii",
        "iso-8859-1",
        "windows-1252",
    ];
    let lower = value.to_ascii_lowercase();
    let mut parts = lower.split(';').map(str::trim);
    let (kind, subtype) = parts.next()?.split_once('/')?;
    let is_name = |word: &str| word.len() <= 4 || is_word(word);
    let is_subtype = subtype.len() <= 64
        && subtype
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        && subtype.split(['+', '-', '.']).all(is_name);
    if !TYPES.contains(&kind) || !is_subtype {
        return None;
    }
    let charset = parts
        .filter_map(|part| part.strip_prefix("charset="))
        .find(|charset| CHARSETS.contains(charset));
    let charset = charset.map_or(String::new(), |charset| format!("; charset={charset}"));
    Some(format!("{kind}/{subtype}{charset}"))
}

fn is_version(text: &str) -> bool {
    text.len() <= 12
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// The first product, with its version.
fn product(value: &str) -> Option<String> {
    let first = value.split_whitespace().next()?;
    let (name, version) = first.split_once('/').unwrap_or((first, ""));
    let shown = is_version(version) && (name == "nginx" || is_name(name));
    shown.then(|| first.to_owned())
}

#[cfg(test)]
mod tests;

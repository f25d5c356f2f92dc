use proptest::prelude::*;

use super::*;

#[test]
fn paths_keep_words_and_mask_ids_and_secrets() {
    for (given, shown) in [
        ("/", "/"),
        ("", ""),
        ("*", "*"),
        ("/cart", "/cart"),
        ("/Checkout/", "/Checkout/"),
        ("/api/orders", "/api/orders"),
        ("/api/v1/orders/4711/items", "/api/*/orders/*/items"),
        ("/api/orders?token=hunter", "/api/orders"),
        ("/api/orders#token", "/api/orders"),
        ("/css/main.css", "/css/main.css"),
        ("/index.html", "/index.html"),
        ("/getUserProfile", "/getUserProfile"),
        (
            "/order-history/open_invoices",
            "/order-history/open_invoices",
        ),
        ("/health", "/health"),
        ("/.well-known/security.txt", "/.well-known/security.txt"),
        // Ids.
        ("/users/3f2504e0-4f89-11d3-9a0c-0305e82c3301", "/users/*"),
        ("/users/alice@example.com/cart", "/users/*/cart"),
        ("/users/alice%40example.com", "/users/*"),
        ("/files/caf%C3%A9", "/files/*"),
        ("/files/münchen", "/files/*"),
        // Opaque, also without digits.
        ("/p/QWxhZGRpbjpvcGVuc2VzYW1l", "/p/*"),
        ("/p/AbCdEfGh", "/p/*"),
        ("/p/XKCDQWPZ", "/p/*"),
        ("/p/qwertyuiop", "/p/*"),
        ("/p/abcdefghijklmnop", "/p/*"),
        ("/p/xkcd-qwpz-bvnm", "/p/*"),
        ("/p/supercalifragilisticexpialidocious", "/p/*"),
        ("/p/eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.", "/p/*"),
        ("/p/a=b", "/p/*"),
        ("/p;jsessionid=abc/cart", "/*/*"),
        ("/p/~carol", "/p/*"),
        ("/p/user:pw", "/p/*"),
        // Behind words that say so.
        ("/reset/hunter", "/reset/*"),
        ("/password/reset/hunter", "/password/*/*"),
        ("/reset-password/hunter/form", "/reset-password/*/*"),
        ("/resetPassword/hunter", "/resetPassword/*"),
        ("/api/token/hunter", "/api/token/*"),
        ("/api-key/hunter", "/api-key/*"),
        ("/auth/hunter", "/auth/*"),
        ("/oauth/callback", "/oauth/*"),
        ("/invite/hunter", "/invite/*"),
        ("/email/verify/hunter", "/email/verify/*"),
        ("/unsubscribe/hunter", "/unsubscribe/*"),
        ("/magic-link/hunter", "/magic-link/*"),
        ("/SECRET/hunter", "/SECRET/*"),
        ("/re%73et-token/hunter", "/*/*"),
        ("/monkey/orders", "/monkey/orders"),
        // Of other forms.
        ("//cart", "//cart"),
        ("//user:hunter@host/cart", "//*/cart"),
        ("cart/hunter?x", "cart/hunter"),
    ] {
        assert_eq!(path(given), shown, "{given}");
        assert_eq!(path(shown), shown, "shown again");
    }
    let deep = "/cart".repeat(100);
    assert_eq!(path(&deep), "/cart".repeat(16) + "/…");
    assert!(path(&("/".to_owned() + &"ä".repeat(4_000))).len() < 9);
}

#[test]
fn path_groups_are_the_first_two_segments() {
    for (given, shown) in [
        ("/", "/"),
        ("/cart", "/cart"),
        ("/api/orders", "/api/orders"),
        ("/api/orders/4711/items", "/api/orders/…"),
        ("/api/4711/items", "/api/*/…"),
        ("/users/alice@example.com", "/users/*"),
        ("/reset/hunter", "/reset/*"),
        ("/v1/%2e%2e", "/*/*"),
        ("/a/bbbbbbbbbbbbbbbbbbbbbbbbb", "/a/*"),
    ] {
        assert_eq!(group(given), shown, "{given}");
        assert_eq!(group(shown), shown, "shown again");
    }
}

#[test]
fn urls_lose_userinfo_query_and_fragment() {
    for (given, shown) in [
        ("/login?code=hunter", "/login"),
        ("?code=hunter", ""),
        ("#token=hunter", ""),
        ("../cart?x=hunter", "../cart"),
        (
            "https://shop.example.com/cart?x#y",
            "https://shop.example.com/cart",
        ),
        (
            "HTTPS://user:hunter@shop.example.com:8443/cart",
            "https://shop.example.com:8443/cart",
        ),
        (
            "https://user:hunter@shop.example.com\\@other/cart",
            "https://shop.example.com/*/cart",
        ),
        (
            "https://user@hunter@shop.example.com",
            "https://shop.example.com",
        ),
        ("//user:hunter@localhost/cart", "//localhost/cart"),
        ("https://hunter", "https://hunter"),
        (
            "https://3f2504e04f89.example.com/",
            "https://*.example.com/",
        ),
        (
            "https://shop.example.com?code=hunter",
            "https://shop.example.com",
        ),
        ("https://[2001:db8::7]:443/cart", "https://*:443/cart"),
        ("https:user:hunter@shop.example.com/cart", "*/cart"),
        ("mailto:hunter@example.com", "*"),
        ("app://hunter@callback/x", "*//*/x"),
        ("javascript:hunter", "*"),
    ] {
        assert_eq!(url(given), shown, "{given}");
        assert_eq!(url(shown), shown, "shown again");
    }
}

#[test]
fn only_listed_header_fields_are_shown() {
    for (name, value, shown) in [
        (
            "Content-Type",
            "text/html; charset=utf-8; boundary=hunter",
            Some("text/html; charset=utf-8"),
        ),
        (
            "content-type",
            "application/problem+json",
            Some("application/problem+json"),
        ),
        (
            "content-type",
            "application/x-www-form-urlencoded",
            Some("application/x-www-form-urlencoded"),
        ),
        ("content-type", "hunter", Some("*")),
        ("content-type", "text/hunter2", Some("*")),
        ("content-length", "123", Some("123")),
        ("content-length", "hunter", Some("*")),
        ("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT", Some("*")),
        ("content-encoding", "gzip", Some("gzip")),
        ("transfer-encoding", "chunked", Some("chunked")),
        (
            "vary",
            "Accept-Encoding,Origin",
            Some("Accept-Encoding, Origin"),
        ),
        ("vary", "3f2504e0", Some("*")),
        ("allow", "GET, POST", Some("GET, POST")),
        (
            "cache-control",
            "public, max-age=60, key=hunter",
            Some("public, max-age=60, *"),
        ),
        ("server", "nginx/1.25.3 (hunter)", Some("nginx/1.25.3")),
        ("server", "3f2504e0", Some("*")),
        ("x-build", "7", Some("7")),
        ("x-version", "5.12.3", Some("5.12.3")),
        ("x-version", "hunter", Some("*")),
        ("location", "/reset/hunter?code=hunter", Some("/reset/*")),
        (
            "content-location",
            "//a:hunter@localhost/",
            Some("//localhost/"),
        ),
    ] {
        assert_eq!(field(name, value).as_deref(), shown, "{name}: {value}");
        assert_eq!(field(name, shown.unwrap()).as_deref(), shown, "shown again");
    }
    for name in [
        "set-cookie",
        "cookie",
        "authorization",
        "proxy-authorization",
        "www-authenticate",
        "x-api-key",
        "x-csrf-token",
        "x-jwt",
        "x-password",
        "jwt",
        "password",
        "link",
        "refresh",
        "referer",
        "etag",
        "x-request-id",
        "x-debug",
        "access-control-allow-origin",
        "content-disposition",
        "content-security-policy",
        "grpc-message",
        "via",
        "warning",
        "x-forwarded-for",
        "x-amz-security-token",
        "sec-websocket-accept",
        "date",
        "x-ä",
    ] {
        assert_eq!(field(name, "hunter"), None, "{name}");
    }
    let many = "a,".repeat(4_000);
    assert!(field("vary", &many).unwrap().len() < 99);
}

#[test]
fn methods_are_names() {
    for (given, shown) in [
        ("GET", "GET"),
        ("M-SEARCH", "M-SEARCH"),
        ("hunter", "*"),
        ("GET2", "*"),
    ] {
        assert_eq!(method(given), shown);
    }
    assert_eq!(method(&"X".repeat(25)), "*");
}

/// What clients and applications make up as secrets: never shown, wherever it stands.
fn secret() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9a-f]{12,64}",
        "[A-Za-z]{3}[0-9][A-Za-z0-9_-]{8,60}",
        "[A-Za-z0-9_-]{25,80}",
        "[QXZJ]{6,20}",
        "[bcdfghjklmnpqrstvwxz]{6,20}",
        "([a-z][A-Z]){4,10}",
        "[a-z]{3,9}[@%=:+!~;,][a-z]{3,9}",
    ]
}

/// What somebody may have chosen as a password: it may read like a word.
fn password() -> impl Strategy<Value = String> {
    // Long enough not to be part of what is shown beside it.
    "[a-zA-Z0-9%._~!$&'()*+,;=-]{4,30}Zq"
}

proptest! {
    #[test]
    fn a_secret_is_in_no_segment(before in "(/[a-z]{1,8}){0,3}", secret in secret(), behind in "(/[a-z]{1,8}){0,3}") {
        let whole = format!("{before}/{secret}{behind}");
        for shown in [path(&whole), group(&whole)] {
            prop_assert!(!shown.contains(&secret), "{shown}");
        }
        let shown = url(&format!("https://localhost{whole}"));
        prop_assert!(!shown.contains(&secret), "{shown}");
    }

    #[test]
    fn nothing_behind_a_leading_word_a_query_or_in_userinfo_is_shown(
        leading in prop::sample::select(&LEADING[..]),
        name in "[a-z]{1,9}",
        word in password(),
    ) {
        let word = word.replace(['#', '?'], "");
        let behind = format!("/{leading}/{word}");
        for shown in [
            path(&behind), group(&behind), url(&behind),
            path(&format!("/cart?{name}={word}")), path(&format!("/cart?{word}")), path(&format!("/cart#{word}")),
            url(&format!("/cart?{name}={word}")), url(&format!("http://localhost?{word}")),
            url(&format!("http://{name}:{word}@localhost/cart")), url(&format!("//{word}@localhost/cart?{name}={word}#{word}")),
            url(&format!("http:{name}:{word}@localhost/cart")),
            path(&format!("http://{name}:{word}@localhost/cart")),
        ] {
            prop_assert!(!shown.contains(&word), "{shown}");
        }
    }

    #[test]
    fn what_is_shown_is_short_and_shown_the_same_again(text in ".{0,300}", name in "(location|server|vary|content-type|cache-control)") {
        for shown in [path(&text), group(&text)] {
            prop_assert!(shown.len() <= LINE_BYTES_MAX + 4);
        }
        let again = field(&name, &text).unwrap();
        prop_assert_eq!(field(&name, &again), Some(again.clone()));
        prop_assert_eq!(path(&path(&text)), path(&text));
    }
}

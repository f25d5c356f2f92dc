//! Access log records and their line formats.
//!
//! Other tools rely on the keys of the JSON form. They are listed at the fields of
//! [`AccessRecord`], which have the same names and order. A key without a value is `null`, so that
//! every line has every key.

use std::borrow::Cow;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use http::header::HeaderValue;
use http::{Method, Version};
use serde::Serialize;

use super::AccessLogFormat;

/// The log record of one request.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    /// Start of the request (`time`: RFC 3339 in UTC, to the millisecond).
    pub time: SystemTime,
    /// The listener that accepted it.
    pub listener: Arc<str>,
    /// The client's address; behind trusted proxies the one that they report.
    pub client: IpAddr,
    /// Its method; unknown, like target and protocol, if the connection was rejected because of its
    /// bytes.
    pub method: Option<Method>,
    /// The requested host.
    pub host: Option<String>,
    /// The request target: path and query.
    pub target: Option<String>,
    /// The HTTP version (`protocol`: `HTTP/1.1`, `HTTP/2.0` …).
    pub protocol: Option<Version>,
    /// The response status; 0 if the client left before there was one.
    pub status: u16,
    /// The service that the request was routed to.
    pub service: Option<Arc<str>>,
    /// The upstream that it was assigned to.
    pub upstream: Option<Arc<str>>,
    /// The last endpoint that it was sent to.
    pub endpoint: Option<SocketAddr>,
    /// Its class: `2xx`, `timeout` …; `rejected` for a refusal by the proxy that is not the
    /// upstream's fault, which the statistics count with `client_abort`.
    pub outcome: &'static str,
    /// The proxy's reason for a failure: `connect_refused`, `no_route` …
    pub reason: Option<&'static str>,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the response body that were sent.
    pub bytes_out: u64,
    /// Microseconds to the first byte of the upstream's response.
    pub first_byte_us: Option<u64>,
    /// Microseconds to the end of the exchange.
    pub total_us: u64,
    /// The request id, which was also sent to the upstream and the client.
    pub request_id: Option<HeaderValue>,
    /// The client's `User-Agent`.
    pub user_agent: Option<HeaderValue>,
    /// The client's `Referer`.
    pub referer: Option<HeaderValue>,
}

impl AccessRecord {
    /// Appends this record as a line in `format`, with a line feed.
    pub(super) fn write(&self, format: AccessLogFormat, out: &mut Vec<u8>) {
        let start = out.len();
        let written = match format {
            AccessLogFormat::Json => serde_json::to_writer(&mut *out, &Line::of(self)).is_ok(),
            AccessLogFormat::Combined => self.write_combined(out).is_ok(),
        };
        if written {
            out.push(b'\n');
        } else {
            // Writing to memory does not fail; if it did, half a line would corrupt the next one.
            out.truncate(start);
        }
    }

    fn write_combined(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let time = timestamp(self.time).strftime("%d/%b/%Y:%H:%M:%S +0000");
        write!(out, "{} - - [{time}] \"", self.client)?;
        self.write_request_line(out)?;
        write!(out, "\" {} {} \"", self.status, self.bytes_out)?;
        escape(
            self.referer.as_ref().map_or(b"-", HeaderValue::as_bytes),
            out,
        );
        out.extend_from_slice(b"\" \"");
        escape(
            self.user_agent.as_ref().map_or(b"-", HeaderValue::as_bytes),
            out,
        );
        out.push(b'"');
        Ok(())
    }

    fn write_request_line(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let (Some(method), Some(target), Some(protocol)) =
            (&self.method, &self.target, self.protocol)
        else {
            out.push(b'-');
            return Ok(());
        };
        write!(out, "{method} ")?;
        escape(target.as_bytes(), out);
        write!(out, " {protocol:?}")
    }
}

/// The JSON form.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    listener: &'a str,
    client: IpAddr,
    method: Option<&'a str>,
    host: Option<&'a str>,
    target: Option<&'a str>,
    protocol: Option<String>,
    status: u16,
    service: Option<&'a str>,
    upstream: Option<&'a str>,
    endpoint: Option<SocketAddr>,
    outcome: &'static str,
    reason: Option<&'static str>,
    bytes_in: u64,
    bytes_out: u64,
    first_byte_us: Option<u64>,
    total_us: u64,
    request_id: Option<Cow<'a, str>>,
    user_agent: Option<Cow<'a, str>>,
    referer: Option<Cow<'a, str>>,
}

impl<'a> Line<'a> {
    fn of(record: &'a AccessRecord) -> Line<'a> {
        let text = |value: &'a Option<HeaderValue>| {
            value
                .as_ref()
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
        };
        Line {
            time: timestamp(record.time)
                .strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
                .to_string(),
            listener: &record.listener,
            client: record.client,
            method: record.method.as_ref().map(Method::as_str),
            host: record.host.as_deref(),
            target: record.target.as_deref(),
            protocol: record.protocol.map(|protocol| format!("{protocol:?}")),
            status: record.status,
            service: record.service.as_deref(),
            upstream: record.upstream.as_deref(),
            endpoint: record.endpoint,
            outcome: record.outcome,
            reason: record.reason,
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            first_byte_us: record.first_byte_us,
            total_us: record.total_us,
            request_id: text(&record.request_id),
            user_agent: text(&record.user_agent),
            referer: text(&record.referer),
        }
    }
}

/// A time outside the calendar's range, which only a broken clock gives, is logged as the epoch.
fn timestamp(time: SystemTime) -> jiff::Timestamp {
    jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// Bytes that could end a quoted field or a line, or control a terminal, become `\xHH`.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if matches!(byte, b'"' | b'\\') || !(b' '..0x7f).contains(&byte) {
            let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'?');
            out.extend_from_slice(&[b'\\', b'x', digit(byte >> 4), digit(byte & 15)]);
        } else {
            out.push(byte);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    pub(in crate::telemetry) fn record() -> AccessRecord {
        AccessRecord {
            time: UNIX_EPOCH + Duration::from_millis(1_767_225_600_123),
            listener: "web".into(),
            client: [192, 0, 2, 1].into(),
            method: Some(Method::GET),
            host: Some("shop.example.com".into()),
            target: Some("/cart?id=1".into()),
            protocol: Some(Version::HTTP_11),
            status: 200,
            service: Some("shop".into()),
            upstream: Some("green".into()),
            endpoint: Some(([10, 0, 1, 1], 3000).into()),
            outcome: "2xx",
            reason: None,
            bytes_in: 0,
            bytes_out: 512,
            first_byte_us: Some(1_500),
            total_us: 2_000,
            request_id: Some(HeaderValue::from_static("r-1")),
            user_agent: Some(HeaderValue::from_static("curl/8.0 \"x\"")),
            referer: None,
        }
    }

    fn line(record: &AccessRecord, format: AccessLogFormat) -> String {
        let mut out = Vec::new();
        record.write(format, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_json_line_has_every_key_in_order() {
        let expected = concat!(
            r#"{"time":"2026-01-01T00:00:00.123Z","listener":"web","#,
            r#""client":"192.0.2.1","method":"GET","#,
            r#""host":"shop.example.com","target":"/cart?id=1","#,
            r#""protocol":"HTTP/1.1","status":200,"service":"shop","#,
            r#""upstream":"green","endpoint":"10.0.1.1:3000","#,
            r#""outcome":"2xx","reason":null,"bytes_in":0,"#,
            r#""bytes_out":512,"first_byte_us":1500,"total_us":2000,"request_id":"r-1","#,
            r#""user_agent":"curl/8.0 \"x\"","referer":null}"#,
            "\n"
        );
        assert_eq!(line(&record(), AccessLogFormat::Json), expected);
    }

    #[test]
    fn combined_fields_are_escaped() {
        let mut record = record();
        record.target = Some("/a\"b".into());
        record.referer = Some(HeaderValue::from_bytes(b"caf\xe9").unwrap());
        assert_eq!(
            line(&record, AccessLogFormat::Combined),
            concat!(
                r#"192.0.2.1 - - [01/Jan/2026:00:00:00 +0000] "#,
                r#""GET /a\x22b HTTP/1.1" 200 512 "caf\xE9" "#,
                r#""curl/8.0 \x22x\x22""#,
                "\n"
            )
        );
    }

    #[test]
    fn unknown_fields_of_a_refused_connection_are_null() {
        let refused = AccessRecord {
            method: None,
            target: None,
            protocol: None,
            ..record()
        };
        let json = line(&refused, AccessLogFormat::Json);
        assert!(
            json.contains(r#""method":null,"#)
                && json.contains(r#""target":null,"protocol":null,"#)
        );
        let combined = line(&refused, AccessLogFormat::Combined);
        assert!(combined.contains(r#"] "-" 200 512 ""#), "{combined}");
    }
}

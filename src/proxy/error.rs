//! What can go wrong with a request, and the one place that turns it into an answer.
//!
//! Each kind knows its status, its class in the statistics, its word in the metrics
//! ([`Reason`]) and its name in `Proxy-Status` (RFC 9209 section 2.3).

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use crate::proxy::http1::HeadError;
use crate::proxy::http1::fields::X_REQUEST_ID;
use crate::stats::{Class, Reason};

/// The field that tells which intermediary answered, and why (RFC 9209).
pub(crate) static PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// A request that the proxy answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    pub(crate) reason: Reason,
    /// What a client may know of it.
    pub(crate) detail: &'static str,
    status: Option<StatusCode>,
    /// Its name in `Proxy-Status`, where that of its reason would say too little.
    kind: Option<&'static str>,
}

impl Error {
    pub(crate) const fn new(reason: Reason, detail: &'static str) -> Error {
        Error {
            reason,
            detail,
            status: None,
            kind: None,
        }
    }

    /// No way leads to the upstream's address.
    pub(crate) const fn unroutable() -> Error {
        Error {
            kind: Some("destination_ip_unroutable"),
            ..Error::new(Reason::ConnectError, "no way leads to the upstream")
        }
    }

    /// A request that has come by here too often.
    pub(crate) const fn looping() -> Error {
        let detail = "the request has passed this proxy several times: its upstream sends it back";
        Error {
            status: Some(StatusCode::LOOP_DETECTED),
            ..Error::new(Reason::BadRequest, detail)
        }
    }

    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        self.status.unwrap_or(match self.reason {
            Reason::BadRequest => StatusCode::BAD_REQUEST,
            Reason::NoRoute => StatusCode::NOT_FOUND,
            Reason::HeaderTimeout | Reason::BodyTimeout | Reason::ClientAbort => {
                StatusCode::REQUEST_TIMEOUT
            }
            Reason::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Reason::UriTooLong => StatusCode::URI_TOO_LONG,
            Reason::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Reason::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Reason::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Reason::NoHealthyEndpoint | Reason::Overloaded | Reason::LocalResources => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Reason::FirstByteTimeout
            | Reason::IdleTimeout
            | Reason::TotalTimeout
            | Reason::ConnectTimeout => StatusCode::GATEWAY_TIMEOUT,
            Reason::ConnectRefused
            | Reason::ConnectError
            | Reason::Reset
            | Reason::UpstreamProtocolError => StatusCode::BAD_GATEWAY,
            Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        })
    }

    /// What it means for the statistics of the upstream that the request was drawn for.
    pub(crate) fn class(&self) -> Class {
        match self.reason {
            Reason::NoHealthyEndpoint | Reason::ConnectRefused | Reason::ConnectError => {
                Class::ConnectError
            }
            Reason::ConnectTimeout
            | Reason::FirstByteTimeout
            | Reason::IdleTimeout
            | Reason::TotalTimeout => Class::Timeout,
            Reason::Reset => Class::Reset,
            Reason::UpstreamProtocolError => Class::ProtocolError,
            Reason::Internal => Class::ServerError,
            // With the rest, `LocalResources`: the upstream was never asked. A canary opens more
            // connections than a baseline whose pools are warm, and would be condemned
            // for what the machine lacks.
            _ => Class::ClientAbort,
        }
    }

    /// The access log's word for it: a refusal of the proxy's own is not the client's going away,
    /// although neither counts against an upstream.
    pub(crate) fn outcome(&self) -> &'static str {
        match self.class() {
            Class::ClientAbort if self.reason != Reason::ClientAbort => "rejected",
            class => class.as_str(),
        }
    }

    fn proxy_status(&self) -> &'static str {
        self.kind.unwrap_or(match self.reason {
            Reason::NoRoute => "destination_not_found",
            Reason::NoHealthyEndpoint | Reason::ConnectError => "destination_unavailable",
            Reason::ConnectRefused => "connection_refused",
            Reason::ConnectTimeout => "connection_timeout",
            Reason::FirstByteTimeout | Reason::TotalTimeout => "http_response_timeout",
            Reason::IdleTimeout => "connection_read_timeout",
            Reason::Reset => "connection_terminated",
            Reason::UpstreamProtocolError => "http_protocol_error",
            Reason::Overloaded => "connection_limit_reached",
            Reason::Internal | Reason::LocalResources => "proxy_internal_error",
            Reason::NotImplemented
            | Reason::BadRequest
            | Reason::UriTooLong
            | Reason::HeadersTooLarge
            | Reason::BodyTooLarge
            | Reason::HeaderTimeout
            | Reason::BodyTimeout
            | Reason::ClientAbort
            | Reason::Misdirected => "http_request_error",
        })
    }

    /// The answer, with a short problem body (RFC 9457).
    pub(crate) fn response(&self, request_id: Option<&HeaderValue>) -> Response<Bytes> {
        self.response_with(request_id, None)
    }

    /// The same, with a detail of this one request's.
    pub(crate) fn response_with(
        &self,
        request_id: Option<&HeaderValue>,
        detail: Option<&str>,
    ) -> Response<Bytes> {
        let status = self.status();
        let mut body = serde_json::json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "detail": detail.unwrap_or(self.detail),
            "reason": self.reason.as_str(),
        });
        let id = request_id.and_then(|id| id.to_str().ok());
        if let (Some(id), Some(members)) = (id, body.as_object_mut()) {
            members.insert("request_id".into(), id.into());
        }
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = status;
        let length = response.body().len();
        self.write_headers(response.headers_mut(), length);
        if let Some(id) = request_id {
            response
                .headers_mut()
                .insert(X_REQUEST_ID.clone(), id.clone());
        }
        response
    }

    fn write_headers(&self, headers: &mut HeaderMap, length: usize) {
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        let status = format!(
            "weighbridge; error={}; details=\"{}\"",
            self.proxy_status(),
            self.reason.as_str()
        );
        if let Ok(value) = HeaderValue::from_str(&status) {
            headers.insert(PROXY_STATUS.clone(), value);
        }
        let date = httpdate::fmt_http_date(std::time::SystemTime::now());
        if let Ok(value) = HeaderValue::from_str(&date) {
            headers.insert(DATE, value);
        }
        if self.reason == Reason::Overloaded {
            headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
    }

    /// An answer as bytes of HTTP/1.1, after which the connection is closed.
    pub(crate) fn last_words(mut response: Response<Bytes>) -> Vec<u8> {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        let status = response.status();
        let mut bytes = format!(
            "HTTP/1.1 {} {}\r\n",
            status.as_u16(),
            status.canonical_reason().unwrap_or("Error")
        )
        .into_bytes();
        for (name, value) in response.headers() {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(response.body());
        bytes
    }
}

impl From<HeadError> for Error {
    fn from(refusal: HeadError) -> Error {
        match refusal {
            HeadError::Malformed(detail) => Error::new(Reason::BadRequest, detail),
            HeadError::TargetTooLong => {
                Error::new(Reason::UriTooLong, "the request target is too long")
            }
            HeadError::HeadTooLarge => Error::new(
                Reason::HeadersTooLarge,
                "the header fields are too many or too long",
            ),
            HeadError::UnknownCoding => Error::new(
                Reason::NotImplemented,
                "the only transfer coding that is understood is chunked",
            ),
            HeadError::Version => Error {
                status: Some(StatusCode::HTTP_VERSION_NOT_SUPPORTED),
                ..Error::new(
                    Reason::NotImplemented,
                    "the versions that are understood are HTTP/1.1, HTTP/1.0 and HTTP/2",
                )
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_proxys_own_machine_lacks_is_no_failure_of_the_upstream() {
        let error = Error::new(Reason::LocalResources, "");
        assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(error.proxy_status(), "proxy_internal_error");
        // Which a release notes as assigned and not bad, and which is not rescued.
        assert_eq!(error.class(), Class::ClientAbort);
        assert_eq!(error.outcome(), "rejected");
    }

    #[test]
    fn only_what_no_way_leads_to_is_called_unroutable() {
        assert_eq!(
            Error::unroutable().proxy_status(),
            "destination_ip_unroutable"
        );
        assert_eq!(Error::unroutable().class(), Class::ConnectError);
        let other = Error::new(Reason::ConnectError, "");
        assert_eq!(other.proxy_status(), "destination_unavailable");
    }

    #[test]
    fn a_body_names_the_request_only_if_it_has_a_name() {
        let error = Error::new(Reason::NoRoute, "");
        let body = |id: Option<&HeaderValue>| -> serde_json::Value {
            let answer = error.response(id);
            assert_eq!(answer.headers().get("x-request-id"), id);
            serde_json::from_slice(answer.body()).unwrap()
        };
        assert_eq!(body(None).get("request_id"), None);
        assert_eq!(
            body(Some(&HeaderValue::from_static("r-1")))["request_id"],
            "r-1"
        );
    }
}

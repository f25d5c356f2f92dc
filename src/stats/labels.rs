//! Labels by which requests are counted, besides their upstream: closed sets, so that metrics stay
//! bounded for any input.

use std::hash::{Hash, Hasher};

use super::UpstreamKey;

/// A request's method as a label; a non-standard method is `OTHER`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MethodLabel {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
    /// OPTIONS.
    Options,
    /// CONNECT.
    Connect,
    /// TRACE.
    Trace,
    /// Any other method, also if a request was too malformed to have one.
    Other,
}

impl MethodLabel {
    /// The label of a method.
    pub fn of(method: &http::Method) -> MethodLabel {
        match *method {
            http::Method::GET => MethodLabel::Get,
            http::Method::HEAD => MethodLabel::Head,
            http::Method::POST => MethodLabel::Post,
            http::Method::PUT => MethodLabel::Put,
            http::Method::PATCH => MethodLabel::Patch,
            http::Method::DELETE => MethodLabel::Delete,
            http::Method::OPTIONS => MethodLabel::Options,
            http::Method::CONNECT => MethodLabel::Connect,
            http::Method::TRACE => MethodLabel::Trace,
            _ => MethodLabel::Other,
        }
    }

    /// The label's text.
    pub const fn as_str(self) -> &'static str {
        match self {
            MethodLabel::Get => "GET",
            MethodLabel::Head => "HEAD",
            MethodLabel::Post => "POST",
            MethodLabel::Put => "PUT",
            MethodLabel::Patch => "PATCH",
            MethodLabel::Delete => "DELETE",
            MethodLabel::Options => "OPTIONS",
            MethodLabel::Connect => "CONNECT",
            MethodLabel::Trace => "TRACE",
            MethodLabel::Other => "OTHER",
        }
    }
}

/// The labels of a request with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestLabels {
    /// The listener's index in the configuration.
    pub listener: u16,
    /// The upstream of the request; `None` if the proxy responded itself.
    pub upstream: Option<UpstreamKey>,
    /// The method.
    pub method: MethodLabel,
    /// The status that the client received.
    pub status: u16,
}

impl Hash for RequestLabels {
    /// Two words instead of five writes, since this is hashed once per request.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let upstream = self.upstream.map_or(u64::MAX, |key| key.0);
        let rest =
            (u64::from(self.listener) << 24) | (u64::from(self.status) << 8) | self.method as u64;
        state.write_u64(upstream);
        state.write_u64(rest);
    }
}

/// Why a request was refused or failed: the `reason` label, also used in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// No route matches.
    NoRoute,
    /// The upstream has no healthy endpoint.
    NoHealthyEndpoint,
    /// The endpoint refused the connection.
    ConnectRefused,
    /// The endpoint did not accept the connection in time.
    ConnectTimeout,
    /// The connection failed in another way.
    ConnectError,
    /// The proxy's machine had no resources for a connection, such as file descriptors or ports.
    LocalResources,
    /// The first byte of the response did not arrive in time.
    FirstByteTimeout,
    /// A body made no progress for too long.
    IdleTimeout,
    /// The whole exchange took too long.
    TotalTimeout,
    /// The upstream closed the connection before its response was complete.
    Reset,
    /// The upstream's response was not HTTP.
    UpstreamProtocolError,
    /// The request was not HTTP, or not safe to forward.
    BadRequest,
    /// The request's target is longer than the listener accepts.
    UriTooLong,
    /// The request has more or longer headers than the listener accepts.
    HeadersTooLarge,
    /// The request's body is longer than the listener accepts.
    BodyTooLarge,
    /// The request needs a feature that this proxy does not implement.
    NotImplemented,
    /// The request's head did not arrive in time.
    HeaderTimeout,
    /// The request's body did not arrive in time.
    BodyTimeout,
    /// A limit on concurrent work was reached.
    Overloaded,
    /// The client disconnected.
    ClientAbort,
    /// The request arrived on a connection that does not serve its host.
    Misdirected,
    /// An internal error of the proxy.
    Internal,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Reason; 22] = [
        Reason::NoRoute,
        Reason::NoHealthyEndpoint,
        Reason::ConnectRefused,
        Reason::ConnectTimeout,
        Reason::ConnectError,
        Reason::LocalResources,
        Reason::FirstByteTimeout,
        Reason::IdleTimeout,
        Reason::TotalTimeout,
        Reason::Reset,
        Reason::UpstreamProtocolError,
        Reason::BadRequest,
        Reason::UriTooLong,
        Reason::HeadersTooLarge,
        Reason::BodyTooLarge,
        Reason::NotImplemented,
        Reason::HeaderTimeout,
        Reason::BodyTimeout,
        Reason::Overloaded,
        Reason::ClientAbort,
        Reason::Misdirected,
        Reason::Internal,
    ];

    /// The label's text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::NoRoute => "no_route",
            Reason::NoHealthyEndpoint => "no_healthy_endpoint",
            Reason::ConnectRefused => "connect_refused",
            Reason::ConnectTimeout => "connect_timeout",
            Reason::ConnectError => "connect_error",
            Reason::LocalResources => "local_resources",
            Reason::FirstByteTimeout => "first_byte_timeout",
            Reason::IdleTimeout => "idle_timeout",
            Reason::TotalTimeout => "total_timeout",
            Reason::Reset => "reset",
            Reason::UpstreamProtocolError => "upstream_protocol_error",
            Reason::BadRequest => "bad_request",
            Reason::UriTooLong => "uri_too_long",
            Reason::HeadersTooLarge => "headers_too_large",
            Reason::BodyTooLarge => "body_too_large",
            Reason::NotImplemented => "not_implemented",
            Reason::HeaderTimeout => "header_timeout",
            Reason::BodyTimeout => "body_timeout",
            Reason::Overloaded => "overloaded",
            Reason::ClientAbort => "client_abort",
            Reason::Misdirected => "misdirected",
            Reason::Internal => "internal",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn non_standard_methods_share_one_label() {
        assert_eq!(MethodLabel::of(&http::Method::PATCH).as_str(), "PATCH");
        assert_eq!(MethodLabel::of(&"BREW".parse().unwrap()).as_str(), "OTHER");
    }

    #[test]
    fn reason_labels_are_distinct() {
        let words: HashSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}

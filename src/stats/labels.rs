//! What requests are counted by, besides their upstream: closed sets, so that metrics stay bounded
//! whatever arrives.

use std::hash::{Hash, Hasher};

use super::UpstreamKey;

/// A request's method as a label; what is not a standard method is `OTHER`.
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
    /// Any other method, also when a request was too malformed to have one.
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

/// What an answered request is counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestLabels {
    /// The listener's position in the configuration.
    pub listener: u16,
    /// The upstream that the request was sent to; `None` when the proxy answered without one.
    pub upstream: Option<UpstreamKey>,
    /// The method.
    pub method: MethodLabel,
    /// The status that the client got.
    pub status: u16,
}

impl Hash for RequestLabels {
    /// Two words in place of five writes, since this is hashed once per request.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let upstream = self.upstream.map_or(u64::MAX, |key| key.0);
        let rest =
            (u64::from(self.listener) << 24) | (u64::from(self.status) << 8) | self.method as u64;
        state.write_u64(upstream);
        state.write_u64(rest);
    }
}

/// Why a request was refused or failed: the `reason` label, and the word in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// No route matches.
    NoRoute,
    /// The upstream has no endpoint that is healthy.
    NoHealthyEndpoint,
    /// The endpoint refused the connection.
    ConnectRefused,
    /// The endpoint did not take the connection in time.
    ConnectTimeout,
    /// The connection failed in another way.
    ConnectError,
    /// The proxy's own machine had nothing left to connect with, such as file descriptors or ports.
    LocalResources,
    /// The first byte of the answer did not come in time.
    FirstByteTimeout,
    /// A body stood still for too long.
    IdleTimeout,
    /// The exchange took too long as a whole.
    TotalTimeout,
    /// The upstream closed the connection before its answer was complete.
    Reset,
    /// The upstream's answer was not HTTP.
    UpstreamProtocolError,
    /// The request was not HTTP, or not safe to forward.
    BadRequest,
    /// The request's target is longer than the listener takes.
    UriTooLong,
    /// The request has more or longer headers than the listener takes.
    HeadersTooLarge,
    /// The request's body is longer than the listener takes.
    BodyTooLarge,
    /// The request asks for what this proxy does not do.
    NotImplemented,
    /// The request's head did not come in time.
    HeaderTimeout,
    /// The request's body did not come in time.
    BodyTimeout,
    /// A limit on concurrent work was reached.
    Overloaded,
    /// The client went away.
    ClientAbort,
    /// The request came over a connection that does not serve its host.
    Misdirected,
    /// A fault of the proxy itself.
    Internal,
}

impl Reason {
    /// All of them.
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
    fn methods_beyond_the_standard_share_one_label() {
        assert_eq!(MethodLabel::of(&http::Method::PATCH).as_str(), "PATCH");
        assert_eq!(MethodLabel::of(&"BREW".parse().unwrap()).as_str(), "OTHER");
    }

    #[test]
    fn each_reason_has_a_word_of_its_own() {
        let words: HashSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}

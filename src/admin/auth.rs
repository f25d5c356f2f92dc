//! Authentication and authorization by bearer token.
//!
//! Only the SHA-256 of each token is stored. Every digest is compared, each in constant time, so
//! that the response time does not reveal which token nearly matched.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use super::connect_info::ConnectInfo;
use super::problem::{self, ProblemResponse, retry_after};
use super::{Options, Role, Token};

/// Invalid tokens that one address may send in a burst before it is rate limited.
const FAILURES_BURST: u32 = 60;

/// Interval after which one failure is forgiven.
const FAILURE_FORGIVEN_AFTER: Duration = Duration::from_secs(1);

/// Addresses whose failures are tracked. When more fail at the same time, new ones are rate limited
/// at once.
const FAILING_PEERS_MAX: usize = 1024;

/// An authenticated caller.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Name of the token; `anonymous` if the API is open.
    pub(super) name: Arc<str>,
    role: Role,
}

impl Caller {
    /// Whether the caller may override gates, freeze windows and the preflight of the
    /// configuration.
    pub(super) fn may_override(&self) -> bool {
        self.role >= Role::Admin
    }
}

/// Accepted tokens and failed attempts.
#[derive(Debug)]
pub(super) struct Auth {
    tokens: Vec<Token>,
    failures: Mutex<Failures>,
}

impl Auth {
    /// Accepts the tokens of `options`; every caller if there are none, which only a loopback
    /// address allows.
    pub(super) fn new(options: &Options) -> Auth {
        Auth {
            tokens: options.tokens.clone(),
            failures: Mutex::new(Failures::default()),
        }
    }

    fn caller(
        &self,
        headers: &HeaderMap,
        peer: IpAddr,
        now: Instant,
    ) -> Result<Caller, ProblemResponse> {
        if self.tokens.is_empty() {
            return Ok(Caller {
                name: "anonymous".into(),
                role: Role::Admin,
            });
        }
        let token = bearer(headers)?;
        match self.find(token) {
            Some(token) => Ok(Caller {
                name: token.name.as_str().into(),
                role: token.role,
            }),
            None => Err(self.refuse(peer, now)),
        }
    }

    fn find(&self, token: &[u8]) -> Option<&Token> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        for token in &self.tokens {
            if bool::from(token.sha256.ct_eq(&digest)) {
                found = Some(token);
            }
        }
        found
    }

    /// Response to an invalid token. A valid token is always accepted, whatever failures its
    /// address has, so that nobody can lock an operator out during a rollback. The limit bounds
    /// the cost of guessing, here and in the log.
    fn refuse(&self, peer: IpAddr, now: Instant) -> ProblemResponse {
        let wait = self
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .record(peer, now);
        if let Some(wait) = wait {
            let (name, value) = retry_after(wait.as_secs());
            return ProblemResponse::plain(problem::TOO_MANY).with_header(name, value);
        }
        tracing::warn!(%peer, "invalid token for the admin API");
        unauthenticated(
            "The token is invalid.",
            r#"Bearer realm="weighbridge", error="invalid_token""#,
        )
    }
}

fn bearer(headers: &HeaderMap) -> Result<&[u8], ProblemResponse> {
    const CHALLENGE: &str = r#"Bearer realm="weighbridge""#;
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err(unauthenticated(problem::UNAUTHENTICATED.detail, CHALLENGE));
    };
    if values.next().is_some() {
        return Err(unauthenticated(
            "The request has more than one Authorization header.",
            CHALLENGE,
        ));
    }
    match value.as_bytes().split_first_chunk::<7>() {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => Ok(token.trim_ascii()),
        _ => Err(unauthenticated("The scheme must be Bearer.", CHALLENGE)),
    }
}

fn unauthenticated(detail: &'static str, challenge: &'static str) -> ProblemResponse {
    ProblemResponse::new(problem::UNAUTHENTICATED, detail).with_header(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static(challenge),
    )
}

/// Requires at least this role, and passes the caller to the handler.
pub(super) async fn require(
    State((auth, least)): State<(Arc<Auth>, Role)>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request
        .extensions()
        .get::<ConnectInfo>()
        .map_or(IpAddr::from([0; 4]), |info| info.peer.ip());
    match auth.caller(request.headers(), peer, Instant::now()) {
        Err(problem) => problem.into_response(),
        Ok(caller) if caller.role < least => ProblemResponse::new(
            problem::FORBIDDEN,
            format!(
                "This call needs the role {:?}; the token {:?} has the role {:?}.",
                least.as_str(),
                caller.name,
                caller.role.as_str()
            ),
        )
        .into_response(),
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
    }
}

/// Failures by address, each as the time at which all of them are forgiven.
#[derive(Debug, Default)]
struct Failures {
    forgiven_at: HashMap<IpAddr, Instant>,
}

impl Failures {
    /// Counts a failure; returns the time to wait if there were too many.
    fn record(&mut self, peer: IpAddr, now: Instant) -> Option<Duration> {
        let peer = network(peer);
        if self.forgiven_at.len() >= FAILING_PEERS_MAX && !self.forgiven_at.contains_key(&peer) {
            self.forgiven_at.retain(|_, at| *at > now);
            if self.forgiven_at.len() >= FAILING_PEERS_MAX {
                return Some(FAILURE_FORGIVEN_AFTER);
            }
        }
        let forgiven_at = self.forgiven_at.entry(peer).or_insert(now);
        let next = (*forgiven_at).max(now) + FAILURE_FORGIVEN_AFTER;
        let ahead = next - now;
        let most = FAILURE_FORGIVEN_AFTER * FAILURES_BURST;
        if ahead > most {
            return Some(ahead - most);
        }
        *forgiven_at = next;
        None
    }
}

/// Network that counts as one address: an IPv4 address, or a /64 of IPv6.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & (u128::MAX << 64)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_attempts_expire_one_by_one_and_tracked_addresses_are_bounded() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let peer = |n: u32| IpAddr::V4(n.into());
        assert!((0..FAILURES_BURST).all(|_| failures.record(peer(1), now).is_none()));
        assert_eq!(failures.record(peer(1), now), Some(FAILURE_FORGIVEN_AFTER));
        assert_eq!(failures.record(peer(2), now), None);
        let later = now + FAILURE_FORGIVEN_AFTER;
        assert_eq!(failures.record(peer(1), later), None);
        assert!(failures.record(peer(1), later).is_some());
        for n in 0..5_000 {
            failures.record(peer(n), later);
        }
        assert_eq!(failures.forgiven_at.len(), FAILING_PEERS_MAX);
        assert_eq!(
            failures.record(peer(9_999), later + FAILURE_FORGIVEN_AFTER * 99),
            None
        );
    }
}

//! Who calls, and whether they may.
//!
//! Tokens are known by their SHA-256 only. Every digest is compared, each in constant time, so that
//! the time of an answer tells nothing about which was nearly right.

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

use super::problem::{self, ProblemResponse, retry_after};
use super::server::ConnectInfo;
use super::{Options, Role, Token};

/// Wrong tokens that one address may send at once, before each further one is put off.
const FAILURES_BURST: u32 = 60;

/// One more is forgiven after so long.
const FAILURE_FORGIVEN_AFTER: Duration = Duration::from_secs(1);

/// Addresses whose failures are remembered. When more fail at the same time, new ones are put off
/// at once.
const FAILING_PEERS_MAX: usize = 1024;

/// Who calls.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// The name of the token; `anonymous` where the API is open.
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

/// Who may call.
#[derive(Debug)]
pub(super) struct Auth {
    tokens: Vec<Token>,
    failures: Mutex<Failures>,
}

impl Auth {
    /// The callers that `options` name; everyone if they name none, which only a loopback address
    /// may have.
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

    /// The answer to a wrong token. A right one is always let in, whatever came from its address
    /// before: nobody can lock an operator out in the moment of a rollback. The limit keeps
    /// guessing from costing much, here and in the log.
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
        tracing::warn!(%peer, "a wrong token for the admin API");
        unauthenticated(
            "The token is wrong.",
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
            "There is more than one Authorization header.",
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

/// Lets only callers through who have at least this role, and tells the handler who they are.
pub(super) async fn require(
    State((auth, least)): State<(Arc<Auth>, Role)>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request
        .extensions()
        .get::<ConnectInfo>()
        .map_or(IpAddr::from([0; 4]), |ends| ends.peer.ip());
    match auth.caller(request.headers(), peer, Instant::now()) {
        Err(problem) => problem.into_response(),
        Ok(caller) if caller.role < least => ProblemResponse::new(
            problem::FORBIDDEN,
            format!(
                "This needs the role {:?}; the token {:?} has {:?}.",
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

/// Failures by address, each as the moment at which all of them will be forgiven.
#[derive(Debug, Default)]
struct Failures {
    forgiven_at: HashMap<IpAddr, Instant>,
}

impl Failures {
    /// Counts a failure; how long to wait, if there were too many.
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

/// One customer's addresses count as one: an IPv4 address, or a /64 of IPv6.
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
    fn failures_are_forgiven_one_by_one_and_bounded_by_address() {
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

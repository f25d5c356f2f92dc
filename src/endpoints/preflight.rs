//! The look at a canary before its first user: does every endpoint take a connection, and answer
//! what it is asked?

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderMap, Method, Uri};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::probe::{Probe, ask};

const AGENT: &str = concat!("weighbridge-preflight/", env!("CARGO_PKG_VERSION"));

/// A request that the canary has to answer well before its first user comes.
#[derive(Clone, Debug)]
pub struct PreflightRequest {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: Uri,
    /// Header fields; `Host` is the endpoint's address unless it is among them.
    pub headers: HeaderMap,
    /// The statuses that are good.
    pub expected: RangeInclusive<u16>,
    /// To the head of the answer.
    pub timeout: Duration,
}

/// Connects to each endpoint, and sends each of `requests` to each of them.
///
/// # Errors
///
/// The first thing that was not as it should be, in words.
pub async fn preflight(
    endpoints: &[SocketAddr],
    requests: &[PreflightRequest],
    connect: Duration,
) -> Result<(), String> {
    for address in endpoints {
        let connected = timeout(connect, TcpStream::connect(address)).await;
        connected
            .map_err(|_| format!("{address} took no connection within {connect:?}"))?
            .map_err(|error| format!("{address} took no connection: {error}"))?;
        for smoke in requests {
            // Without the query, which may hold a token: this is told to everybody who may look at
            // the release.
            let told = |what: String| {
                format!(
                    "{} {} at {address}: {what}",
                    smoke.method,
                    smoke.target.path()
                )
            };
            let status = ask(*address, probe(smoke), AGENT, smoke.timeout)
                .await
                .map_err(|silence| told(silence.to_string()))?;
            if !smoke.expected.contains(&status) {
                let (first, last) = (smoke.expected.start(), smoke.expected.end());
                return Err(told(format!("status {status}, expected {first} to {last}")));
            }
        }
    }
    Ok(())
}

/// The request as it is sent.
fn probe(smoke: &PreflightRequest) -> Probe {
    let mut probe = Probe::default();
    *probe.method_mut() = smoke.method.clone();
    *probe.uri_mut() = smoke.target.clone();
    probe.headers_mut().clone_from(&smoke.headers);
    probe
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// An upstream that answers everything with this status.
    async fn upstream(status: &'static str) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    fn smoke() -> PreflightRequest {
        PreflightRequest {
            method: Method::GET,
            target: Uri::from_static("/ready?deep=1"),
            headers: HeaderMap::new(),
            expected: 200..=299,
            timeout: Duration::from_secs(5),
        }
    }

    #[tokio::test]
    async fn every_endpoint_has_to_answer_every_request_well() {
        let (good, bad) = (upstream("204").await, upstream("500").await);
        let second = Duration::from_secs(5);
        assert_eq!(
            preflight(&[good, good], &[smoke(), smoke()], second).await,
            Ok(())
        );
        assert_eq!(preflight(&[good, bad], &[], second).await, Ok(()));
        let told = preflight(&[good, bad], &[smoke()], second)
            .await
            .unwrap_err();
        assert_eq!(
            told,
            format!("GET /ready at {bad}: status 500, expected 200 to 299")
        );
    }

    #[tokio::test]
    async fn an_endpoint_that_nobody_listens_on_is_told() {
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let told = preflight(&[free], &[], Duration::from_secs(5))
            .await
            .unwrap_err();
        assert!(
            told.starts_with(&format!("{free} took no connection")),
            "{told}"
        );
    }
}

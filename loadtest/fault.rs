//! Behaviour of versions: what all of them do without a fault, and the faults of a canary.
//!
//! Each fault knows its rate, so that what another policy would have let through can be computed
//! from the arrivals.

use std::f64::consts::TAU;
use std::time::Duration;

use serde::Deserialize;

/// Median response time.
const MEDIAN_S: f64 = 0.008;
/// Standard deviation of `ln` of that time: the 99th percentile is four medians.
const SIGMA: f64 = 0.6;
/// Share of requests that fail on every version. Half of the failures that the campaign permits
/// (99.9 % successful responses): at 0.1 % the baseline alone would decide whether it passes.
const BASE_ERRORS: f64 = 0.0005;
/// Upper limit of a leak: a version whose every request fails is another kind of fault.
const LEAK_ERRORS_MAX: f64 = 0.5;
/// Upper limit for response times, as a multiple of the usual.
const LEAK_TIMES_MAX: f64 = 10.0;
/// Routes, requested equally often.
pub(crate) const ROUTES: usize = 4;
/// Endpoints of each version.
pub(crate) const ENDPOINTS: usize = 3;
/// Share of requests from new users, where users keep cookies.
pub(crate) const NEW_USERS: f64 = 0.125;

/// The fault of a version.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Fault {
    /// No fault.
    #[default]
    None,
    /// A share of the requests fails.
    Errors { share: f64 },
    /// A share of the requests of the first route fails.
    RouteErrors { share: f64 },
    /// The first endpoint fails always, the others never.
    BadEndpoint,
    /// All requests of a share of the users fail, in every visit.
    BrokenUsers { share: f64 },
    /// A share of the requests without a cookie fails.
    FirstVisits { share: f64 },
    /// Connections are accepted, and a share of the requests never gets a response.
    Hangs { share: f64 },
    /// From the first request on, alternately up and down; going down resets every open connection.
    Crashes { up_ms: u64, down_ms: u64 },
    /// Every response takes this multiple of the time.
    Slower { times: f64 },
    /// From `begin` on, the share of failures grows by this much per second.
    LeakingErrors { per_s: f64 },
    /// From `begin` on, response times grow by this multiple of the usual per second.
    LeakingTime { per_s: f64 },
    /// A dependency of both versions fails for a while: `after_s` after its start, for `lasts_s`,
    /// this share of the requests on either version. Not a fault of the canary.
    SharedOutage {
        after_s: f64,
        lasts_s: f64,
        share: f64,
    },
    /// This share of the requests of both versions fails. Not a fault of the canary.
    SharedErrors { share: f64 },
    /// This share of the requests of both versions never gets a response. Not a fault of the
    /// canary.
    SharedHangs { share: f64 },
}

/// The properties of a request that a fault depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestInfo {
    /// The route, below [`ROUTES`].
    pub(crate) route: usize,
    /// The endpoint, below [`ENDPOINTS`].
    pub(crate) endpoint: usize,
    /// The position of the user among all users, 0 to 1: constant for the user.
    pub(crate) user: f64,
    pub(crate) has_cookie: bool,
    /// Time since the fault began; `None` before.
    pub(crate) age_s: Option<f64>,
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// A response after a while; a failure if it has a cause.
    Response {
        after: Duration,
        failure: Option<Cause>,
    },
    /// No response.
    NoResponse,
}

/// The cause of a failure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cause {
    /// The base rate of every version.
    Base,
    /// The fault.
    Fault,
}

impl Fault {
    /// Share of a version's requests that the fault harms at this age: failed, without a response,
    /// or slow.
    pub(crate) fn harm(self, age_s: f64) -> f64 {
        match self {
            fault if fault.is_shared() => 0.0,
            Fault::Errors { share } | Fault::Hangs { share } => share,
            Fault::BrokenUsers { share } => share,
            Fault::FirstVisits { share } => share * NEW_USERS,
            Fault::RouteErrors { share } => share / ROUTES as f64,
            Fault::BadEndpoint => 1.0 / ENDPOINTS as f64,
            Fault::Crashes { up_ms, down_ms } => down_ms as f64 / (up_ms + down_ms) as f64,
            Fault::Slower { .. } | Fault::LeakingTime { .. } => 1.0,
            Fault::LeakingErrors { per_s } => (per_s * age_s).min(LEAK_ERRORS_MAX),
            _ => 0.0,
        }
    }

    /// Whether the fault is in a dependency of both versions.
    pub(crate) fn is_shared(self) -> bool {
        matches!(
            self,
            Fault::SharedOutage { .. } | Fault::SharedErrors { .. } | Fault::SharedHangs { .. }
        )
    }

    /// Draws the outcome of a request. A failure takes as long as a success: an immediate one would
    /// make the version look faster.
    pub(crate) fn decide(self, request: RequestInfo, rng: &mut fastrand::Rng) -> Fate {
        if rng.f64() < self.hanging() {
            return Fate::NoResponse;
        }
        let failure = if rng.f64() < self.failing(request) {
            Some(if self.is_shared() {
                Cause::Base
            } else {
                Cause::Fault
            })
        } else {
            (rng.f64() < BASE_ERRORS).then_some(Cause::Base)
        };
        let seconds = MEDIAN_S * (SIGMA * normal(rng)).exp() * self.slowness(request.age_s);
        Fate::Response {
            after: Duration::from_secs_f64(seconds),
            failure,
        }
    }

    fn hanging(self) -> f64 {
        match self {
            Fault::Hangs { share } | Fault::SharedHangs { share } => share,
            _ => 0.0,
        }
    }

    fn failing(self, request: RequestInfo) -> f64 {
        match self {
            Fault::Errors { share } | Fault::SharedErrors { share } => share,
            Fault::BrokenUsers { share } if request.user < share => 1.0,
            Fault::FirstVisits { share } if !request.has_cookie => share,
            Fault::RouteErrors { share } if request.route == 0 => share,
            Fault::BadEndpoint if request.endpoint == 0 => 1.0,
            Fault::LeakingErrors { .. } => request.age_s.map_or(0.0, |age| self.harm(age)),
            Fault::SharedOutage {
                after_s,
                lasts_s,
                share,
            } => {
                let strikes = |age: &f64| (after_s..after_s + lasts_s).contains(age);
                request.age_s.filter(strikes).map_or(0.0, |_| share)
            }
            _ => 0.0,
        }
    }

    fn slowness(self, age_s: Option<f64>) -> f64 {
        match self {
            Fault::Slower { times } => times,
            Fault::LeakingTime { per_s } => {
                (1.0 + per_s * age_s.unwrap_or(0.0)).min(LEAK_TIMES_MAX)
            }
            _ => 1.0,
        }
    }
}

/// A standard normal random number (Box-Muller).
fn normal(rng: &mut fastrand::Rng) -> f64 {
    // 1 - f64() is positive, so its logarithm is finite.
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (TAU * rng.f64()).cos()
}

//! How versions behave: what they all do when nothing is wrong with them, and what can be wrong
//! with a canary.
//!
//! Each fault knows its rate, so that what another policy would have let through can be worked out
//! from the arrivals.

use std::f64::consts::TAU;
use std::time::Duration;

use serde::Deserialize;

/// The median time that an answer takes.
const MEDIAN_S: f64 = 0.008;
/// The spread of `ln` of that time: the 99th percentile is four medians.
const SIGMA: f64 = 0.6;
/// The share of requests that fail on every version. Half of what the acceptance asks of the whole
/// campaign (99.9 % good answers): at 0.1 % that bar would be a coin toss about the baseline,
/// whatever is done about canaries.
const BASE_ERRORS: f64 = 0.0005;
/// A leak ends here: a version that fails always is one that fails at once, and that is another
/// fault.
const LEAK_ERRORS_MAX: f64 = 0.5;
/// The same for time, as a multiple of the usual.
const LEAK_TIMES_MAX: f64 = 10.0;
/// Routes that users ask for, equally often.
pub(crate) const ROUTES: usize = 4;
/// Endpoints of each version.
pub(crate) const ENDPOINTS: usize = 3;
/// The share of requests that a user makes who was never there before, where users keep cookies.
pub(crate) const NEW_USERS: f64 = 0.125;

/// What is wrong with a version.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Fault {
    /// Nothing.
    #[default]
    None,
    /// A share of the requests fails.
    Errors { share: f64 },
    /// A share of the requests of the first route fails.
    RouteErrors { share: f64 },
    /// The first endpoint fails always, the others never.
    BadEndpoint,
    /// All requests of a share of the users fail, whenever they come.
    BrokenUsers { share: f64 },
    /// A share of the requests without a cookie fails.
    FirstVisits { share: f64 },
    /// Connections are taken, and a share of the requests is never answered.
    Hangs { share: f64 },
    /// From the first request on, in turns: up for a while, then gone, with every open connection
    /// reset.
    Crashes { up_ms: u64, down_ms: u64 },
    /// Every answer takes so many times as long.
    Slower { times: f64 },
    /// From the moment that it is told to, the share of failures grows by so much a second.
    LeakingErrors { per_s: f64 },
    /// From the moment that it is told to, answers take longer by so many times the usual a second.
    LeakingTime { per_s: f64 },
    /// What both versions depend on fails for a while: from so many seconds after its beginning for
    /// so many seconds, so large a share of the requests, on either side. No fault of the
    /// canary.
    SharedOutage {
        after_s: f64,
        lasts_s: f64,
        share: f64,
    },
    /// Both versions always fail such a share of the requests. No fault of the canary.
    SharedErrors { share: f64 },
    /// Both versions never answer such a share of the requests. No fault of the canary.
    SharedHangs { share: f64 },
}

/// A request as a fault sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// The route, below [`ROUTES`].
    pub(crate) route: usize,
    /// The endpoint, below [`ENDPOINTS`].
    pub(crate) endpoint: usize,
    /// The user's place among all users, 0 to 1: the same in each of the user's requests.
    pub(crate) user: f64,
    pub(crate) has_cookie: bool,
    /// Since the fault began; `None` while it has not.
    pub(crate) age_s: Option<f64>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// An answer after a while; a failure if it has a cause.
    Answer {
        after: Duration,
        failure: Option<Cause>,
    },
    /// Silence.
    Nothing,
}

/// Why a request fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cause {
    /// As some do on every version.
    Base,
    /// By the fault.
    Fault,
}

impl Fault {
    /// The share of a version's requests that is harmed so long after the fault began: failed,
    /// unanswered or slow.
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

    /// What both versions depend on is wrong.
    pub(crate) fn is_shared(self) -> bool {
        matches!(
            self,
            Fault::SharedOutage { .. } | Fault::SharedErrors { .. } | Fault::SharedHangs { .. }
        )
    }

    /// Draws what becomes of a request. A failure takes as long as a good answer: one that is told
    /// at once would make the version look faster.
    pub(crate) fn decide(self, asked: Asked, rng: &mut fastrand::Rng) -> Fate {
        if rng.f64() < self.hanging() {
            return Fate::Nothing;
        }
        let failure = if rng.f64() < self.failing(asked) {
            Some(if self.is_shared() {
                Cause::Base
            } else {
                Cause::Fault
            })
        } else {
            (rng.f64() < BASE_ERRORS).then_some(Cause::Base)
        };
        let seconds = MEDIAN_S * (SIGMA * normal(rng)).exp() * self.slowness(asked.age_s);
        Fate::Answer {
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

    fn failing(self, asked: Asked) -> f64 {
        match self {
            Fault::Errors { share } | Fault::SharedErrors { share } => share,
            Fault::BrokenUsers { share } if asked.user < share => 1.0,
            Fault::FirstVisits { share } if !asked.has_cookie => share,
            Fault::RouteErrors { share } if asked.route == 0 => share,
            Fault::BadEndpoint if asked.endpoint == 0 => 1.0,
            Fault::LeakingErrors { .. } => asked.age_s.map_or(0.0, |age| self.harm(age)),
            Fault::SharedOutage {
                after_s,
                lasts_s,
                share,
            } => {
                let strikes = |age: &f64| (after_s..after_s + lasts_s).contains(age);
                asked.age_s.filter(strikes).map_or(0.0, |_| share)
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

/// A draw of the standard normal distribution, by Box and Muller.
fn normal(rng: &mut fastrand::Rng) -> f64 {
    // 1 - f64() is above 0, so that its logarithm is finite.
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (TAU * rng.f64()).cos()
}

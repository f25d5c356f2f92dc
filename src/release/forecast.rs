//! Forecast of a plan at today's traffic: duration, requests and worst case.

use super::freeze::frozen;
use super::plan::{Plan, Step};
use super::state::rfc3339;
use crate::analysis::{
    self, ErrorRateMargin, LatencyMargin, Objective, latency_requests_to_advance,
    requests_to_advance, requests_to_detect,
};
use crate::model::api::{Detection, Forecast, StepForecast, WorstCase};
use crate::time::Timestamp;

/// The canary error rates for which detection is forecast.
const HARMS: [f64; 4] = [0.01, 0.05, 0.2, 1.0];

/// The forecast of `plan` for a service with `requests_per_second`, whose baseline fails at
/// `baseline_error_rate` (0 to 1).
///
/// The requests needed for latency depend on its distribution; a typical one is assumed
/// ([`latency_requests_to_advance`]). Figures are medians within about a factor of two; the worst
/// case is a bound.
pub fn forecast(
    plan: &Plan,
    service: &str,
    requests_per_second: f64,
    baseline_error_rate: f64,
    now: Timestamp,
) -> Forecast {
    let traffic = Traffic {
        rate: requests_per_second.max(0.0),
        failing: baseline_error_rate.clamp(0.0, 1.0),
    };
    let steps: Vec<StepForecast> = plan
        .steps()
        .iter()
        .map(|step| traffic.step(plan, step))
        .collect();
    Forecast {
        service: service.to_owned(),
        requests_per_second,
        baseline_error_rate,
        unit: None,
        worst_case: worst_case(plan),
        plan: serde_json::Value::Object(plan.to_shown()),
        warnings: warnings(plan, &steps, now),
        steps,
    }
}

/// The forecast for a sticky service, which counts users instead of requests. The rate of new users
/// is unknown before a release, so no times are given. The share of users with a failure is assumed
/// equal to the share of requests.
pub fn forecast_by_users(
    plan: &Plan,
    service: &str,
    requests_per_second: f64,
    baseline_error_rate: f64,
    now: Timestamp,
) -> Forecast {
    let mut forecast = forecast(plan, service, requests_per_second, baseline_error_rate, now);
    for step in &mut forecast.steps {
        step.seconds_to_advance = None;
        step.detections
            .iter_mut()
            .for_each(|detection| detection.seconds = None);
    }
    let never = forecast
        .steps
        .iter()
        .enumerate()
        .filter(|(_, step)| step.requests_to_advance.is_none());
    let never: Vec<String> = never
        .map(|(at, step)| {
            format!(
                "step {} ({}%) can never collect enough evidence to advance",
                at + 1,
                step.weight
            )
        })
        .collect();
    forecast.warnings = freezes(plan, now).into_iter().chain(never).collect();
    forecast.warnings.push(
        "the service is sticky, so errors are judged by user: counts are new users plus the users \
         that a larger weight may move; as many users as requests are assumed to meet a failure, \
         and the rate of new users is not known, so no times are given"
            .to_owned(),
    );
    forecast.unit = Some("user".to_owned());
    forecast
}

/// Upper bound on failures beyond the baseline's rate that users can see, whatever the canary does:
/// the budget, the allowance for chance at the start, and the requests in flight when the canary is
/// removed (STATISTICS.md 1.f). The second bound counts all failures of the canary, rescued ones
/// included.
fn worst_case(plan: &Plan) -> WorstCase {
    let (budget, rescued_budget) = (plan.budget(), plan.rescued_budget());
    let chance = round_up(plan.budget_rule(budget, 1).chance());
    let in_flight = u64::from(plan.canary_in_flight_max);
    let beyond = chance.saturating_add(in_flight);
    WorstCase {
        budget,
        rescued_budget,
        chance,
        in_flight,
        total: budget.min(rescued_budget).saturating_add(beyond),
        failures: rescued_budget.saturating_add(beyond),
    }
}

struct Traffic {
    rate: f64,
    failing: f64,
}

impl Traffic {
    fn step(&self, plan: &Plan, step: &Step) -> StepForecast {
        let on_canary = self.rate * step.judged.weight;
        let requests = self.to_advance(plan, &step.judged);
        let least = step.judged.min_ms as f64 / 1e3;
        let seconds = requests.and_then(|requests| seconds(requests, on_canary));
        StepForecast {
            weight: step.weight.percent(),
            canary_requests_per_second: on_canary,
            requests_to_advance: requests,
            seconds_to_advance: seconds.map(|seconds| seconds.max(least)),
            detections: self.detections(plan, &step.judged, on_canary),
        }
    }

    fn to_advance(&self, plan: &Plan, step: &analysis::StepConditions) -> Option<u64> {
        let options = plan.analysis(1);
        if step.weight >= 1.0 {
            return Some(step.min_requests);
        }
        let of_errors = errors(&options).map_or(Some(0), |_| {
            let worse_by = step.tolerated(options.harm_budget);
            requests_to_advance(step.weight, self.failing, worse_by, options.beta)
        })?;
        let of_latency = latency(&options).map_or(Some(0), |margin| {
            latency_requests_to_advance(step.weights(), self.failing, margin.worse_by, options.beta)
        })?;
        Some(of_errors.max(of_latency).max(step.min_requests))
    }

    fn detections(
        &self,
        plan: &Plan,
        step: &analysis::StepConditions,
        on_canary: f64,
    ) -> Vec<Detection> {
        // At full weight there is no concurrent baseline to compare with.
        let compared = step.weight < 1.0;
        HARMS
            .into_iter()
            .map(|error_rate| {
                let requests = compared.then(|| self.to_detect(plan, error_rate)).flatten();
                Detection {
                    error_rate,
                    requests,
                    seconds: requests.and_then(|requests| seconds(requests, on_canary)),
                }
            })
            .collect()
    }

    /// The smaller count of the test and the budget.
    fn to_detect(&self, plan: &Plan, error_rate: f64) -> Option<u64> {
        let options = plan.analysis(1);
        let by_test = errors(&options).and_then(|margin| {
            let relative = options
                .judged()
                .iter()
                .filter(|objective| objective.descriptor().is_relative)
                .count();
            let alpha = options.alpha / relative.max(1) as f64;
            let requests = requests_to_detect(
                error_rate,
                self.failing,
                margin.ratio,
                margin.worse_by,
                alpha,
            )?;
            Some(requests.max(round_up(options.min_canary_failures as f64 / error_rate)))
        });
        let beyond = error_rate - self.failing;
        let by_budget =
            (beyond > 0.0).then(|| round_up(plan.budget_rule(plan.budget(), 1).bound() / beyond));
        match (by_test, by_budget) {
            (Some(test), Some(budget)) => Some(test.min(budget)),
            (test, budget) => test.or(budget),
        }
    }
}

fn errors(options: &analysis::Options) -> Option<ErrorRateMargin> {
    options
        .judged()
        .into_iter()
        .find_map(|objective| match objective {
            Objective::ErrorRate(margin) => Some(margin),
            _ => None,
        })
}

fn latency(options: &analysis::Options) -> Option<LatencyMargin> {
    options
        .judged()
        .into_iter()
        .find_map(|objective| match objective {
            Objective::Latency(margin) => Some(margin),
            _ => None,
        })
}

/// The time for `requests`; `None` without traffic.
fn seconds(requests: u64, rate: f64) -> Option<f64> {
    match requests {
        0 => Some(0.0),
        _ => (rate > 0.0).then(|| requests as f64 / rate),
    }
}

fn round_up(requests: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates; never negative"
    )]
    let requests = requests.ceil() as u64;
    requests
}

fn freezes(plan: &Plan, now: Timestamp) -> Option<String> {
    let frozen = frozen(&plan.freeze, now.unix_us())?;
    let until = rfc3339(frozen.until_us);
    Some(format!(
        "the freeze window `{}` is in force until {until}",
        frozen.window
    ))
}

fn warnings(plan: &Plan, steps: &[StepForecast], now: Timestamp) -> Vec<String> {
    let mut warnings: Vec<String> = freezes(plan, now).into_iter().collect();
    for (i, (forecast, step)) in steps.iter().zip(plan.steps()).enumerate() {
        let at = format!("step {} ({}%)", i + 1, step.weight);
        match (
            forecast.requests_to_advance,
            forecast.seconds_to_advance,
            step.judged.max_ms,
        ) {
            (None, _, _) => {
                warnings.push(format!("{at} can never collect enough evidence to advance"))
            }
            (_, None, _) => warnings.push(format!("{at} gets no traffic to judge")),
            (_, Some(seconds), Some(max_ms)) if seconds * 1e3 > max_ms as f64 => {
                warnings.push(format!(
                    "{at} needs about {seconds:.0} s at this traffic, but after {} s it is \
                     inconclusive",
                    max_ms / 1_000
                ))
            }
            (_, Some(seconds), _) if seconds > 3_600.0 => {
                warnings.push(format!(
                    "{at} needs about {:.1} hours at this traffic",
                    seconds / 3_600.0
                ));
            }
            _ => {}
        }
    }
    warnings
}

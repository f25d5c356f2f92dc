//! The judge: all evidence on one release, and its verdict.
//!
//! Evidence *against* the canary accumulates over the whole release, under one error probability,
//! however often it is checked; evidence *for* it restarts at each step. The judge reads no clock,
//! uses no randomness and changes no weight.

use serde::{Deserialize, Serialize};

use super::aborts::{AbortCounts, AbortTest};
use super::baseline::BaselineRate;
use super::bins::Slack;
use super::cohort::{ArmCounts, Cohort, Counts};
use super::confidence::Interval;
use super::error::{ErrorTest, Margin, Pair};
use super::evidence_log::EvidenceLog;
use super::full_weight::FullWeight;
use super::latency::{LatencyTest, sort};
use super::math::log_sum_exp;
use super::options::{Objective, Options};
use super::sample_ratio::SampleRatioTest;
use super::slo::{SloFinding, SloGuard};
use super::step::{Inconclusive, StepConditions, StepProgress, Tests};
use super::units::{Unit, UnitCounts, begun_at, paired};

/// The interval at which wealth is redistributed; also when a step begins.
const BLOCK_MS: u64 = 30_000;
/// The maximum of blocks processed at once after a gap without cohorts.
const BLOCKS_AT_ONCE: u32 = 64;
/// More than rounding can add up to between two exact computations of the evidence, and too small
/// to be visible.
const ROUNDING: f64 = 1e-6;
/// The probability that the confidence sequence is valid at all times.
pub(crate) const CONFIDENCE: f64 = 0.95;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No decision yet.
    Continue,
    /// The canary is good enough for the next step.
    Advance,
    /// The canary is worse. This verdict is final.
    RollBack(Cause),
    /// A person should look; rollbacks still work.
    Hold(WaitReason),
}

/// Why a release is rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// More failures than the concurrent baseline.
    ErrorRate,
    /// Slower than the concurrent baseline.
    Latency,
    /// Exceeds a fixed limit that the baseline meets.
    Slo,
    /// Inconclusive, and the plan rolls back in this case. Policy, not evidence.
    Inconclusive,
}

/// Why a release waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// Traffic is not split according to the weights, so no comparison is valid.
    Split,
    /// Both versions exceed a fixed limit.
    Slo,
    /// At full weight the canary is slower than the baseline was, by more than tolerated.
    Slow,
    /// Clients abort requests on the canary more often than on the baseline.
    Aborts,
    /// The canary has reached its in-flight limit, so further requests go to the baseline.
    CanaryFull,
    /// No endpoint of the baseline is healthy, so its share goes to the canary.
    BaselineDown,
    /// The step reached its maximum duration without a result.
    Inconclusive,
    /// The step reached its maximum duration, and the canary had too few requests to decide.
    TooLittleTraffic,
}

impl Cause {
    /// The name in responses, metrics and the journal.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::ErrorRate => "error_rate",
            Cause::Latency => "latency",
            Cause::Slo => "slo",
            Cause::Inconclusive => "inconclusive",
        }
    }
}

impl WaitReason {
    /// The name in responses, metrics and the journal.
    pub fn as_str(self) -> &'static str {
        match self {
            WaitReason::Split => "split",
            // Also a fixed limit, derived from the baseline's past.
            WaitReason::Slo | WaitReason::Slow => "slo",
            WaitReason::Aborts => "aborts",
            WaitReason::CanaryFull => "canary_full",
            WaitReason::BaselineDown => "baseline_down",
            WaitReason::Inconclusive => "inconclusive",
            WaitReason::TooLittleTraffic => "too_little_traffic",
        }
    }
}

/// The judge of one release. It can be serialized and resumed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Judge {
    pub(crate) options: Options,
    /// `ln(1/alpha)` and `ln(1/beta)`.
    pub(crate) limit: f64,
    pub(crate) advance_limit: f64,
    /// `ln` of each relative objective's part of alpha.
    pub(crate) log_share: f64,
    pub(crate) error: Option<ErrorTest>,
    pub(crate) latency: Option<LatencyTest>,
    pub(crate) guards: Vec<SloGuard>,
    pub(crate) split: SampleRatioTest,
    pub(crate) aborts: AbortTest,
    pub(crate) rate: BaselineRate,
    /// The limits at full weight, while the canary is there.
    pub(crate) full_weight: Option<FullWeight>,
    pub(crate) ledger: EvidenceLog,
    pub(crate) progress: Option<StepProgress>,
    pub(crate) canary: Counts,
    pub(crate) baseline: Counts,
    pub(crate) failing_clients: u64,
    /// Sticky releases: the units so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) units: Option<UnitCounts>,
    pub(crate) started_ms: Option<u64>,
    pub(crate) now_ms: u64,
    next_block_ms: u64,
    shares: u32,
    /// Upper bound of `ln` of the combined e-value, which is computed only when it may have changed
    /// the verdict or the maximum.
    bound: f64,
    pub(crate) log_e_max: f64,
    pub(crate) confidence: Option<Interval>,
    rolled_back: Option<Cause>,
}

impl Judge {
    /// A judge with `options`, which must have no [`Options::problems`].
    pub fn new(options: Options) -> Judge {
        let objectives = options.judged();
        let error = objectives.iter().find_map(|objective| match objective {
            Objective::ErrorRate(o) => Some(ErrorTest::new(Margin::from(*o))),
            _ => None,
        });
        let latency = objectives.iter().find_map(|objective| match objective {
            Objective::Latency(o) => Some(LatencyTest::new(Slack::from(*o))),
            _ => None,
        });
        let guards = objectives.iter().filter_map(|objective| match objective {
            Objective::Slo(slo) => Some(SloGuard::new(*slo)),
            _ => None,
        });
        let relative = u32::from(error.is_some()) + u32::from(latency.is_some());
        Judge {
            limit: -options.alpha.ln(),
            advance_limit: -options.beta.ln(),
            log_share: -f64::from(relative.max(1)).ln(),
            guards: guards.collect(),
            error,
            latency,
            options,
            split: SampleRatioTest::default(),
            aborts: AbortTest::new(),
            rate: BaselineRate::default(),
            full_weight: None,
            ledger: EvidenceLog::new(),
            progress: None,
            canary: Counts::default(),
            baseline: Counts::default(),
            failing_clients: 0,
            units: None,
            started_ms: None,
            now_ms: 0,
            next_block_ms: 0,
            shares: 0,
            bound: 0.0,
            log_e_max: 0.0,
            confidence: None,
            rolled_back: None,
        }
    }

    /// Adds the baseline's history before the release: responses by latency, and failures. Latency
    /// is judged only when the baseline has enough requests.
    pub fn warm(&mut self, latency_us: &[(u64, u64)], failures: u64) {
        self.rate.warm(latency_us, failures);
        if let Some(latency) = &mut self.latency {
            latency.warm(latency_us, failures);
        }
    }

    /// Begins a step. The evidence against the canary is kept; the evidence for it restarts.
    pub fn begin_step(&mut self, now_ms: u64, step: StepConditions) {
        let now_ms = now_ms.max(self.now_ms);
        self.advance_time(now_ms);
        if self.progress.is_some() {
            self.share();
        }
        self.started_ms.get_or_insert(now_ms);
        self.next_block_ms = now_ms + BLOCK_MS;
        let tests = Tests {
            error: self.error.is_some(),
            harm_budget: self.options.harm_budget,
            latency: self
                .latency
                .as_ref()
                .map(|test| (test.slack(), test.epoch())),
            limit: self.advance_limit,
        };
        self.progress = Some(StepProgress::new(step, now_ms, &tests));
    }

    /// Scores a cohort. Cohorts arrive in the order of their start; several with the same time come
    /// from several proxies.
    pub fn observe(&mut self, cohort: &Cohort<'_>) {
        let cohort = &Cohort {
            at_ms: cohort.at_ms.max(self.now_ms),
            ..*cohort
        };
        if cohort.weight > 0.0 && self.started_ms.is_none() {
            self.started_ms = Some(cohort.at_ms);
            self.next_block_ms = cohort.at_ms + BLOCK_MS;
        }
        self.advance_time(cohort.at_ms);
        self.rebuild_bins();
        if self.started_ms.is_some() {
            self.score(cohort);
        } else {
            self.rate.add(cohort.weight, &cohort.baseline);
        }
        if let Some(latency) = &mut self.latency {
            latency.remember(&cohort.baseline);
        }
    }

    /// Scores units that have reached the age `bake` for the step at `weight` in which they began:
    /// the units of each arm, and those that had failed by that age.
    pub fn mature(&mut self, at_ms: u64, weight: f64, canary: &[Unit], baseline: &[Unit]) {
        let at_ms = at_ms.max(self.now_ms);
        self.advance_time(at_ms);
        if let Some(progress) = &mut self.progress {
            progress.score_units(weight, canary, baseline, self.advance_limit);
        }
    }

    /// The verdict at `now_ms`.
    pub fn verdict(&self, now_ms: u64) -> Verdict {
        if let Some(cause) = self.rolled_back {
            return Verdict::RollBack(cause);
        }
        if self.split.doubted() {
            return Verdict::Hold(WaitReason::Split);
        }
        if self
            .guards
            .iter()
            .any(|guard| guard.finding(self.limit) == SloFinding::BothBeyond)
        {
            return Verdict::Hold(WaitReason::Slo);
        }
        if self
            .full_weight
            .as_ref()
            .is_some_and(|limits| limits.is_slow(self.limit))
        {
            return Verdict::Hold(WaitReason::Slow);
        }
        if self.aborts.is_beyond(self.limit) {
            return Verdict::Hold(WaitReason::Aborts);
        }
        let Some(progress) = &self.progress else {
            return Verdict::Continue;
        };
        if progress.passed(now_ms, self.advance_limit, self.is_within_fixed_limits()) {
            return Verdict::Advance;
        }
        if progress.out_of_time(now_ms) {
            return self.inconclusive(progress);
        }
        Verdict::Continue
    }

    /// The options of the judge.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The requests assigned to the canary so far.
    pub fn canary(&self) -> Counts {
        self.canary
    }

    /// `ln` of the combined e-value, and its maximum so far.
    pub fn log_e(&self) -> (f64, f64) {
        (
            self.combined(self.error_log_e(), self.latency_log_e()),
            self.log_e_max,
        )
    }

    /// Requests that clients aborted.
    pub fn aborts(&self) -> AbortCounts {
        self.aborts.counted()
    }

    /// The upper limit of the baseline's failure rate so far, as used at full weight.
    pub fn baseline_upper(&self) -> f64 {
        self.rate.upper(0.5 * self.options.alpha)
    }

    /// The canary's requests at the current step that ended with a response or a failure.
    pub fn outcomes(&self) -> u64 {
        self.progress
            .as_ref()
            .map_or(0, |progress| progress.outcomes)
    }

    /// The requests assigned to the canary at the current step.
    pub fn at_step(&self) -> Counts {
        self.progress
            .as_ref()
            .map(|progress| progress.canary)
            .unwrap_or_default()
    }

    /// The cause of the rollback verdict, if there is one.
    pub fn condemned(&self) -> Option<Cause> {
        self.rolled_back
    }

    /// Whether the failures at full weight, if the canary is there, allow to promote it.
    fn is_within_fixed_limits(&self) -> bool {
        let limits = self.full_weight.as_ref();
        limits.is_none_or(|limits| limits.passes(self.advance_limit))
    }

    fn inconclusive(&self, progress: &StepProgress) -> Verdict {
        let enough = progress.has_traffic();
        let harmless = self.log_e_max < 0.5 * self.limit && self.is_within_fixed_limits();
        match progress.step.inconclusive {
            Inconclusive::RollBack => Verdict::RollBack(Cause::Inconclusive),
            Inconclusive::Advance if enough && harmless => Verdict::Advance,
            _ if enough => Verdict::Hold(WaitReason::Inconclusive),
            _ => Verdict::Hold(WaitReason::TooLittleTraffic),
        }
    }

    /// Advances the time, and redistributes the wealth at the end of each block.
    fn advance_time(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        if self.started_ms.is_none() {
            return;
        }
        for _ in 0..BLOCKS_AT_ONCE {
            if now_ms < self.next_block_ms {
                return;
            }
            self.share();
            self.next_block_ms += BLOCK_MS;
        }
        self.next_block_ms = self.next_block_ms.max(now_ms + BLOCK_MS);
    }

    fn share(&mut self) {
        self.shares = self.shares.saturating_add(1);
        let k = self.shares;
        if let Some(error) = &mut self.error {
            self.ledger.share(k, error.margin());
            error.share(k);
        }
        if let Some(latency) = &mut self.latency {
            latency.share(k);
        }
        for guard in &mut self.guards {
            guard.share(k);
        }
        self.aborts.share(k);
        if let Some(limits) = &mut self.full_weight {
            limits.share(k);
        }
    }

    fn rebuild_bins(&mut self) {
        let Some(latency) = &mut self.latency else {
            return;
        };
        if latency.recut(self.now_ms)
            && let Some(epoch) = latency.epoch()
            && let Some(test) = self
                .progress
                .as_mut()
                .and_then(|progress| progress.latency.as_mut())
        {
            test.recut(epoch);
        }
    }

    fn score(&mut self, cohort: &Cohort<'_>) {
        self.canary.add(&cohort.canary);
        self.baseline.add(&cohort.baseline);
        self.failing_clients += cohort
            .canary
            .failing_clients
            .unwrap_or_else(|| cohort.canary.distinct_failures());
        self.rate.add(cohort.weight, &cohort.baseline);
        self.aborts.score(cohort);
        if cohort.weight >= 1.0 {
            self.score_at_full_weight(cohort);
        } else if cohort.weight > 0.0 {
            self.full_weight = None;
            self.compare(cohort);
        }
        if let Some(progress) = &mut self.progress {
            progress.score(cohort, self.advance_limit);
        }
        for guard in &mut self.guards {
            guard.score(&cohort.canary, &cohort.baseline, self.limit);
        }
        self.update_verdict();
    }

    /// The comparisons, for which each request must be possible on both arms.
    fn compare(&mut self, cohort: &Cohort<'_>) {
        if cohort.canary.units.is_some() || cohort.baseline.units.is_some() {
            let growth = self.compare_units(cohort);
            self.bound += growth.max(self.compare_latency(cohort));
            return;
        }
        self.split.add(cohort);
        let mut growth = 0.0;
        if let Some(error) = &mut self.error {
            let canary = Pair::of(cohort.canary.requests, cohort.canary.failures);
            growth = error.score(cohort.weight, canary, cohort.baseline.failures);
            self.ledger.add(cohort, error.margin(), None);
        }
        self.bound += growth.max(self.compare_latency(cohort));
    }

    /// At full weight there is no concurrent baseline: the bets on failures continue against a
    /// fixed limit.
    fn score_at_full_weight(&mut self, cohort: &Cohort<'_>) {
        if self.full_weight.is_none() {
            let p99_us = self.latency.as_mut().and_then(LatencyTest::past_p99);
            // The judge has half of a release's alpha, and this limit a quarter.
            self.full_weight = Some(FullWeight::new(
                &self.rate,
                p99_us,
                0.5 * self.options.alpha,
                self.error.is_some(),
            ));
        }
        let Some(limits) = &mut self.full_weight else {
            return;
        };
        limits.score_passing(&cohort.canary, self.advance_limit);
        // One broken user of a sticky service must not cause a rollback here either.
        let cohort = &Cohort {
            canary: ArmCounts {
                failures: cohort.canary.distinct_failures(),
                ..cohort.canary
            },
            ..*cohort
        };
        limits.score(&cohort.canary);
        if let Some(error) = &mut self.error {
            let canary = Pair::of(cohort.canary.requests, cohort.canary.failures);
            self.bound += error.score_alone(limits.limit, canary);
            self.ledger.add(cohort, error.margin(), Some(limits.limit));
        }
    }

    /// The comparison by units, which are assignments of keys. Returns an upper bound of the growth
    /// of the evidence.
    fn compare_units(&mut self, cohort: &Cohort<'_>) -> f64 {
        let canary = cohort.canary.units.unwrap_or_default();
        let baseline = cohort.baseline.units.unwrap_or_default();
        self.units.get_or_insert_default().add(canary, baseline);
        let mut growth = 0.0;
        for (weight, canary, baseline) in paired(canary, baseline) {
            self.split.add_units(weight, canary, baseline);
            if let Some(error) = &mut self.error {
                let pair = Pair::of(canary.requests, canary.failures);
                growth += error.score(weight, pair, baseline.failures);
                self.ledger
                    .add_units(weight, canary, baseline, error.margin());
            }
        }
        growth
    }

    /// Returns an upper bound of the growth of the evidence (in log space).
    fn compare_latency(&mut self, cohort: &Cohort<'_>) -> f64 {
        let Some(latency) = &mut self.latency else {
            return 0.0;
        };
        let (Some(epoch), Some(of_canary), Some(of_baseline)) = (
            latency.epoch(),
            cohort.canary.latency_us,
            cohort.baseline.latency_us,
        ) else {
            return 0.0;
        };
        let canary = sort(&cohort.canary, of_canary, &epoch.canary_edges);
        let baseline = sort(&cohort.baseline, of_baseline, &epoch.baseline_edges);
        let weight = begun_at(&cohort.canary, &cohort.baseline).unwrap_or(cohort.weight);
        if weight >= 1.0 {
            return 0.0;
        }
        latency.score(weight, &canary, &baseline, cohort.canary.slow_failures())
    }

    /// Rolls back if there is enough evidence.
    fn update_verdict(&mut self) {
        if self.bound >= self.log_e_max.min(self.limit) {
            self.combine_objectives();
        }
        let beyond = |guard: &SloGuard| guard.finding(self.limit) == SloFinding::Beyond;
        if self.rolled_back.is_none() && self.guards.iter().any(beyond) {
            self.rolled_back = Some(Cause::Slo);
        }
        let failing = self
            .full_weight
            .as_ref()
            .is_some_and(|limits| limits.is_failing(self.limit));
        if self.rolled_back.is_none() && failing && self.failures_suffice() {
            self.rolled_back = Some(Cause::ErrorRate);
        }
    }

    /// Combines the objectives, and rolls back if together they reach the limit.
    fn combine_objectives(&mut self) {
        let (of_error, of_latency) = (self.error_log_e(), self.latency_log_e());
        let log_e = self.combined(of_error, of_latency);
        self.bound = log_e + ROUNDING;
        self.log_e_max = self.log_e_max.max(log_e);
        if self.rolled_back.is_none() && log_e >= self.limit {
            self.rolled_back = self.cause(of_error);
        }
    }

    fn error_log_e(&self) -> Option<f64> {
        self.error.as_ref().map(ErrorTest::log_e)
    }

    fn latency_log_e(&self) -> Option<f64> {
        self.latency.as_ref().map(|test| test.log_e(true))
    }

    /// The cause, if there are enough failures: the objective with more evidence. Failures are
    /// evidence for both, since they fall into the slowest bin, and often more for latency than for
    /// errors; but nobody would look for a slow query in a canary that responds 500. So for the
    /// name only, not for the verdict, latency counts with the evidence from slowness alone, and a
    /// canary that is both slow and failing is named by the stronger.
    fn cause(&self, of_error: Option<f64>) -> Option<Cause> {
        if self.failures_suffice() {
            let by_slowness = self.latency.as_ref().map(LatencyTest::log_e_by_slowness);
            return Some(if of_error >= by_slowness {
                Cause::ErrorRate
            } else {
                Cause::Latency
            });
        }
        let of_latency = self.latency.as_ref()?.log_e(false);
        (self.log_share + of_latency >= self.limit).then_some(Cause::Latency)
    }

    fn failures_suffice(&self) -> bool {
        // At full weight units are not compared, but each key still counts with its first failure.
        let of_units = |units: UnitCounts| units.canary.failures.max(self.failing_clients);
        let failures = self.units.map_or(self.canary.failures, of_units);
        failures >= self.options.min_canary_failures
            && self.failing_clients >= self.options.min_distinct_clients
    }

    /// The weighted mean of the relative objectives' e-values; 0 (in log space) without any.
    fn combined(&self, of_error: Option<f64>, of_latency: Option<f64>) -> f64 {
        match (of_error, of_latency) {
            (Some(error), Some(latency)) => self.log_share + log_sum_exp(&[error, latency]),
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => 0.0,
        }
    }
}

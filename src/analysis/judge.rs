//! The judge: everything that is known of one release, and the verdict on it.
//!
//! Evidence *against* the canary is kept for the whole release, under one chance of error, whoever
//! looks and however often; evidence *for* it begins anew at each step. Nothing here knows the
//! time, draws a number or changes a weight.

use serde::{Deserialize, Serialize};

use super::aborts::{AbortCounts, AbortTest};
use super::baseline::BaselineRate;
use super::bins::Slack;
use super::cohort::{ArmCounts, Cohort, Counts};
use super::confidence::{Interval, interval};
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

/// Wealth is shared anew once in this time, and when a step begins.
const BLOCK_MS: u64 = 30_000;
/// Blocks that are made up for at once after a gap without cohorts.
const BLOCKS_AT_ONCE: u32 = 64;
/// More than rounding can add up to between two exact computations of the evidence, and less than
/// anybody sees.
const ROUNDING: f64 = 1e-6;
/// The chance that the confidence sequence holds at all times.
const CONFIDENCE: f64 = 0.95;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is certain yet.
    Continue,
    /// The canary is good enough for the next step.
    Advance,
    /// The canary is worse. Once said, said for good.
    RollBack(Cause),
    /// A person should look; the brakes work on meanwhile.
    Hold(WaitReason),
}

/// Why a release is rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// More failures than the baseline at the same time.
    ErrorRate,
    /// Slower than the baseline at the same time.
    Latency,
    /// Beyond a fixed limit that the baseline keeps.
    Slo,
    /// No answer in time, and the plan says to roll back then. Policy, not evidence.
    Inconclusive,
}

/// Why a release waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// The traffic is not split as the weights say, so that no comparison can be trusted.
    Split,
    /// Both versions are beyond a fixed limit.
    Slo,
    /// At full weight the canary is slower than the baseline was by more than is tolerated.
    Slow,
    /// Clients give up on the canary more often than on the baseline.
    Aborts,
    /// The canary has as many requests as it may have at once, so that others go to the baseline.
    CanaryFull,
    /// No endpoint of the baseline is healthy, so that its share goes to the canary.
    BaselineDown,
    /// The step had its time and gave no answer.
    Inconclusive,
    /// The step had its time, and the canary too few requests to say anything.
    TooLittleTraffic,
}

impl Cause {
    /// Its name in answers, metrics and the journal.
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
    /// Its name in answers, metrics and the journal.
    pub fn as_str(self) -> &'static str {
        match self {
            WaitReason::Split => "split",
            // A fixed limit too, that comes from the baseline's past.
            WaitReason::Slo | WaitReason::Slow => "slo",
            WaitReason::Aborts => "aborts",
            WaitReason::CanaryFull => "canary_full",
            WaitReason::BaselineDown => "baseline_down",
            WaitReason::Inconclusive => "inconclusive",
            WaitReason::TooLittleTraffic => "too_little_traffic",
        }
    }
}

/// The judge of one release. It can be written down and go on from there.
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
    rate: BaselineRate,
    /// The limits at full weight, while the canary has it.
    full_weight: Option<FullWeight>,
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
    /// No less than `ln` of the combined e-value, which is computed only when it may have become
    /// news.
    bound: f64,
    pub(crate) log_e_max: f64,
    pub(crate) confidence: Option<Interval>,
    rolled_back: Option<Cause>,
}

impl Judge {
    /// A judge by `options`, in which [`Options::problems`] finds nothing.
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

    /// Tells what the baseline did before the release: answers by latency, and failures. Latency is
    /// judged only when the baseline has been seen often enough.
    pub fn warm(&mut self, latency_us: &[(u64, u64)], failures: u64) {
        self.rate.warm(latency_us, failures);
        if let Some(latency) = &mut self.latency {
            latency.warm(latency_us, failures);
        }
    }

    /// Begins a step. The evidence against the canary stays; the evidence for it is gathered anew.
    pub fn begin_step(&mut self, now_ms: u64, step: StepConditions) {
        let now_ms = now_ms.max(self.now_ms);
        self.pass_to(now_ms);
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

    /// Scores a cohort. Cohorts come in the order of their start; several with the same time are
    /// several proxies'.
    pub fn observe(&mut self, cohort: &Cohort<'_>) {
        let cohort = &Cohort {
            at_ms: cohort.at_ms.max(self.now_ms),
            ..*cohort
        };
        if cohort.weight > 0.0 && self.started_ms.is_none() {
            self.started_ms = Some(cohort.at_ms);
            self.next_block_ms = cohort.at_ms + BLOCK_MS;
        }
        self.pass_to(cohort.at_ms);
        self.recut();
        if self.started_ms.is_some() {
            self.score(cohort);
        } else {
            self.rate.add(cohort.weight, &cohort.baseline);
        }
        if let Some(latency) = &mut self.latency {
            latency.remember(&cohort.baseline);
        }
    }

    /// Scores units that have become as old as `bake` for the step in which they began, at the
    /// weight `weight`: those of each arm, and of them those that had failed by that age.
    pub fn mature(&mut self, at_ms: u64, weight: f64, canary: &[Unit], baseline: &[Unit]) {
        let at_ms = at_ms.max(self.now_ms);
        self.pass_to(at_ms);
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
        if progress.passed(now_ms, self.advance_limit) {
            return Verdict::Advance;
        }
        if progress.out_of_time(now_ms) {
            return self.inconclusive(progress);
        }
        Verdict::Continue
    }

    /// The options that it judges by.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What the canary was given so far.
    pub fn canary(&self) -> Counts {
        self.canary
    }

    /// `ln` of the combined e-value, and the highest that it has been.
    pub fn log_e(&self) -> (f64, f64) {
        (
            self.combined(self.error_log_e(), self.latency_log_e()),
            self.log_e_max,
        )
    }

    /// Requests that clients gave up.
    pub fn aborts(&self) -> AbortCounts {
        self.aborts.counted()
    }

    /// The upper limit of the baseline's failure rate so far, as it is used at full weight.
    pub fn baseline_upper(&self) -> f64 {
        self.rate.upper(0.5 * self.options.alpha)
    }

    /// The canary's requests at the present step that came to an answer or a failure.
    pub fn outcomes(&self) -> u64 {
        self.progress
            .as_ref()
            .map_or(0, |progress| progress.outcomes)
    }

    /// What the canary was given at the present step.
    pub fn at_step(&self) -> Counts {
        self.progress
            .as_ref()
            .map(|progress| progress.canary)
            .unwrap_or_default()
    }

    /// Why the canary was condemned, once it was.
    pub fn condemned(&self) -> Option<Cause> {
        self.rolled_back
    }

    fn inconclusive(&self, progress: &StepProgress) -> Verdict {
        let enough = progress.has_traffic();
        let harmless = self.log_e_max < 0.5 * self.limit;
        match progress.step.inconclusive {
            Inconclusive::RollBack => Verdict::RollBack(Cause::Inconclusive),
            Inconclusive::Advance if enough && harmless => Verdict::Advance,
            _ if enough => Verdict::Hold(WaitReason::Inconclusive),
            _ => Verdict::Hold(WaitReason::TooLittleTraffic),
        }
    }

    /// Moves the clock, and shares the wealth anew at the end of each block.
    fn pass_to(&mut self, now_ms: u64) {
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

    fn recut(&mut self) {
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
            self.hold_to_limits(cohort);
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
        self.weigh();
    }

    /// The comparisons, for which both arms must have a chance of each request.
    fn compare(&mut self, cohort: &Cohort<'_>) {
        if cohort.canary.units.is_some() || cohort.baseline.units.is_some() {
            let grown = self.compare_units(cohort);
            self.bound += grown.max(self.compare_latency(cohort));
            return;
        }
        self.split.add(cohort);
        let mut grown = 0.0;
        if let Some(error) = &mut self.error {
            let canary = Pair::of(cohort.canary.requests, cohort.canary.failures);
            grown = error.score(cohort.weight, canary, cohort.baseline.failures);
            self.ledger.add(cohort, error.margin(), None);
        }
        self.bound += grown.max(self.compare_latency(cohort));
    }

    /// What is left at full weight, where there is nobody to compare with: the same bets on
    /// failures go on, against a fixed limit.
    fn hold_to_limits(&mut self, cohort: &Cohort<'_>) {
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
        // One broken user of a sticky service must not condemn the canary here either.
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

    /// The same where the unit is the draw of a key. Gives the most by which the evidence may have
    /// grown.
    fn compare_units(&mut self, cohort: &Cohort<'_>) -> f64 {
        let canary = cohort.canary.units.unwrap_or_default();
        let baseline = cohort.baseline.units.unwrap_or_default();
        self.units.get_or_insert_default().add(canary, baseline);
        let mut grown = 0.0;
        for (weight, canary, baseline) in paired(canary, baseline) {
            self.split.add_units(weight, canary, baseline);
            if let Some(error) = &mut self.error {
                let pair = Pair::of(canary.requests, canary.failures);
                grown += error.score(weight, pair, baseline.failures);
                self.ledger
                    .add_units(weight, canary, baseline, error.margin());
            }
        }
        grown
    }

    /// Gives the most by which the evidence (in log space) may have grown.
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

    /// Rolls back when there is evidence enough.
    fn weigh(&mut self) {
        if self.bound >= self.log_e_max.min(self.limit) {
            self.weigh_exactly();
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

    /// Combines the objectives, and rolls back when together they have enough.
    fn weigh_exactly(&mut self) {
        let (of_error, of_latency) = (self.error_log_e(), self.latency_log_e());
        let log_e = self.combined(of_error, of_latency);
        self.bound = log_e + ROUNDING;
        self.log_e_max = self.log_e_max.max(log_e);
        if self.rolled_back.is_none() && log_e >= self.limit {
            self.rolled_back = self.culprit(of_error);
        }
    }

    fn error_log_e(&self) -> Option<f64> {
        self.error.as_ref().map(ErrorTest::log_e)
    }

    fn latency_log_e(&self) -> Option<f64> {
        self.latency.as_ref().map(|test| test.log_e(true))
    }

    /// The culprit, if there are failures enough for it to be one: the objective with more
    /// evidence. Failures are evidence of both, since they fall into the slowest bin, and often
    /// more of latency than of errors; but nobody would look for a slow query in a canary that
    /// answers 500. So for the name, not for the verdict, latency is credited with what
    /// slowness has won, and a canary that is both slow and failing is named by the stronger.
    fn culprit(&self, of_error: Option<f64>) -> Option<Cause> {
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
        // At full weight units are not compared, and each key counts with its first failure all the
        // same.
        let of_units = |units: UnitCounts| units.canary.failures.max(self.failing_clients);
        let failures = self.units.map_or(self.canary.failures, of_units);
        failures >= self.options.min_canary_failures
            && self.failing_clients >= self.options.min_distinct_clients
    }

    /// The weighted mean of the relative objectives' e-values; 0 (in log space) when there are
    /// none.
    fn combined(&self, of_error: Option<f64>, of_latency: Option<f64>) -> f64 {
        match (of_error, of_latency) {
            (Some(error), Some(latency)) => self.log_share + log_sum_exp(&[error, latency]),
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => 0.0,
        }
    }

    /// Narrows the confidence sequence by what it is now.
    pub(crate) fn refresh_confidence(&mut self) {
        if let (Some(error), Some(totals)) = (&self.error, self.split.totals()) {
            let now = interval(totals, error.margin().ratio, CONFIDENCE);
            self.confidence = Some(now.and(self.confidence));
        }
    }
}

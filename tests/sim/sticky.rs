//! Sticky services, where the unit is the assignment of a key: S13.1, S17 and P17. The table of
//! units is the program's.

use weighbridge::analysis::{
    ArmCounts, Cohort, Entered, ErrorRateMargin, Judge, Objective, Options, Unit, Units, Verdict,
};
use weighbridge::release::replay::{Mode, Run, RunOutcome, RunPlan};
use weighbridge::stats::Arm;

use crate::errors::{judge, step};
use crate::power::Detection;
use crate::rng::Rng;
use crate::world::{ramp, sine};

pub(crate) const SECOND_US: u64 = 1_000_000;
pub(crate) const BAKE_US: u64 = 10 * SECOND_US;
/// Between two requests of a key.
const GAP_S: f64 = 5.0;

/// The users of a service.
struct Scene<'a> {
    seconds: f64,
    keys_per_second: f64,
    /// Requests per key, on average.
    requests: f64,
    /// The canary's weight at a time.
    weight: &'a dyn Fn(f64) -> f64,
    /// The probability that a key assigned at this time always fails: on the baseline, on the
    /// canary.
    bad: &'a dyn Fn(f64) -> [f64; 2],
    /// The probability that any request fails.
    background: f64,
}

struct Key {
    /// On the canary while this is below its weight.
    place: f64,
    /// Whether it is bad, and the weight at which that was drawn.
    is_bad: bool,
    drawn_at: f64,
}

/// All requests in order: the time, and the key.
fn requests(rng: &mut Rng, scene: &Scene<'_>) -> (Vec<(u64, u32)>, Vec<Key>) {
    let (mut requests, mut keys) = (Vec::new(), Vec::new());
    let mut first = rng.exponential(1.0 / scene.keys_per_second);
    while first < scene.seconds {
        let mut at = first;
        for _ in 0..rng.geometric(scene.requests) {
            if at >= scene.seconds {
                break;
            }
            requests.push(((at * 1e6) as u64, keys.len() as u32));
            at += GAP_S;
        }
        keys.push(Key {
            place: rng.uniform(),
            is_bad: false,
            drawn_at: 0.0,
        });
        first += rng.exponential(1.0 / scene.keys_per_second);
    }
    requests.sort_unstable();
    (requests, keys)
}

/// The counts of one arm in a second.
#[derive(Default)]
pub(crate) struct Second {
    requests: u64,
    failures: u64,
    units: Vec<Unit>,
}

impl Second {
    pub(crate) fn arm(&self) -> ArmCounts<'_> {
        ArmCounts {
            units: Some(&self.units),
            ..ArmCounts::of(self.requests, self.failures)
        }
    }

    /// Adds a request: the baseline is the first of the arms.
    pub(crate) fn add(arms: &mut [Second; 2], side: Arm, failed: bool, entered: &Entered) {
        let arm = &mut arms[usize::from(side == Arm::Canary)];
        arm.requests += 1;
        arm.failures += u64::from(failed);
        for (side, unit) in entered.units(side) {
            unit.add_to(&mut arms[usize::from(side == Arm::Canary)].units);
        }
    }

    /// Whether the release is rolled back by the second that ends at `end_us`.
    pub(crate) fn rolls_back(
        [baseline, canary]: &[Second; 2],
        judge: &mut Judge,
        units: &mut Units,
        weight: f64,
        end_us: u64,
    ) -> bool {
        let at_ms = end_us / 1_000;
        for matured in units.matured(end_us) {
            judge.mature(at_ms, matured.weight, &matured.canary, &matured.baseline);
        }
        judge.observe(&Cohort {
            at_ms,
            weight,
            baseline: baseline.arm(),
            canary: canary.arm(),
        });
        matches!(judge.verdict(at_ms), Verdict::RollBack(_))
    }
}

/// The time of the rollback, and the number of canary units until then.
fn rolled_back(seed: u64, mut judge: Judge, scene: &Scene<'_>) -> Option<Detection> {
    let mut rng = Rng::new(seed);
    let (requests, mut keys) = requests(&mut rng, scene);
    let mut units = Units::new(true, BAKE_US);
    let mut all = requests.into_iter().peekable();
    let (mut weight, mut begun) = (0.0, 0);
    for second in 0..scene.seconds as u64 {
        let t = second as f64;
        let now = (scene.weight)(t);
        let end_us = (second + 1) * SECOND_US;
        if now != weight {
            weight = now;
            judge.begin_step(second * 1_000, step(weight, 1.0));
        }
        let mut arms = [Second::default(), Second::default()];
        while let Some((at_us, user)) = all.next_if(|(at_us, _)| *at_us < end_us) {
            let key = &mut keys[user as usize];
            let canary = key.place < weight;
            if key.drawn_at != weight && !key.is_bad {
                key.drawn_at = weight;
                key.is_bad = rng.chance((scene.bad)(t)[usize::from(canary)].min(1.0));
            }
            let failed = key.is_bad || rng.chance(scene.background);
            let side = if canary { Arm::Canary } else { Arm::Baseline };
            let entered = units.enter(user, side, weight, at_us, failed);
            begun += u64::from(canary && entered.begins.is_some());
            Second::add(&mut arms, side, failed, &entered);
        }
        if Second::rolls_back(&arms, &mut judge, &mut units, weight, end_us) {
            return Some(Detection {
                requests: begun as f64,
                seconds: t + 1.0,
            });
        }
    }
    None
}

fn drift(phase: f64) -> impl Fn(f64) -> f64 {
    move |t| 5e-3 * (1.0 + 0.9 * sine(t, 3_600.0, phase))
}

fn on_the_ramp(seed: u64, ratio: f64, worse_by: f64) -> bool {
    let q = drift(Rng::new(seed ^ 0x5eed).uniform());
    let scene = Scene {
        seconds: 3_600.0,
        keys_per_second: 5.0,
        requests: 20.0,
        weight: &|t| ramp(t, 3_600.0),
        bad: &|t| [q(t), ratio * q(t) + worse_by],
        background: 0.0,
    };
    rolled_back(seed, judge(0.05, ratio, worse_by), &scene).is_some()
}

pub(crate) fn s17(seed: u64) -> bool {
    on_the_ramp(seed, 1.0, 0.0)
}

pub(crate) fn s17_boundary(seed: u64) -> bool {
    on_the_ramp(seed, 1.1, 5e-3)
}

/// Sessions of which a few always fail, in both arms alike.
pub(crate) fn s13_units(seed: u64) -> bool {
    let scene = Scene {
        seconds: 3_600.0,
        keys_per_second: 2.0,
        requests: 50.0,
        weight: &|_| 0.05,
        bad: &|_| [5e-3; 2],
        background: 1e-4,
    };
    rolled_back(seed, judge(0.05, 1.0, 0.0), &scene).is_some()
}

/// Keys of which 0.1 % are bad on the baseline and 10 % on the canary.
pub(crate) fn p17(seed: u64, weight: f64) -> Option<Detection> {
    let judge = Judge::new(Options {
        alpha: 1.0 / 4_000.0,
        objectives: vec![Objective::ErrorRate(ErrorRateMargin {
            ratio: 1.0,
            worse_by: 0.0,
        })],
        min_canary_failures: 5,
        ..Options::default()
    });
    let scene = Scene {
        seconds: 3_600.0,
        keys_per_second: 10.0,
        requests: 20.0,
        weight: &|_| weight,
        bad: &|_| [1e-3, 0.1],
        background: 0.0,
    };
    rolled_back(seed, judge, &scene)
}

/// The canary failures that a budget allows, and the allowance for chance.
pub(crate) const FEW_KEYS_BUDGET: u64 = 100;

/// Eight keys are on the canary and each of their requests fails: too few for a test, so a budget
/// has to end it. Returns the failures until then.
pub(crate) fn few_keys(seed: u64) -> Option<u64> {
    const KEYS: u64 = 160;
    let mut rng = Rng::new(seed);
    let plan = RunPlan {
        rescued_budget: Some(FEW_KEYS_BUDGET),
        ..RunPlan::default()
    };
    let mut run = Run::new("few keys", plan, Mode::Plan);
    let mut units = Units::new(true, BAKE_US);
    for tick in 1..=360_000_u64 {
        let mut arms = [Second::default(), Second::default()];
        for _ in 0..rng.poisson(1.5) {
            let user = rng.bits() % KEYS;
            let canary = user < 8;
            let side = if canary { Arm::Canary } else { Arm::Baseline };
            let failed = canary || rng.chance(1e-3);
            let entered = units.enter(user as u32, side, 0.05, tick * 10_000, failed);
            Second::add(&mut arms, side, failed, &entered);
        }
        let answer = run.observe(&Cohort {
            at_ms: tick * 10,
            weight: 0.05,
            baseline: arms[0].arm(),
            // All of them are rescued: no user sees one.
            canary: ArmCounts {
                visible_failures: Some(0),
                ..arms[1].arm()
            },
        });
        if let Some(answer) = answer {
            return (answer.verdict == RunOutcome::RolledBack).then_some(answer.canary_failures);
        }
    }
    None
}

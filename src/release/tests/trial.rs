//! A live trial and a recorded run of the same cohorts must agree.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Finding, Input, Plan, ReleaseState, Trial};
use super::{at, begin, plan};
use crate::analysis::{ArmCounts, Cohort};
use crate::model::api::Phase;
use crate::release::replay::{Mode, Run, RunOutcome, RunResult};

/// The content of a cohort: requests of both arms, failures per ten thousand, and whether failures
/// were rescued.
#[derive(Clone, Debug)]
struct Tick {
    step_ms: u64,
    requests: u64,
    failing: (u64, u64),
    slower: u64,
    rescued: bool,
}

/// A release and its trial as the control plane drives them, with every change committed at once.
struct Live {
    release: ReleaseState,
    trial: Trial,
    spent: u64,
    failed: u64,
}

impl Live {
    fn new(plan: Plan) -> Live {
        Live {
            trial: Trial::new(&plan, 1),
            release: begin(plan),
            spent: 0,
            failed: 0,
        }
    }

    fn send(&mut self, input: &Input<'_>, now_ms: u64) {
        let now = at(super::MONDAY_9 + i64::try_from(now_ms).unwrap() * 1_000);
        let Some(transition) = self.release.next(input, now).unwrap() else {
            return;
        };
        let before = self.release.step();
        self.release = transition.after;
        if self.release.is_judged() && self.release.step() != before {
            let plan = self.release.plan.clone();
            self.trial
                .begin_step(now_ms, self.release.step().unwrap(), &plan);
        }
    }

    fn observe(&mut self, cohort: &Cohort<'_>) {
        if self.release.phase == Phase::Pending {
            self.send(&Input::Tick, cohort.at_ms);
            self.send(&Input::Preflight(Ok(())), cohort.at_ms);
        }
        self.trial.observe(cohort);
        self.spent += cohort.canary.visible_failures();
        self.trial.set_spent(self.spent);
        self.failed += cohort.canary.failures;
        self.trial.set_failed(self.failed);
        let finding = self.trial.finding(cohort.at_ms);
        self.send(&Input::Verdict(&finding), cohort.at_ms);
    }
}

fn arm<'a>(requests: u64, failing: u64, latency: &'a [(u64, u64)], rescued: bool) -> ArmCounts<'a> {
    let failures = (requests * failing).div_ceil(10_000).min(requests);
    ArmCounts {
        latency_us: Some(latency),
        visible_failures: rescued.then_some(0),
        ..ArmCounts::of(requests, failures)
    }
}

/// Runs both on the same cohorts until one of them ends, and returns where they ended.
fn both(plan: &Plan, ticks: &[Tick]) -> (Option<RunResult>, Live, u64) {
    let mut run = Run::new("r", plan.decided_by().clone(), Mode::Plan);
    let mut live = Live::new(plan.clone());
    let first = plan.steps()[0].weight.fraction();
    let mut now_ms = 0;
    for tick in ticks {
        now_ms += tick.step_ms;
        let weight = if live.release.is_judged() {
            run.weight()
        } else {
            first
        };
        #[expect(clippy::cast_possible_truncation, reason = "a share of some hundreds")]
        let on_canary = (tick.requests as f64 * weight).round() as u64;
        let on_baseline = tick.requests - on_canary;
        let good = |requests: u64, failing: u64| {
            requests - (requests * failing).div_ceil(10_000).min(requests)
        };
        let of_canary = [(10_000 * tick.slower, good(on_canary, tick.failing.0))];
        let of_baseline = [(10_000, good(on_baseline, tick.failing.1))];
        let cohort = Cohort {
            at_ms: now_ms,
            weight,
            canary: arm(on_canary, tick.failing.0, &of_canary, tick.rescued),
            baseline: arm(on_baseline, tick.failing.1, &of_baseline, false),
        };
        run.observe(&cohort);
        live.observe(&cohort);
        let run_weight = run.weight();
        assert!(
            (live.release.weight().fraction() - run_weight).abs() < 1e-12,
            "{:?} {run_weight}",
            live.release.phase
        );
        if run.decided().is_some() || live.release.phase.is_over() {
            break;
        }
    }
    (run.decided().cloned(), live, now_ms)
}

fn plans() -> impl Strategy<Value = Value> {
    let objectives = prop_oneof![
        Just(json!([])),
        Just(json!([{ "error_rate": { "ratio": 1.0, "worse_by": 0 } }])),
        Just(json!([{ "latency": {} }])),
        Just(json!([{ "error_rate": {} }, { "slo": { "error_rate": { "below": "2%" } } }])),
    ];
    let steps = prop_oneof![
        Just(json!([5, 50])),
        Just(json!([100])),
        Just(json!([1, { "weight": 20, "hold": "2s", "min_requests": 10 }, 60, 100])),
        Just(json!([10, { "weight": 40, "max_duration": "3s", "inconclusive": "advance" }])),
    ];
    let inconclusive = prop_oneof![Just("hold"), Just("advance"), Just("roll_back")];
    let final_bake = prop_oneof![Just("0s"), Just("1s")];
    (
        objectives,
        steps,
        inconclusive,
        final_bake,
        0_u64..30,
        0_u64..3,
        0_u64..60,
        1_u64..5,
    )
        .prop_map(
            |(objectives, steps, inconclusive, final_bake, budget, bake, max, harm)| {
                json!({
                    "objectives": objectives, "steps": steps, "inconclusive": inconclusive,
                    "final_bake": final_bake,
                    "budget": budget, "bake": format!("{bake}s"), "max_duration": format!("{max}s"),
                    "min_requests": 20,
                    "harm_budget": format!("{harm}pp"),
                })
            },
        )
}

fn streams() -> impl Strategy<Value = Vec<Tick>> {
    let rates = prop_oneof![
        Just((0, 0)),
        Just((10, 10)),
        Just((500, 10)),
        Just((10_000, 0)),
        Just((400, 400)),
        (0_u64..100).prop_map(|rate| (rate, rate)),
    ];
    (rates, 1_u64..3, any::<bool>()).prop_flat_map(|(failing, slower, rescued)| {
        let tick =
            (10_u64..900, 0_u64..600, 0_u64..20).prop_map(move |(step_ms, requests, pause)| Tick {
                step_ms,
                requests: if pause == 0 { 0 } else { requests },
                failing,
                slower,
                rescued,
            });
        proptest::collection::vec(tick, 1..160)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn live_release_and_replay_decide_alike(value in plans(), ticks in streams()) {
        let (answer, live, now_ms) = both(&plan(value), &ticks);
        let release = &live.release;
        match answer {
            Some(answer) => {
                let expected = match answer.verdict {
                    RunOutcome::RolledBack => Phase::RolledBack,
                    _ => Phase::Promoted,
                };
                prop_assert_eq!(release.phase, expected);
                prop_assert_eq!(answer.at_ms, now_ms);
                prop_assert_eq!(answer.step, release.step_number());
                let objective = release.outcome.as_ref().unwrap().objective.as_deref();
                prop_assert_eq!(answer.objective, objective);
                let evidence = live.trial.evidence();
                prop_assert_eq!(
                    (evidence.canary.requests, evidence.canary.failures),
                    (answer.canary_requests, answer.canary_failures),
                );
                prop_assert!((evidence.log_e - answer.log_e).abs() < 1e-9);
            }
            None => prop_assert!(!release.phase.is_over(), "{:?}", release.outcome),
        }
    }

    /// A trial that is written and read again continues unchanged.
    #[test]
    fn checkpoint_does_not_change_the_trial(value in plans(), ticks in streams()) {
        let plan = plan(value);
        let (_, live, now_ms) = both(&plan, &ticks);
        let text = serde_json::to_string(&live.trial).unwrap();
        let again: Trial = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(serde_json::to_string(&again).unwrap(), text);
        prop_assert_eq!(again.finding(now_ms), live.trial.finding(now_ms));
        prop_assert_eq!(again.allowance(), live.trial.allowance());
    }
}

/// Both outcomes must occur in the comparison above, or it proves nothing.
#[test]
fn good_and_bad_streams_reach_a_decision() {
    let steady = |failing, requests| {
        let tick = Tick {
            step_ms: 100,
            requests,
            failing,
            slower: 1,
            rescued: false,
        };
        vec![tick; 600]
    };
    let value = json!({
        "steps": [10, 50], "bake": "1s", "harm_budget": "2pp", "objectives": [{ "error_rate": {} }],
    });
    let (answer, live, _) = both(&plan(value.clone()), &steady((0, 0), 200));
    assert_eq!(
        (answer.unwrap().verdict, live.release.phase),
        (RunOutcome::Promoted, Phase::Promoted)
    );
    let (answer, live, _) = both(&plan(value), &steady((10_000, 0), 20));
    assert_eq!(
        (answer.unwrap().verdict, live.release.phase),
        (RunOutcome::RolledBack, Phase::RolledBack)
    );
    let outcome = live.release.outcome.unwrap();
    assert_eq!(outcome.objective.as_deref(), Some("error_rate"));
    assert!(
        outcome.reason.contains("requests failed on the canary"),
        "{}",
        outcome.reason
    );
}

#[test]
fn rollback_detail_names_latency_or_failures() {
    let past = [(1_000, 900), (2_000, 900), (3_000, 290), (9_000, 10)];
    let rollback_of = |canary: &ArmCounts<'_>| {
        let mut trial = Trial::new(&Plan::default(), 1);
        trial.warm(&past, 0);
        trial.begin_step(0, 0, &Plan::default());
        trial.observe(&Cohort {
            at_ms: 10,
            weight: 0.1,
            baseline: ArmCounts {
                latency_us: Some(&past),
                ..ArmCounts::of(2_100, 0)
            },
            canary: *canary,
        });
        match trial.finding(20) {
            Finding::RollBack { objective, detail } => (objective, detail),
            finding => panic!("{finding:?}"),
        }
    };
    let slow = ArmCounts {
        latency_us: Some(&[(2_000, 100), (90_000, 133)]),
        ..ArmCounts::of(233, 0)
    };
    let (objective, detail) = rollback_of(&slow);
    assert_eq!(objective, "latency");
    assert!(detail.contains("requests took more than"), "{detail}");
    assert!(detail.contains("57.1 % of 233"), "{detail}");
    assert!(detail.contains("of 2100"), "{detail}");
    let failing = ArmCounts {
        latency_us: Some(&[]),
        ..ArmCounts::of(233, 233)
    };
    let (objective, detail) = rollback_of(&failing);
    assert_eq!(objective, "error_rate");
    assert!(
        detail.contains("233 of 233 requests failed on the canary"),
        "{detail}"
    );
}

#[test]
fn budget_is_spent_by_the_tripwire_only_and_never_falls() {
    let mut trial = Trial::new(&Plan::default(), 1);
    trial.begin_step(0, 0, &Plan::default());
    trial.observe(&Cohort {
        at_ms: 10,
        weight: 0.01,
        baseline: ArmCounts::of(990, 0),
        canary: ArmCounts::of(10, 3),
    });
    assert_eq!((trial.budget().spent, trial.allowance()), (0, 23));
    trial.set_spent(5);
    trial.set_spent(2);
    assert_eq!((trial.budget().spent, trial.allowance()), (5, 18));
    trial.set_spent(23);
    let Finding::RollBack { objective, detail } = trial.finding(20) else {
        panic!()
    };
    assert_eq!(objective, "budget");
    assert!(
        detail.contains("users have seen 23 failures of the canary: the budget of 20"),
        "{detail}"
    );
}

#[test]
fn too_little_traffic_holds_the_release() {
    let plan = plan(json!({ "steps": [5], "bake": "1s", "max_duration": "10s" }));
    let mut trial = Trial::new(&plan, 1);
    trial.begin_step(0, 0, &plan);
    trial.observe(&Cohort {
        at_ms: 10,
        weight: 0.05,
        baseline: ArmCounts::of(40, 0),
        canary: ArmCounts::of(2, 0),
    });
    assert_eq!(trial.finding(9_999), Finding::Continue);
    assert_eq!(
        trial.finding(10_000),
        Finding::Hold(crate::analysis::WaitReason::TooLittleTraffic)
    );
}

#[test]
fn objectives_have_stable_flat_fields() {
    let plan = plan(json!({ "objectives": [
        { "error_rate": {} }, { "latency": {} },
        { "slo": { "latency": { "quantile": 0.99, "below": "300ms" } } }
    ] }));
    let mut trial = Trial::new(&plan, 1);
    let history: Vec<(u64, u64)> = (1..100).map(|i| (i * 1_000, 50)).collect();
    trial.warm(&history, 0);
    trial.begin_step(0, 0, &plan);
    for tick in 1..50 {
        let (canary, baseline) = ([(400_000, 9)], [(20_000, 990)]);
        trial.observe(&Cohort {
            at_ms: tick * 10,
            weight: 0.01,
            canary: ArmCounts {
                latency_us: Some(&canary),
                ..ArmCounts::of(10, 1)
            },
            baseline: ArmCounts {
                latency_us: Some(&baseline),
                ..ArmCounts::of(991, 1)
            },
        });
    }
    let shown = trial.objectives();
    let names: Vec<&str> = shown
        .iter()
        .map(|one| one["objective"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["error_rate", "latency", "slo"]);
    for one in &shown {
        for key in [
            "margins",
            "share",
            "log_e",
            "e_value",
            "log_limit",
            "limit",
            "canary",
            "baseline",
        ] {
            assert!(!one[key].is_null(), "{key} in {one}");
        }
        assert_eq!(one["canary"]["requests"], 490);
    }
    let [errors, latency, slo] = &shown[..] else {
        panic!()
    };
    assert_eq!(errors["margins"]["ratio"], 1.1);
    assert_eq!(errors["canary"]["failures"], 49);
    assert!((errors["estimate"].as_f64().unwrap() - (0.1 - 1.1 / 991.0)).abs() < 1e-9);
    assert!(errors["confidence"]["lower"].as_f64().unwrap() > 0.0);
    assert!(errors["requests_to_advance"].is_u64() && errors["advance_log_e"].is_number());
    // The budgets have half of alpha, and each of two objectives has half of the rest.
    let limit = 1.0 / (1e-3 / 2.0 / 2.0);
    assert!(
        (errors["limit"].as_f64().unwrap() / limit - 1.0).abs() < 1e-9,
        "{errors}"
    );
    assert_eq!(latency["bins"].as_array().unwrap().len(), 8);
    assert_eq!(latency["margins"]["at_least"], "1ms");
    assert_eq!(
        (slo["share"].as_f64(), slo["advance_log_e"].is_null()),
        (Some(1.0), true)
    );
    assert_eq!(
        slo["canary"]["failures"], 490,
        "all were slower than 300 ms"
    );
}

#[test]
fn exhausted_rescued_budget_reports_written_off_failures() {
    let plan = plan(json!({
        "steps": [10], "bake": "1s", "rescued_budget": 5, "objectives": [{ "error_rate": {} }],
    }));
    let mut trial = Trial::new(&plan, 1);
    trial.set_written_off(0, 12);
    trial.set_failed(15);
    let Finding::RollBack { objective, detail } = trial.finding(0) else {
        unreachable!("not exhausted");
    };
    assert_eq!(objective, "rescued_budget");
    let wanted = "3 requests of the canary failed, whether or not users saw it, and 12 more are \
                  counted because a killed process";
    assert!(detail.starts_with(wanted), "{detail}");
}

//! The state machine, rule by rule.

use serde_json::json;

use super::super::{Command, Direction, Finding, Illegal, Input, ReleaseAction};
use super::{Driver, HOUR, MONDAY_9, SECOND, at, begin, command, plan, quick, tripped};
use crate::analysis::WaitReason;
use crate::model::api::Phase;

fn bad() -> Finding {
    Finding::RollBack {
        objective: "error_rate",
        detail: "9 of 10 failed".into(),
    }
}

#[test]
fn good_canary_is_promoted_through_all_steps() {
    let mut release = Driver::new(json!({ "steps": [5, 50], "bake": "1s" }));
    release.expect("pending", 0.0, None);
    assert_eq!(
        release.send(&Input::Tick).unwrap().direction,
        Direction::Level
    );
    release.expect("preflight", 0.0, None);
    let first = release.send(&Input::Preflight(Ok(()))).unwrap();
    assert_eq!(
        (first.action, first.direction),
        ("release_advanced", Direction::Away)
    );
    release.expect("progressing", 5.0, None);
    assert_eq!(release.send(&Input::Verdict(&Finding::Continue)), None);
    assert_eq!(release.send(&Input::Tick), None);
    release.advance();
    release.expect("progressing", 50.0, None);
    assert_eq!(release.release.step_number(), 2);
    assert_eq!(release.advance().unwrap().action, "release_baking");
    release.expect("baking", 100.0, None);
    let last = release.advance().unwrap();
    assert_eq!(
        (last.action, last.direction),
        ("release_promoted", Direction::Level)
    );
    release.expect("promoted", 100.0, None);
    let outcome = release.release.outcome.as_ref().unwrap();
    assert_eq!(
        (outcome.verdict.as_str(), &outcome.objective),
        ("promoted", &None)
    );
    assert_eq!(release.release.ended_us, Some(MONDAY_9));
}

#[test]
fn last_step_promotes_without_a_final_bake() {
    let mut release = Driver::started(
        json!({ "steps": [5], "bake": "1s", "final_bake": "0s", "min_requests": 0 }),
    );
    let last = release.advance().unwrap();
    assert_eq!(
        (last.action, last.direction),
        ("release_promoted", Direction::Away)
    );
    release.expect("promoted", 100.0, None);
    assert_eq!(release.release.step_number(), 2);
}

#[test]
fn rollback_works_in_every_phase() {
    let frozen = json!({
        "steps": [5, { "weight": 50, "gate": "qa" }], "gate": "board",
        "freeze": ["Mon 00:00 - Mon 23:00"],
    });
    let inputs = [
        (Input::Verdict(&bad()), "error_rate"),
        (tripped(23, 20), "budget"),
        (
            Input::Unhealthy {
                detail: "no healthy endpoint",
            },
            "health",
        ),
        (
            Input::Command(command(ReleaseAction::RollBack, "dan")),
            "operator",
        ),
    ];
    for (input, objective) in &inputs {
        for mut release in in_all_phases(&frozen) {
            let phase = release.release.phase;
            let end = release.send(input).unwrap();
            assert_eq!(end.action, "release_rolled_back");
            release.expect("rolled_back", 0.0, None);
            assert_eq!(
                release
                    .release
                    .outcome
                    .as_ref()
                    .unwrap()
                    .objective
                    .as_deref(),
                Some(*objective)
            );
            assert_eq!(end.direction, Direction::Towards, "{phase}");
        }
    }
}

/// The same release in each phase before its end, paused and not paused.
fn in_all_phases(value: &serde_json::Value) -> Vec<Driver> {
    let mut all = Vec::new();
    for (phase, step) in [
        (Phase::Pending, None),
        (Phase::Preflight, None),
        (Phase::Progressing, Some(0)),
        (Phase::Waiting, Some(1)),
        (Phase::Baking, Some(2)),
    ] {
        for paused in [false, true] {
            let mut release = Driver::new(value.clone());
            release.release.phase = phase;
            release.release.step = step;
            if paused {
                release.ask(ReleaseAction::Pause, "bob").unwrap();
            }
            all.push(release);
        }
    }
    all
}

#[test]
fn ended_release_accepts_no_input() {
    for end in [ReleaseAction::RollBack, ReleaseAction::Cancel] {
        let mut release = Driver::started(quick());
        release.ask(end, "bob").unwrap();
        let ended = release.release.clone();
        for input in [
            Input::Tick,
            Input::Verdict(&Finding::Advance),
            Input::Verdict(&bad()),
            Input::Preflight(Ok(())),
            tripped(1, 0),
            Input::Unhealthy { detail: "" },
        ] {
            assert_eq!(release.send(&input), None);
        }
        for verb in [
            ReleaseAction::Pause,
            ReleaseAction::Resume,
            ReleaseAction::Approve,
            ReleaseAction::Promote,
            ReleaseAction::RollBack,
            ReleaseAction::Cancel,
        ] {
            let refused = release.ask(verb, "bob").unwrap_err().to_string();
            assert!(
                refused.contains(&format!("shop-12 is {}", ended.phase)),
                "{refused}"
            );
        }
        assert_eq!(release.release, ended);
        release.expect(ended.phase.as_str(), 0.0, None);
    }
}

#[test]
fn failed_preflight_rolls_back_before_the_first_step() {
    let mut release = Driver::new(quick());
    release.send(&Input::Tick);
    release.ask(ReleaseAction::Pause, "bob").unwrap();
    release.send(&Input::Preflight(Err("503 from /ready")));
    release.expect("rolled_back", 0.0, None);
    let outcome = release.release.outcome.as_ref().unwrap();
    assert_eq!(
        (outcome.objective.as_deref(), outcome.reason.as_str()),
        (Some("preflight"), "503 from /ready")
    );
}

#[test]
fn pause_blocks_advancing_and_is_reported() {
    let mut release = Driver::started(quick());
    assert_eq!(
        release
            .ask(ReleaseAction::Pause, "bob")
            .unwrap()
            .unwrap()
            .action,
        "release_paused"
    );
    assert_eq!(release.ask(ReleaseAction::Pause, "bob"), Ok(None));
    release.expect("progressing", 5.0, Some("resume"));
    assert_eq!(release.advance().unwrap().action, "release_waiting");
    assert_eq!(release.advance(), None);
    release.expect("waiting", 5.0, Some("resume"));
    let waiting = release.release.waiting_for(at(MONDAY_9)).unwrap();
    assert_eq!(waiting.detail, "paused by bob: because");
    release.ask(ReleaseAction::Resume, "bob").unwrap();
    release.expect("waiting", 5.0, None);
    release.advance();
    release.expect("progressing", 50.0, None);
    let refused = release
        .ask(ReleaseAction::Resume, "bob")
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains(
            "progressing at step 2 of 3 (50%); possible now: pause, promote, rollback, cancel"
        ),
        "{refused}"
    );
}

#[test]
fn pause_during_preflight_repeats_it_after_resume() {
    let mut release = Driver::new(quick());
    release.send(&Input::Tick);
    release.ask(ReleaseAction::Pause, "bob").unwrap();
    release.expect("preflight", 0.0, Some("resume"));
    release.send(&Input::Preflight(Ok(())));
    release.expect("pending", 0.0, Some("resume"));
    assert_eq!(release.send(&Input::Tick), None);
    release.ask(ReleaseAction::Resume, "bob").unwrap();
    release.send(&Input::Tick);
    release.expect("preflight", 0.0, None);
}

#[test]
fn release_starts_at_its_scheduled_time() {
    let mut start = begin(plan(quick()));
    start.start_at_us = Some(MONDAY_9 + HOUR);
    let mut release = Driver::of(start);
    assert_eq!(release.send(&Input::Tick), None);
    release.expect("pending", 0.0, Some("schedule"));
    let until = release.release.waiting_for(at(MONDAY_9)).unwrap().until;
    assert_eq!(until.as_deref(), Some("2026-11-23T10:00:00Z"));
    release.now_us += HOUR;
    assert!(release.send(&Input::Tick).is_some());
}

#[test]
fn freeze_blocks_start_and_advance() {
    let value = json!({
        "steps": [5, 50], "bake": "0s",
        "freeze": ["Mon 09:00 - Mon 10:00", "Mon 11:00 - Mon 12:00"],
    });
    let mut release = Driver::new(value);
    assert_eq!(release.send(&Input::Tick), None);
    release.expect("pending", 0.0, Some("freeze"));
    release.now_us += HOUR;
    release.send(&Input::Tick);
    release.send(&Input::Preflight(Ok(())));
    release.now_us += HOUR;
    release.advance();
    release.expect("waiting", 5.0, Some("freeze"));
    let refused = release
        .ask(ReleaseAction::Promote, "bob")
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("frozen by `Mon 11:00 - Mon 12:00` until 2026-11-23T12:00:00Z"),
        "{refused}"
    );
    release.now_us += HOUR;
    release.expect("waiting", 5.0, None);
    release.advance();
    release.expect("progressing", 50.0, None);
}

#[test]
fn freeze_override_needs_permission_and_reason() {
    let value = json!({ "steps": [5, 50], "bake": "1s", "freeze": ["Mon 09:00 - Mon 18:00"] });
    let mut release = Driver::new(value);
    let asked = Command {
        override_freeze: true,
        ..command(ReleaseAction::Resume, "bob")
    };
    assert!(matches!(
        release.try_send(&Input::Command(asked)),
        Err(Illegal::Person(_))
    ));
    let mute = Command {
        may_override: true,
        reason: Some(" "),
        ..asked
    };
    assert!(matches!(
        release.try_send(&Input::Command(mute)),
        Err(Illegal::Unfit(_))
    ));
    let right = Command {
        may_override: true,
        ..asked
    };
    let result = release.send(&Input::Command(right)).unwrap().detail;
    assert_eq!(
        result,
        "resumed by bob: because; freeze windows are overridden"
    );
    release.expect("pending", 0.0, None);
    release.send(&Input::Tick);
    release.send(&Input::Preflight(Ok(())));
    release.advance();
    release.expect("progressing", 50.0, None);

    let mut other = Driver::started(
        json!({ "steps": [5, 50], "bake": "1s", "freeze": ["Mon 10:00 - Mon 18:00"] }),
    );
    other.now_us += HOUR;
    let promote = Command {
        verb: ReleaseAction::Promote,
        ..right
    };
    assert_eq!(
        other.send(&Input::Command(promote)).unwrap().direction,
        Direction::Away
    );
    other.expect("baking", 100.0, None);
    // A release at 100 percent ends regardless of freezes.
    other.release.override_freeze = false;
    other.advance();
    other.expect("promoted", 100.0, None);
}

#[test]
fn gate_counts_distinct_unexpired_approvals() {
    let gate =
        json!({ "name": "qa", "approvals": 2, "by": ["ann", "bob", "cas"], "expires": "1h" });
    let mut release =
        Driver::started(json!({ "steps": [{ "weight": 5, "gate": gate }, 50], "bake": "0s" }));
    release.advance();
    release.expect("waiting", 5.0, Some("gate"));
    // The starter does not count among two approvals, and dan is not on the list.
    assert!(matches!(
        release.ask(ReleaseAction::Approve, "ann"),
        Err(Illegal::Person(_))
    ));
    assert!(matches!(
        release.ask(ReleaseAction::Approve, "dan"),
        Err(Illegal::Person(_))
    ));
    release.ask(ReleaseAction::Approve, "bob").unwrap();
    release.ask(ReleaseAction::Approve, "bob").unwrap();
    assert_eq!(release.release.approvals().len(), 1);
    assert_eq!(release.advance(), None);
    let refused = release
        .ask(ReleaseAction::Promote, "bob")
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("gate `qa` has 1 of 2 approvals by ann, bob, cas"),
        "{refused}"
    );
    // Bob's approval has expired when cas approves.
    release.now_us += HOUR + SECOND;
    release.ask(ReleaseAction::Approve, "cas").unwrap();
    assert_eq!(release.advance(), None);
    release.expect("waiting", 5.0, Some("gate"));
    release.ask(ReleaseAction::Approve, "bob").unwrap();
    release.expect("waiting", 5.0, None);
    release.advance();
    release.expect("progressing", 50.0, None);
    assert!(
        matches!(
            release.ask(ReleaseAction::Approve, "bob"),
            Err(Illegal::Now(_))
        ),
        "no gate is ahead"
    );
}

#[test]
fn start_gate_blocks_the_first_step() {
    let mut release =
        Driver::new(json!({ "steps": [5, { "weight": 50, "gate": "late" }], "gate": "board" }));
    assert_eq!(release.send(&Input::Tick), None);
    release.expect("pending", 0.0, Some("gate"));
    // One approval suffices, and it may be the starter's.
    let result = release.ask(ReleaseAction::Approve, "ann").unwrap().unwrap();
    assert_eq!(
        (result.action, result.detail.as_str()),
        ("release_approved", "gate `board` approved by ann: because")
    );
    assert!(release.send(&Input::Tick).is_some());
    release.send(&Input::Preflight(Ok(())));
    // The next gate is at a later step, so it must be named.
    let refused = release
        .ask(ReleaseAction::Approve, "ann")
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("name one of the gates ahead: `late`"),
        "{refused}"
    );
    let named = Command {
        gate: Some("late"),
        ..command(ReleaseAction::Approve, "ann")
    };
    assert!(release.send(&Input::Command(named)).is_some());
    let unknown = Command {
        gate: Some("board"),
        ..named
    };
    assert!(
        matches!(
            release.try_send(&Input::Command(unknown)),
            Err(Illegal::Now(_))
        ),
        "it is passed"
    );
    release.ask(ReleaseAction::Promote, "bob").unwrap();
    release.expect("baking", 100.0, None);
}

#[test]
fn gate_at_full_weight_blocks_promotion() {
    let plan = json!({ "steps": [5, { "weight": 100, "gate": "sign-off" }], "bake": "0s" });
    let mut release = Driver::started(plan);
    release.advance();
    release.expect("baking", 100.0, None);
    release.advance();
    release.expect("waiting", 100.0, Some("gate"));
    release.ask(ReleaseAction::Approve, "ann").unwrap();
    release.advance();
    release.expect("promoted", 100.0, None);
}

#[test]
fn resume_continues_past_a_hold_of_the_judge() {
    for (reason, kind) in [
        (WaitReason::TooLittleTraffic, "too_little_traffic"),
        (WaitReason::Inconclusive, "inconclusive"),
        (WaitReason::Split, "split"),
        (WaitReason::Slo, "slo"),
    ] {
        let mut release = Driver::started(quick());
        release.send(&Input::Verdict(&Finding::Hold(reason)));
        release.expect("waiting", 5.0, Some(kind));
        assert_eq!(release.send(&Input::Verdict(&Finding::Hold(reason))), None);
        release.ask(ReleaseAction::Resume, "bob").unwrap();
        release.expect("progressing", 50.0, None);
        // It continues by itself when the judge changes its verdict, either way.
        release.send(&Input::Verdict(&Finding::Hold(reason)));
        release.send(&Input::Verdict(&Finding::Continue));
        release.expect("progressing", 50.0, None);
        release.send(&Input::Verdict(&Finding::Hold(reason)));
        release.advance();
        assert_eq!(release.release.weight().percent(), 100.0);
    }
}

#[test]
fn resume_opens_no_gate_and_overrides_no_freeze() {
    let mut release = Driver::started(json!({
        "steps": [{ "weight": 5, "gate": "qa" }, 50], "freeze": ["Mon 10:00 - Mon 11:00"],
    }));
    release.now_us += HOUR;
    release.send(&Input::Verdict(&Finding::Hold(WaitReason::Inconclusive)));
    let refused = release.ask(ReleaseAction::Resume, "bob").unwrap_err();
    let refused = refused.to_string();
    assert!(
        refused.contains("gate `qa` has 0 of 1 approvals"),
        "{refused}"
    );
    release.ask(ReleaseAction::Approve, "bob").unwrap();
    let refused = release
        .ask(ReleaseAction::Resume, "bob")
        .unwrap_err()
        .to_string();
    assert!(refused.contains("frozen by"), "{refused}");
    release.now_us += HOUR;
    release.ask(ReleaseAction::Resume, "bob").unwrap();
    release.expect("progressing", 50.0, None);
}

#[test]
fn passed_step_continues_when_evidence_becomes_insufficient() {
    let mut release = Driver::started(json!({ "steps": [{ "weight": 5, "gate": "qa" }, 50] }));
    release.advance();
    assert_eq!(
        release.send(&Input::Verdict(&Finding::Continue)),
        None,
        "the gate is waited for meanwhile"
    );
    release.ask(ReleaseAction::Approve, "bob").unwrap();
    release.send(&Input::Verdict(&Finding::Continue));
    release.expect("progressing", 5.0, None);
}

#[test]
fn promote_goes_to_full_weight_or_is_refused() {
    let mut release = Driver::new(json!({ "steps": [5, 50], "bake": "1s" }));
    let refused = release
        .ask(ReleaseAction::Promote, "bob")
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains(
            "promote is not possible: release shop-12 is pending; possible now: pause, rollback"
        ),
        "{refused}"
    );
    release.send(&Input::Tick);
    assert!(release.ask(ReleaseAction::Promote, "bob").is_err());
    release.send(&Input::Preflight(Ok(())));
    release.ask(ReleaseAction::Pause, "bob").unwrap();
    release.ask(ReleaseAction::Promote, "bob").unwrap();
    release.expect("baking", 100.0, None);
    assert_eq!(release.release.displayed_outcome(), None);
    let mut baked = Driver {
        release: release.release.clone(),
        now_us: release.now_us,
    };
    baked.advance();
    baked.expect("promoted", 100.0, None);
    let result = baked.release.displayed_outcome().unwrap().reason;
    let recorded = baked.release.outcome.unwrap().reason;
    assert_eq!(result, format!("promoted by bob: because; {recorded}"));
    release.ask(ReleaseAction::Promote, "bob").unwrap();
    release.expect("promoted", 100.0, None);
    assert_eq!(
        release.release.displayed_outcome().unwrap().reason,
        "promoted by bob: because"
    );
}

#[test]
fn fields_of_other_verbs_are_refused_except_for_rollback() {
    let mut release = Driver::started(quick());
    let with_gate = |verb| Command {
        gate: Some("qa"),
        ..command(verb, "bob")
    };
    assert!(matches!(
        release.try_send(&Input::Command(with_gate(ReleaseAction::Promote))),
        Err(Illegal::Unfit(_))
    ));
    assert!(
        release
            .try_send(&Input::Command(with_gate(ReleaseAction::RollBack)))
            .is_ok()
    );
    release.expect("rolled_back", 0.0, None);
}

#[test]
fn phase_times_do_not_decrease_when_the_clock_is_set_back() {
    let mut release = Driver::started(quick());
    release.now_us -= 24 * HOUR;
    release.advance();
    release.expect("progressing", 50.0, None);
    assert_eq!(release.release.since_us, MONDAY_9);
    release.ask(ReleaseAction::RollBack, "bob").unwrap();
    assert_eq!(release.release.ended_us, Some(MONDAY_9));
}

#[test]
fn fast_follow_starts_at_a_later_step() {
    let mut start = begin(plan(json!({ "steps": [1, 5, 50] })));
    start.first_step = 2;
    let mut release = Driver::of(start);
    release.send(&Input::Tick);
    release.send(&Input::Preflight(Ok(())));
    release.expect("progressing", 50.0, None);
    assert_eq!(release.release.step(), Some(2));
    let mut plan = plan(json!({ "steps": [1], "fast_follow": { "within": "1h", "from_step": 1 } }));
    plan.fast_follow.as_mut().unwrap().from_step = 9;
    assert_eq!(
        plan.first_step(Some(std::time::Duration::ZERO)),
        1,
        "at the last at most"
    );
}

#[test]
fn refusal_during_a_freeze_names_the_override() {
    let mut release = Driver::new(json!({ "steps": [5, 50], "freeze": ["Mon 08:00 - Mon 18:00"] }));
    assert_eq!(release.send(&Input::Tick), None);
    for verb in [ReleaseAction::Promote, ReleaseAction::Resume] {
        let refused = release.ask(verb, "bob").unwrap_err().to_string();
        for text in [
            "is pending (frozen by `Mon 08:00 - Mon 18:00",
            "override_freeze",
            "the role admin",
        ] {
            assert!(refused.contains(text), "{text}: {refused}");
        }
    }
    let overriding = Command {
        override_freeze: true,
        may_override: true,
        ..command(ReleaseAction::Resume, "bob")
    };
    assert!(release.send(&Input::Command(overriding)).is_some());
    assert_eq!(
        release.send(&Input::Tick).unwrap().action,
        "release_preflight"
    );
}

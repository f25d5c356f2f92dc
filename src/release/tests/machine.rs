//! The state machine, rule by rule.

use serde_json::json;

use super::super::{Direction, Finding, Illegal, Input, ReleaseAction, ReleaseCommand};
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
fn a_good_canary_goes_all_the_way() {
    let mut release = Driver::new(json!({ "steps": [5, 50], "bake": "1s" }));
    release.expect("pending", 0.0, None);
    assert_eq!(
        release.tell(&Input::Tick).unwrap().direction,
        Direction::Level
    );
    release.expect("preflight", 0.0, None);
    let first = release.tell(&Input::Preflight(Ok(()))).unwrap();
    assert_eq!(
        (first.action, first.direction),
        ("release_advanced", Direction::Away)
    );
    release.expect("progressing", 5.0, None);
    assert_eq!(release.tell(&Input::Verdict(&Finding::Continue)), None);
    assert_eq!(release.tell(&Input::Tick), None);
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
fn without_a_final_bake_the_last_step_leads_to_the_end() {
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
fn the_brakes_work_in_every_phase_and_against_everything() {
    let frozen = json!({ "steps": [5, { "weight": 50, "gate": "qa" }], "gate": "board", "freeze": ["Mon 00:00 - Mon 23:00"] });
    let inputs = [
        (Input::Verdict(&bad()), "error_rate"),
        (tripped(23, 20), "budget"),
        (
            Input::Unhealthy {
                detail: "no endpoint answers",
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
            let end = release.tell(input).unwrap();
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

/// The same release in each phase before its end, and paused in each.
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
fn nothing_leads_away_from_the_end() {
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
            assert_eq!(release.tell(&input), None);
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
fn a_preflight_that_fails_is_a_rollback_before_the_first_user() {
    let mut release = Driver::new(quick());
    release.tell(&Input::Tick);
    release.ask(ReleaseAction::Pause, "bob").unwrap();
    release.tell(&Input::Preflight(Err("503 from /ready")));
    release.expect("rolled_back", 0.0, None);
    let outcome = release.release.outcome.as_ref().unwrap();
    assert_eq!(
        (outcome.objective.as_deref(), outcome.reason.as_str()),
        (Some("preflight"), "503 from /ready")
    );
}

#[test]
fn a_pause_stops_the_way_forward_and_is_told() {
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
fn a_pause_during_preflight_asks_again_later() {
    let mut release = Driver::new(quick());
    release.tell(&Input::Tick);
    release.ask(ReleaseAction::Pause, "bob").unwrap();
    release.expect("preflight", 0.0, Some("resume"));
    release.tell(&Input::Preflight(Ok(())));
    release.expect("pending", 0.0, Some("resume"));
    assert_eq!(release.tell(&Input::Tick), None);
    release.ask(ReleaseAction::Resume, "bob").unwrap();
    release.tell(&Input::Tick);
    release.expect("preflight", 0.0, None);
}

#[test]
fn it_begins_at_its_time() {
    let mut start = begin(plan(quick()));
    start.start_at_us = Some(MONDAY_9 + HOUR);
    let mut release = Driver::of(start);
    assert_eq!(release.tell(&Input::Tick), None);
    release.expect("pending", 0.0, Some("schedule"));
    let until = release.release.waiting_for(at(MONDAY_9)).unwrap().until;
    assert_eq!(until.as_deref(), Some("2026-11-23T10:00:00Z"));
    release.now_us += HOUR;
    assert!(release.tell(&Input::Tick).is_some());
}

#[test]
fn a_freeze_keeps_releases_from_starting_and_advancing() {
    let value = json!({ "steps": [5, 50], "bake": "0s", "freeze": ["Mon 09:00 - Mon 10:00", "Mon 11:00 - Mon 12:00"] });
    let mut release = Driver::new(value);
    assert_eq!(release.tell(&Input::Tick), None);
    release.expect("pending", 0.0, Some("freeze"));
    release.now_us += HOUR;
    release.tell(&Input::Tick);
    release.tell(&Input::Preflight(Ok(())));
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
fn a_freeze_is_overridden_by_who_may_and_with_a_reason() {
    let value = json!({ "steps": [5, 50], "bake": "1s", "freeze": ["Mon 09:00 - Mon 18:00"] });
    let mut release = Driver::new(value);
    let asked = ReleaseCommand {
        override_freeze: true,
        ..command(ReleaseAction::Resume, "bob")
    };
    assert!(matches!(
        release.try_tell(&Input::Command(asked)),
        Err(Illegal::Person(_))
    ));
    let mute = ReleaseCommand {
        may_override: true,
        reason: Some(" "),
        ..asked
    };
    assert!(matches!(
        release.try_tell(&Input::Command(mute)),
        Err(Illegal::Unfit(_))
    ));
    let right = ReleaseCommand {
        may_override: true,
        ..asked
    };
    let told = release.tell(&Input::Command(right)).unwrap().detail;
    assert_eq!(
        told,
        "resumed by bob: because; freeze windows are overridden"
    );
    release.expect("pending", 0.0, None);
    release.tell(&Input::Tick);
    release.tell(&Input::Preflight(Ok(())));
    release.advance();
    release.expect("progressing", 50.0, None);

    let mut other = Driver::started(
        json!({ "steps": [5, 50], "bake": "1s", "freeze": ["Mon 10:00 - Mon 18:00"] }),
    );
    other.now_us += HOUR;
    let promote = ReleaseCommand {
        verb: ReleaseAction::Promote,
        ..right
    };
    assert_eq!(
        other.tell(&Input::Command(promote)).unwrap().direction,
        Direction::Away
    );
    other.expect("baking", 100.0, None);
    // What is at 100 percent ends there, freeze or not.
    other.release.override_freeze = false;
    other.advance();
    other.expect("promoted", 100.0, None);
}

#[test]
fn a_gate_counts_people_and_its_own_step_is_left_last() {
    let gate =
        json!({ "name": "qa", "approvals": 2, "by": ["ann", "bob", "cas"], "expires": "1h" });
    let mut release =
        Driver::started(json!({ "steps": [{ "weight": 5, "gate": gate }, 50], "bake": "0s" }));
    release.advance();
    release.expect("waiting", 5.0, Some("gate"));
    // Who started it is not one of two, and dan is not on the list.
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
    // Bob's word has run out when cas gives hers.
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
fn a_gate_of_the_plan_is_asked_before_the_first_step() {
    let mut release =
        Driver::new(json!({ "steps": [5, { "weight": 50, "gate": "late" }], "gate": "board" }));
    assert_eq!(release.tell(&Input::Tick), None);
    release.expect("pending", 0.0, Some("gate"));
    // One voice suffices, and it may be the starter's.
    let told = release.ask(ReleaseAction::Approve, "ann").unwrap().unwrap();
    assert_eq!(
        (told.action, told.detail.as_str()),
        ("release_approved", "gate `board` approved by ann: because")
    );
    assert!(release.tell(&Input::Tick).is_some());
    release.tell(&Input::Preflight(Ok(())));
    // The next gate is not here yet: it must be named.
    let refused = release
        .ask(ReleaseAction::Approve, "ann")
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("name the one that is meant: `late`"),
        "{refused}"
    );
    let named = ReleaseCommand {
        gate: Some("late"),
        ..command(ReleaseAction::Approve, "ann")
    };
    assert!(release.tell(&Input::Command(named)).is_some());
    let unknown = ReleaseCommand {
        gate: Some("board"),
        ..named
    };
    assert!(
        matches!(
            release.try_tell(&Input::Command(unknown)),
            Err(Illegal::Now(_))
        ),
        "it is passed"
    );
    release.ask(ReleaseAction::Promote, "bob").unwrap();
    release.expect("baking", 100.0, None);
}

#[test]
fn a_gate_at_full_weight_is_asked_before_the_end() {
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
fn what_the_judge_cannot_say_a_person_may() {
    for (reason, kind) in [
        (WaitReason::TooLittleTraffic, "too_little_traffic"),
        (WaitReason::Inconclusive, "inconclusive"),
        (WaitReason::Split, "split"),
        (WaitReason::Slo, "slo"),
    ] {
        let mut release = Driver::started(quick());
        release.tell(&Input::Verdict(&Finding::Hold(reason)));
        release.expect("waiting", 5.0, Some(kind));
        assert_eq!(release.tell(&Input::Verdict(&Finding::Hold(reason))), None);
        release.ask(ReleaseAction::Resume, "bob").unwrap();
        release.expect("progressing", 50.0, None);
        // By itself when the judge changes its mind, either way.
        release.tell(&Input::Verdict(&Finding::Hold(reason)));
        release.tell(&Input::Verdict(&Finding::Continue));
        release.expect("progressing", 50.0, None);
        release.tell(&Input::Verdict(&Finding::Hold(reason)));
        release.advance();
        assert_eq!(release.release.weight().percent(), 100.0);
    }
}

#[test]
fn a_persons_word_opens_no_gate_and_ends_no_freeze() {
    let mut release = Driver::started(
        json!({ "steps": [{ "weight": 5, "gate": "qa" }, 50], "freeze": ["Mon 10:00 - Mon 11:00"] }),
    );
    release.now_us += HOUR;
    release.tell(&Input::Verdict(&Finding::Hold(WaitReason::Inconclusive)));
    let refused = release
        .ask(ReleaseAction::Resume, "bob")
        .unwrap_err()
        .to_string();
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
fn evidence_that_was_enough_and_is_no_longer_does_not_do() {
    let mut release = Driver::started(json!({ "steps": [{ "weight": 5, "gate": "qa" }, 50] }));
    release.advance();
    assert_eq!(
        release.tell(&Input::Verdict(&Finding::Continue)),
        None,
        "the gate is waited for meanwhile"
    );
    release.ask(ReleaseAction::Approve, "bob").unwrap();
    release.tell(&Input::Verdict(&Finding::Continue));
    release.expect("progressing", 5.0, None);
}

#[test]
fn promote_goes_to_the_end_and_says_when_it_cannot() {
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
    release.tell(&Input::Tick);
    assert!(release.ask(ReleaseAction::Promote, "bob").is_err());
    release.tell(&Input::Preflight(Ok(())));
    release.ask(ReleaseAction::Pause, "bob").unwrap();
    release.ask(ReleaseAction::Promote, "bob").unwrap();
    release.expect("baking", 100.0, None);
    assert_eq!(release.release.told_outcome(), None);
    let mut baked = Driver {
        release: release.release.clone(),
        now_us: release.now_us,
    };
    baked.advance();
    baked.expect("promoted", 100.0, None);
    let told = baked.release.told_outcome().unwrap().reason;
    let seen = baked.release.outcome.unwrap().reason;
    assert_eq!(told, format!("promoted by bob: because; {seen}"));
    release.ask(ReleaseAction::Promote, "bob").unwrap();
    release.expect("promoted", 100.0, None);
    assert_eq!(
        release.release.told_outcome().unwrap().reason,
        "promoted by bob: because"
    );
}

#[test]
fn fields_of_other_verbs_are_refused_where_they_matter() {
    let mut release = Driver::started(quick());
    let with_gate = |verb| ReleaseCommand {
        gate: Some("qa"),
        ..command(verb, "bob")
    };
    assert!(matches!(
        release.try_tell(&Input::Command(with_gate(ReleaseAction::Promote))),
        Err(Illegal::Unfit(_))
    ));
    assert!(
        release
            .try_tell(&Input::Command(with_gate(ReleaseAction::RollBack)))
            .is_ok()
    );
    release.expect("rolled_back", 0.0, None);
}

#[test]
fn a_clock_that_is_set_back_takes_no_time_back() {
    let mut release = Driver::started(quick());
    release.now_us -= 24 * HOUR;
    release.advance();
    release.expect("progressing", 50.0, None);
    assert_eq!(release.release.since_us, MONDAY_9);
    release.ask(ReleaseAction::RollBack, "bob").unwrap();
    assert_eq!(release.release.ended_us, Some(MONDAY_9));
}

#[test]
fn a_release_may_begin_at_a_later_step() {
    let mut start = begin(plan(json!({ "steps": [1, 5, 50] })));
    start.first_step = 2;
    let mut release = Driver::of(start);
    release.tell(&Input::Tick);
    release.tell(&Input::Preflight(Ok(())));
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
fn what_is_asked_before_the_end_of_a_freeze_is_told_how_it_can_begin() {
    let mut release = Driver::new(json!({ "steps": [5, 50], "freeze": ["Mon 08:00 - Mon 18:00"] }));
    assert_eq!(release.tell(&Input::Tick), None);
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
    let overriding = ReleaseCommand {
        override_freeze: true,
        may_override: true,
        ..command(ReleaseAction::Resume, "bob")
    };
    assert!(release.tell(&Input::Command(overriding)).is_some());
    assert_eq!(
        release.tell(&Input::Tick).unwrap().action,
        "release_preflight"
    );
}

//! The protections of one plan that another removes.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::release::Plan;

fn configured() -> Value {
    json!({
        "gate": {
            "name": "board", "approvals": 2, "by": ["alice", "bob", "carol"], "expires": "1h",
        },
        "steps": [
            5, { "weight": 25, "gate": "qa" }, 50,
            { "weight": 100, "gate": { "name": "final", "by": ["alice"] } },
        ],
        "freeze": ["Fri 17:00 - Mon 08:00 Europe/Berlin", "22:00 - 06:00"],
        "preflight": {
            "requests": [
                "/ready",
                {
                    "path": "/cart?key=hunter2", "method": "POST",
                    "headers": { "X-Key": "hunter2" },
                },
            ],
            "timeout": "30s",
        },
    })
}

fn read(base: &Value, overlay: &Value) -> Plan {
    Plan::read(base.as_object(), overlay.as_object()).unwrap()
}

/// The protections of the configured plan that `overlay` removes.
fn lost(overlay: &Value) -> Vec<String> {
    let base = configured();
    read(&base, &Value::Null).weakened_by(&read(&base, overlay))
}

#[test]
fn equal_or_stricter_plan_weakens_nothing() {
    let gate = |approvals: usize, by: &[&str], expires: &str| {
        json!({
            "gate": { "name": "board", "approvals": approvals, "by": by, "expires": expires },
        })
    };
    for overlay in [
        Value::Null,
        json!({ "bake": "1s", "budget": 100, "alpha": 0.01, "rescue": "off", "objectives": [] }),
        json!({
            "freeze": ["22:00  -  06:00", "Fri 17:00 - Mon 08:00 Europe/Berlin", "12:00 - 13:00"],
        }),
        gate(3, &["alice", "bob", "carol"], "1h"),
        gate(2, &["alice", "bob"], "1h"),
        gate(2, &["carol", "bob", "alice"], "59m"),
        json!({
            "steps": [
                1, 10,
                {
                    "weight": 25, "hold": "1m",
                    "gate": { "name": "qa", "approvals": 2, "expires": "1h", "by": ["x", "y"] },
                },
                { "weight": 75, "gate": "another" },
                { "weight": 100, "gate": { "name": "final", "by": ["alice"] } },
            ],
        }),
        json!({ "preflight": {
            "requests": [
                "/first", "/ready", "/between",
                {
                    "path": "/cart?key=hunter2", "method": "POST",
                    "headers": { "X-Key": "hunter2" },
                },
                "/last",
            ],
            "timeout": "10s",
        } }),
    ] {
        assert_eq!(lost(&overlay), Vec::<String>::new(), "{overlay}");
    }
}

#[test]
fn removed_freeze_windows_and_step_gates_are_listed() {
    let qa = |weight: f64, gate: Value| {
        json!({
            "steps": [
                { "weight": weight, "gate": gate },
                { "weight": 100, "gate": { "name": "final", "by": ["alice"] } },
            ],
        })
    };
    let qa_is_gone = "the gate `qa` at 25% would be removed";
    for (overlay, expected) in [
        (
            json!({ "freeze": [] }),
            vec![
                "the freeze window `Fri 17:00 - Mon 08:00 Europe/Berlin` would be removed",
                "the freeze window `22:00 - 06:00` would be removed",
            ],
        ),
        (
            json!({ "freeze": ["Fri 17:01 - Mon 08:00 Europe/Berlin", "22:00 - 06:00"] }),
            vec!["the freeze window `Fri 17:00 - Mon 08:00 Europe/Berlin` would be removed"],
        ),
        (
            json!({
                "freeze": ["Fri 17:00 - Mon 08:00 Europe/Berlin", "22:00 - 06:00 Asia/Tokyo"],
            }),
            vec!["the freeze window `22:00 - 06:00` would be removed"],
        ),
        (
            json!({ "steps": [50, 100] }),
            vec![qa_is_gone, "the gate `final` at 100% would be removed"],
        ),
        (
            json!({ "steps": [100] }),
            vec![qa_is_gone, "the gate `final` at 100% would be removed"],
        ),
        (
            json!({ "steps": [5, { "weight": 25, "gate": "qa" }] }),
            vec!["the gate `final` at 100% would be removed"],
        ),
        // A gate at a lower weight sees less evidence.
        (qa(24.99, json!("qa")), vec![qa_is_gone]),
        (qa(50.0, json!("qa")), vec![qa_is_gone]),
        (qa(25.0, json!("QA")), vec![qa_is_gone]),
    ] {
        assert_eq!(lost(&overlay), expected, "{overlay}");
    }
}

#[test]
fn weakened_start_gate_or_preflight_is_listed() {
    let gate = |gate: Value| json!({ "gate": gate });
    for (overlay, expected) in [
        (
            gate(json!("another")),
            vec!["the gate `board` at the start would be removed"],
        ),
        (
            gate(json!("board")),
            vec![
                "the gate `board` at the start would need 1 instead of 2 approvals",
                "the gate `board` at the start could also be approved by anyone with the role \
                 approve",
                "approvals of the gate `board` at the start would count for ever instead of for \
                 3600s",
            ],
        ),
        (
            gate(json!({
                "name": "board", "approvals": 2, "by": ["alice", "otto", "eve"],
                "expires": "2h",
            })),
            vec![
                "the gate `board` at the start could also be approved by otto, eve",
                "approvals of the gate `board` at the start would count for 7200s instead of for \
                 3600s",
            ],
        ),
        (
            json!({ "preflight": {} }),
            vec![
                "the preflight request `GET /ready` would be removed or changed",
                "the preflight request `POST /cart` would be removed or changed",
            ],
        ),
        (
            json!({ "preflight": {
                "requests": [
                    { "path": "/ready", "expect": "200-599" },
                    {
                        "path": "/cart?key=hunter2", "method": "POST",
                        "headers": { "X-Key": "hunter2" },
                    },
                ],
                "timeout": "31s",
            } }),
            vec![
                "the preflight request `GET /ready` would be removed or changed",
                "the preflight could take 31s instead of 30s",
            ],
        ),
        (
            json!({ "preflight": {
                "requests": [
                    {
                        "path": "/cart?key=hunter2", "method": "POST",
                        "headers": { "X-Key": "hunter2" },
                    },
                    "/ready",
                ],
            } }),
            vec!["the preflight request `POST /cart` would be removed or changed"],
        ),
    ] {
        assert_eq!(lost(&overlay), expected, "{overlay}");
    }
}

#[test]
fn shown_plan_redacts_preflight_secrets() {
    let plan = read(&configured(), &Value::Null);
    let shown = Value::Object(plan.to_shown());
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
    let request = &shown["preflight"]["requests"][1];
    assert_eq!(
        (&request["path"], &request["headers"]["x-key"]),
        (&json!("/cart?*"), &json!("*"))
    );
    assert!(
        Value::Object(plan.to_json())
            .to_string()
            .contains("hunter2"),
        "a restart needs it"
    );
}

proptest! {
    #[test]
    fn removing_one_protection_is_always_detected(
        missing in 0_usize..3,
        weights in prop::collection::btree_set(1_u32..100, 1..6),
    ) {
        let steps: Vec<Value> = weights.iter().map(
            |weight| json!({ "weight": weight, "gate": format!("g{weight}") })
        ).collect();
        let base = json!({ "gate": "start", "steps": steps, "freeze": ["22:00 - 06:00"] });
        let mut other: Map<String, Value> = base.as_object().unwrap().clone();
        match missing {
            0 => drop(other.remove("gate")),
            1 => drop(other.remove("freeze")),
            _ => drop(other["steps"][0].as_object_mut().unwrap().remove("gate")),
        }
        let (base, other) = (read(&base, &Value::Null), read(&Value::Object(other), &Value::Null));
        prop_assert_eq!(base.weakened_by(&other).len(), 1);
        prop_assert!(other.weakened_by(&base).is_empty());
        prop_assert!(base.weakened_by(&base).is_empty());
    }
}

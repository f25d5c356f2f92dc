//! Reads a plan, from YAML or from JSON: every field with its bounds, its default and its text.

use http::header::HeaderName;
use serde_json::json;

use super::objectives::objectives;
use super::preflight::preflight;
use super::steps::{gate, steps};
use super::{FastFollow, Plan, Rescue, Step};
use crate::analysis::{Inconclusive, Options};
use crate::document::{Fields, Node, NodeKind, ProblemList, Shape, Type};
use crate::model::Weight;
use crate::release::freeze::FreezeWindow;
use crate::release::gate::Gate;
use crate::release::replay::{self, RunPlan, RunStep};

/// A larger count is taken for a mistake; it fits into the counters of the request path.
pub(super) const COUNT_MAX: u64 = 1_000_000_000;
const FREEZE_MAX: usize = 100;

pub(super) const INCONCLUSIVE: [(&str, Inconclusive); 5] = [
    ("hold", Inconclusive::Hold),
    ("advance", Inconclusive::Advance),
    ("advance_if_no_harm", Inconclusive::Advance),
    ("roll_back", Inconclusive::RollBack),
    ("abort", Inconclusive::RollBack),
];

/// The fields of a plan.
pub(super) fn plan(fields: &mut Fields<'_>) -> Option<Plan> {
    let known = fields.problems().count();
    let mut run = RunPlan::default();
    let mut gated = run.steps.drain(..).map(|step| (step, None)).collect();
    fields.set(
        "steps",
        &mut gated,
        steps(),
        "Weights of the canary, small at first, so that a bad version affects few users; 100 is \
         appended if missing. Numbers or mappings.",
    );
    let (steps, gates): (_, Vec<_>) = gated.into_iter().unzip();
    run.steps = steps;
    objectives_and_budgets(fields, &mut run);
    conditions(fields, &mut run);
    let mut plan = with_gates(completed(run), gates);
    handling(fields, &mut plan);
    protections(fields, &mut plan);
    // What only the whole plan shows is told once its parts are right.
    if fields.problems().count() == known {
        check_whole(&plan, fields);
    }
    Some(plan)
}

/// Adds the implicit defaults: 100 percent at the end, the budgets, and the default objectives.
fn completed(mut plan: RunPlan) -> RunPlan {
    if plan.steps.last().is_none_or(|last| last.weight < 100.0) {
        plan.steps.push(RunStep::at(100.0));
    }
    plan.budget.get_or_insert(replay::BUDGET);
    plan.rescued_budget.get_or_insert(replay::RESCUED_BUDGET);
    plan.options.objectives = plan.options.judged();
    plan
}

/// The plan with these gates and nothing else; an appended step has none.
fn with_gates(decided_by: RunPlan, mut gates: Vec<Option<Gate>>) -> Plan {
    gates.resize_with(decided_by.steps.len(), || None);
    let both = decided_by.steps.iter().zip(decided_by.walk()).zip(gates);
    let steps = both.map(|((step, judged), gate)| Step {
        // Checked before; an invalid weight cannot occur here.
        weight: Weight::from_percent(step.weight).unwrap_or(Weight::FULL),
        gate,
        judged,
    });
    Plan {
        steps: steps.collect(),
        decided_by,
        start_gate: None,
        rescue: Rescue::default(),
        canary_in_flight_max: 256,
        preflight: None,
        freeze: Vec::new(),
        fast_follow: None,
    }
}

impl Default for Plan {
    fn default() -> Self {
        let mut run = RunPlan::default();
        run.final_bake = run.bake;
        with_gates(completed(run), Vec::new())
    }
}

/// What is compared, and what the comparison may cost.
fn objectives_and_budgets(fields: &mut Fields<'_>, run: &mut RunPlan) {
    let options = &mut run.options;
    options.objectives = Options::default().judged();
    fields.set(
        "objectives",
        &mut options.objectives,
        objectives(),
        "Compared with the concurrent baseline; a violation rolls the canary back. At most 16.",
    );
    let count = || Type::count(0..=COUNT_MAX);
    let (mut budget, mut rescued_budget) = (replay::BUDGET, replay::RESCUED_BUDGET);
    fields.set(
        "budget",
        &mut budget,
        count(),
        "Failures that users may see above the baseline's rate, in the whole release.",
    );
    fields.set(
        "rescued_budget",
        &mut rescued_budget,
        count(),
        "The same for all failures of the canary, rescued ones included, at every weight. 0 allows \
         none; it cannot be turned off. At full weight, without a concurrent baseline, both \
         budgets use an upper limit of the baseline's earlier failure rate, so that an outage at \
         full weight may roll back a good version.",
    );
    (run.budget, run.rescued_budget) = (Some(budget), Some(rescued_budget));
    let harm = Type::share("a share above 0 and below 100pp", "pp", is_between);
    fields.set(
        "harm_budget",
        &mut options.harm_budget,
        harm,
        "tolerated, over all requests: small steps need less",
    );
    let probability = || {
        let bounds = json!({ "exclusiveMinimum": 0, "exclusiveMaximum": 1 });
        Type::number("a number between 0 and 1", bounds, is_between)
    };
    fields.set(
        "alpha",
        &mut options.alpha,
        probability(),
        "probability of rolling back an equal version",
    );
    fields.set(
        "beta",
        &mut options.beta,
        probability(),
        "probability of passing a step with too much harm",
    );
    fields.set(
        "min_canary_failures",
        &mut options.min_canary_failures,
        count(),
        "before a rollback for errors: two may have one cause",
    );
    fields.set(
        "min_distinct_clients",
        &mut options.min_distinct_clients,
        count(),
        "the same, counted by client; 0: off",
    );
}

fn is_between(number: f64) -> bool {
    number > 0.0 && number < 1.0
}

/// The conditions of each step.
fn conditions(fields: &mut Fields<'_>, run: &mut RunPlan) {
    fields.set(
        "bake",
        &mut run.bake,
        Type::time(),
        "minimum time at each step",
    );
    run.final_bake = run.bake;
    fields.set(
        "final_bake",
        &mut run.final_bake,
        Type::time(),
        "minimum time at 100 before promotion; by default as `bake`",
    );
    fields.set(
        "min_requests",
        &mut run.min_requests,
        Type::count(0..=COUNT_MAX),
        "on the canary at each step, and at 100 before promotion",
    );
    fields.set(
        "max_duration",
        &mut run.max_duration,
        Type::time(),
        "maximum time at a step without a result; 0s: no limit",
    );
    fields.set(
        "inconclusive",
        &mut run.inconclusive,
        Type::choice(&INCONCLUSIVE),
        "or advance, advance_if_no_harm, roll_back (abort)",
    );
}

/// What becomes of requests to the canary.
fn handling(fields: &mut Fields<'_>, plan: &mut Plan) {
    fields.set(
        "canary_in_flight_max",
        &mut plan.canary_in_flight_max,
        Type::count(1..=1_000_000),
        "further requests go to the baseline",
    );
    fields.set(
        "rescue",
        &mut plan.rescue,
        rescue(),
        "Requests that fail on the canary before the first response byte are retried on the \
         baseline: `off`, `safe` (methods such as GET), or a header to include requests whose \
         client declares them repeatable; with bodies of up to 64 KiB, and 128 KiB for a \
         connection.",
    );
}

fn rescue() -> Type<'static, Rescue> {
    let words = || Shape::Scalar(json!({ "enum": ["off", "safe", false] }));
    let short = Type::new(words, |node, problems| match &node.kind {
        // YAML 1.1 reads a bare `off` as false.
        NodeKind::Bool(false) => Some(Rescue::Off),
        NodeKind::Text(text) if text == "off" => Some(Rescue::Off),
        NodeKind::Text(text) if text == "safe" => Some(Rescue::Safe),
        NodeKind::Missing => None,
        _ => {
            problems.expected(node, "`off`, `safe` or a mapping with `header`");
            None
        }
    });
    let long = Type::object(|fields| {
        let header = Type::parsed(|name| match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Ok(Rescue::Header(name.as_str().to_owned())),
            Err(_) => Err("the name of a header such as `X-Retry-Safe`".into()),
        });
        fields.required(
            "header",
            "the name of a header such as `X-Retry-Safe`",
            header.example("X-Retry-Safe"),
            "and those that carry this header",
        )
    });
    Type::short_or_long(short, long).shown(|_| Some("safe".into()))
}

/// What keeps a release from going on.
fn protections(fields: &mut Fields<'_>, plan: &mut Plan) {
    plan.preflight = fields.read(
        "preflight",
        preflight(),
        "Requests to the canary before the first step; one that fails ends the release before it \
         has begun. By default a TCP connection to each endpoint.",
    );
    plan.start_gate = fields.read(
        "gate",
        gate().example("change-board"),
        "Approvals, which need tokens: here before the first step, in a step before leaving it.",
    );
    let window = Type::new(|| Shape::Scalar(json!({ "type": "string" })), window);
    fields.set(
        "freeze",
        &mut plan.freeze,
        window
            .shown(|window| Some(window.to_string().into()))
            .list(FREEZE_MAX)
            .expecting("a list of windows such as `Fri 17:00 - Mon 08:00 Europe/Berlin`"),
        "Windows in which no release starts or advances: weekly, daily (UTC without a zone), or \
         once, as in [\"Fri 17:00 - Mon 08:00 Europe/Berlin\", \"22:00 - 06:00\", \"2026-12-24 \
         00:00 - 2027-01-02 08:00 Europe/Berlin\"]. They never delay a rollback.",
    );
    plan.fast_follow = fields.read(
        "fast_follow",
        Type::object(fast_follow)
            .named("FastFollow")
            .expecting("a mapping with `within` and `from_step`"),
        "Starts at a later step if the last release was promoted recently; by default at the \
         first.",
    );
}

fn window(node: &Node, problems: &ProblemList) -> Option<FreezeWindow> {
    let text = match &node.kind {
        NodeKind::Missing => return None,
        NodeKind::Text(text) => text,
        _ => {
            let what = "a window such as `Fri 17:00 - Mon 08:00 Europe/Berlin`";
            problems.expected(node, what);
            return None;
        }
    };
    match FreezeWindow::parse(text) {
        Ok(window) => Some(window),
        // The reason may quote a part of the text, which a variable may have put there.
        Err(_) if node.substituted => {
            problems.at(node, format!("{} is not a freeze window", node.quoted()));
            None
        }
        Err(why) => {
            problems.at(node, format!("`{text}` is not a freeze window: {why}"));
            None
        }
    }
}

fn fast_follow(fields: &mut Fields<'_>) -> Option<FastFollow> {
    let within = fields.required(
        "within",
        "a duration such as `1h`",
        Type::time().above_zero().example("1h"),
        "the maximum time since the last promotion",
    );
    let from_step = fields.required(
        "from_step",
        "the number of a step",
        Type::count(1..=COUNT_MAX).example("3"),
        "the first step, counted from 1",
    );
    Some(FastFollow {
        within: within?,
        from_step: from_step?,
    })
}

/// Problems that only the whole plan can show.
fn check_whole(plan: &Plan, fields: &Fields<'_>) {
    let problems = fields.problems();
    let steps = fields.get("steps").unwrap_or(fields.node());
    let mut names: Vec<&str> = Vec::new();
    for gate in plan.gates() {
        if names.contains(&gate.name.as_str()) {
            let message = format!(
                "two gates are named `{}`; gate names must be unique",
                gate.name
            );
            problems.at(steps, message);
        }
        names.push(&gate.name);
    }
    let (Some(follow), Some(node)) = (plan.fast_follow, fields.get("fast_follow")) else {
        return;
    };
    let node = node.get("from_step").unwrap_or(node);
    if follow.from_step > plan.steps.len() {
        problems.at(node, format!("there are {} steps", plan.steps.len()));
        return;
    }
    let skipped = plan.steps.iter().take(follow.from_step - 1);
    if let Some(gate) = skipped.filter_map(|step| step.gate.as_ref()).next() {
        let message = format!(
            "gate `{}` would be skipped; gates cannot be skipped",
            gate.name
        );
        problems.at(node, message);
    }
}

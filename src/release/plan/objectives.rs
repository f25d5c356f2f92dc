//! The objectives of a plan: their fields, with bounds and texts.

use serde_json::{Value, json};

use crate::analysis::{ErrorRateMargin, LatencyMargin, Objective, Slo};
use crate::document::quantity::{write_duration, write_fraction};
use crate::document::{Fields, Node, ProblemList, Type};

const OBJECTIVES_MAX: usize = 16;

/// The objectives; those relative to the baseline at most once each.
pub(super) fn objectives() -> Type<'static, Vec<Objective>> {
    Type::object(objective)
        .named("Objective")
        .expecting("a mapping with one field")
        .shown(shown)
        .list_checked(0, OBJECTIVES_MAX, check)
        .expecting("a list of objectives")
}

/// A default objective as people write it.
fn shown(objective: &Objective) -> Option<Value> {
    match objective {
        Objective::ErrorRate(ErrorRateMargin { ratio, worse_by }) => {
            let worse_by = write_fraction(*worse_by, "pp");
            Some(json!({ "error_rate": { "ratio": ratio, "worse_by": worse_by } }))
        }
        Objective::Latency(LatencyMargin { worse_by, at_least }) => {
            let (worse_by, at_least) = (write_fraction(*worse_by, "%"), write_duration(*at_least));
            Some(json!({ "latency": { "worse_by": worse_by, "at_least": at_least } }))
        }
        Objective::Slo(_) => None,
    }
}

fn check(objectives: &[(&Node, Objective)], node: &Node, problems: &ProblemList) {
    let names = || objectives.iter().map(|(_, objective)| objective);
    for (at, objective) in names().enumerate() {
        let name = objective.name();
        let earlier = names().take(at).filter(|earlier| earlier.name() == name);
        if objective.descriptor().is_relative && earlier.count() == 1 {
            problems.at(node, format!("{name} can be an objective only once"));
        }
    }
}

fn objective(fields: &mut Fields<'_>) -> Option<Objective> {
    let error_rate = fields.read(
        "error_rate",
        Type::object(error_rate).named("ErrorRate"),
        "Fails at most `ratio` times as often as the concurrent baseline, plus `worse_by`; with \
         `sticky`, counted by users.",
    );
    let latency = fields.read(
        "latency",
        Type::object(latency).named("Latency"),
        "Or is no slower than the concurrent baseline, over the whole distribution; a difference \
         below both values is no harm.",
    );
    let slo = fields.read(
        "slo",
        Type::object(slo)
            .named("Slo")
            .expecting("a mapping with one field"),
        "Or stays within a fixed limit, in addition or alone.",
    );
    fields.exactly_one()?;
    error_rate
        .map(Objective::ErrorRate)
        .or(latency.map(Objective::Latency))
        .or(slo.map(Objective::Slo))
}

fn error_rate(fields: &mut Fields<'_>) -> Option<ErrorRateMargin> {
    let mut margin = ErrorRateMargin::default();
    let ratio = Type::number(
        "a number above 0",
        json!({ "exclusiveMinimum": 0 }),
        |ratio| ratio.is_finite() && ratio > 0.0,
    );
    fields.set(
        "ratio",
        &mut margin.ratio,
        ratio,
        "times the baseline's rate",
    );
    let worse_by = Type::share("a share below 100pp", "pp", |share| {
        (0.0..1.0).contains(&share)
    });
    fields.set(
        "worse_by",
        &mut margin.worse_by,
        worse_by,
        "and so much more, in percentage points",
    );
    Some(margin)
}

fn latency(fields: &mut Fields<'_>) -> Option<LatencyMargin> {
    let mut margin = LatencyMargin::default();
    let worse_by = Type::share("a share that is not negative", "%", |share| {
        share.is_finite() && share >= 0.0
    });
    fields.set(
        "worse_by",
        &mut margin.worse_by,
        worse_by,
        "of the baseline's latency",
    );
    fields.set(
        "at_least",
        &mut margin.at_least,
        Type::time(),
        "an absolute amount",
    );
    Some(margin)
}

fn slo(fields: &mut Fields<'_>) -> Option<Slo> {
    let error_rate = fields.read(
        "error_rate",
        Type::object(slo_error_rate).named("SloErrorRate"),
        "at most this share of requests fails",
    );
    let latency = fields.read(
        "latency",
        Type::object(slo_latency).named("SloLatency"),
        "or this quantile of latency is below this time",
    );
    fields.exactly_one()?;
    error_rate.or(latency)
}

fn slo_error_rate(fields: &mut Fields<'_>) -> Option<Slo> {
    let below = fields.required(
        "below",
        "the limit",
        share_within().example("1%"),
        "the limit",
    );
    Some(Slo::ErrorRate { below: below? })
}

fn slo_latency(fields: &mut Fields<'_>) -> Option<Slo> {
    let quantile = fields.required(
        "quantile",
        "a quantile such as 0.99",
        share_within().example("0.99"),
        "such as 0.99",
    );
    let below = fields.required(
        "below",
        "the limit",
        Type::time().example("300ms"),
        "the limit",
    );
    Some(Slo::Latency {
        quantile: quantile?,
        below: below?,
    })
}

/// A share that leaves something on both sides.
fn share_within() -> Type<'static, f64> {
    Type::share("a share above 0% and below 100%", "%", |share| {
        share > 0.0 && share < 1.0
    })
}

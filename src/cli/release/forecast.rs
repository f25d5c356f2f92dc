//! Formats the forecast of a plan.

use crate::cli::table::{Table, count, percent, rate};
use crate::model::api::{Detection, Forecast, StepForecast, WorstCase};

/// Failure rates of the detection columns, with their headings.
const HARMS: [(f64, &str); 3] = [
    (0.01, "DETECTS 1 %"),
    (0.05, "DETECTS 5 %"),
    (1.0, "DETECTS 100 %"),
];

/// The whole forecast.
pub(super) fn text(forecast: &Forecast) -> String {
    let mut table = Table::new(&[
        ">STEP",
        ">WEIGHT",
        ">CANARY",
        "ADVANCES AFTER",
        HARMS[0].1,
        HARMS[1].1,
        HARMS[2].1,
    ]);
    let unit = if forecast.unit.is_some() {
        "users"
    } else {
        "requests"
    };
    for (at, step) in forecast.steps.iter().enumerate() {
        let mut cells = vec![
            (at + 1).to_string(),
            percent(step.weight),
            format!("{:.1}/s", step.canary_requests_per_second),
            after(step, unit),
        ];
        cells.extend(HARMS.iter().map(|(harm, _)| detection(step, *harm, unit)));
        table.row(cells);
    }
    let worst = &forecast.worst_case;
    format!(
        "{}: {:.1} requests per second over the last minute, of which {} fail on the \
         baseline.\n\n{}\nDETECTS n %: typical time until a canary that fails n % of its {unit} \
         is rolled back; budget: only the budget detects it.\nWorst case: users see {} failures \
         beyond the baseline's own rate: {} of the budget, {} by chance, {} in flight.\n",
        forecast.service,
        forecast.requests_per_second,
        rate(forecast.baseline_error_rate, 1),
        table.text(),
        count(worst.total),
        count(worst.budget),
        count(worst.chance),
        count(worst.in_flight),
    ) + &rescued(worst)
}

/// The bound by the rescued budget, if the server reports one.
fn rescued(worst: &WorstCase) -> String {
    if worst.failures == 0 {
        return String::new();
    }
    format!(
        "Whether or not users see them, at most {} requests of the canary fail beyond that rate \
         (rescued_budget {}).\n",
        count(worst.failures),
        count(worst.rescued_budget)
    )
}

fn after(step: &StepForecast, unit: &str) -> String {
    match (step.seconds_to_advance, step.requests_to_advance) {
        (seconds, Some(requests)) => time_and_requests(seconds, requests, unit),
        (_, None) => "not automatically".to_owned(),
    }
}

fn detection(step: &StepForecast, harm: f64, unit: &str) -> String {
    let detection = step
        .detections
        .iter()
        .find(|detection| (detection.error_rate - harm).abs() < 1e-9);
    match detection {
        None => "-".to_owned(),
        // At 100 % there is no concurrent baseline, and only the budget ends the release.
        Some(Detection { requests: None, .. }) if step.weight >= 100.0 => "budget".to_owned(),
        Some(Detection { requests: None, .. }) => "allowed".to_owned(),
        Some(Detection {
            requests: Some(requests),
            seconds,
            ..
        }) => time_and_requests(*seconds, *requests, unit),
    }
}

/// Formats `42 s (1,050 requests)`; without traffic only the requests.
fn time_and_requests(seconds: Option<f64>, requests: u64, unit: &str) -> String {
    let requests = format!("{} {unit}", count(requests));
    match seconds {
        Some(seconds) => format!("{} ({requests})", time(seconds)),
        None => requests,
    }
}

/// Formats an estimated time with few digits.
pub(super) fn time(seconds: f64) -> String {
    match seconds {
        ..10.0 => format!("{seconds:.1} s"),
        ..120.0 => format!("{seconds:.0} s"),
        ..7_200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.0} h", seconds / 3_600.0),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimated_times_have_few_digits() {
        let times = [0.42, 42.4, 600.0, 36_000.0, 864_000.0].map(time);
        assert_eq!(times, ["0.4 s", "42 s", "10 min", "10 h", "10 days"]);
    }
}

//! What the route of a request means for a release: the first assignment decides which arm it
//! counts for; where a later one comes to another, it counts for none.

use std::rc::Rc;

use super::exchange::Exchange;
use super::route::RequestRoute;
use crate::proxy::observe::request_trial::{Drawn, PendingAssignment, RequestTrial, user};
use crate::proxy::worker::state::Worker;
use crate::stats::UpstreamKey;

/// Routes a request by the newest table, and has its exchange take part in the release under way.
pub(crate) fn assign(exchange: &mut Exchange, route: &mut RequestRoute) {
    exchange
        .worker()
        .with_snapshot(|snapshot| route.refresh(snapshot));
    if route.begin() {
        enrol(exchange, route);
    } else if let Some(trial) = &exchange.trial {
        let at = trial.upstream();
        stay(exchange, route, at);
    }
}

fn enrol(exchange: &mut Exchange, route: &mut RequestRoute) {
    let Some(release) = route.release().cloned() else {
        return;
    };
    let client = Rc::clone(&exchange.client);
    let worker: &Worker = &client.worker;
    worker.retries.deposit(&release);
    if route.service().is_baseline_down() {
        // The canary answers whatever is drawn, or nobody does: the draw decides nothing.
        return;
    }
    let Some(drawn) = route.assigned().map(|upstream| upstream.key) else {
        return;
    };
    let request = PendingAssignment {
        drawn,
        user: route.user().unwrap_or_else(|| {
            let address = || client.downstream.peer.ip().to_canonical();
            user(route.service(), route.choice(), address)
        }),
        uploading: exchange
            .upload
            .as_ref()
            .is_some_and(|upload| !upload.is_done()),
    };
    match RequestTrial::draw(worker, route.service(), &release, &request) {
        Drawn::On(trial) => exchange.trial = Some(trial),
        Drawn::Displaced => route.overflow(release),
        Drawn::Aside => {}
    }
}

/// Leaves a request where it is if it may be there. From the baseline it goes only when that has no
/// weight any more, and then it is a new one on the canary, within its limits.
fn stay(exchange: &mut Exchange, route: &mut RequestRoute, at: UpstreamKey) {
    if !route.is_split() {
        return;
    }
    let assigned = route.assigned().map(|upstream| upstream.key);
    let spec = route.service().watch.as_ref().map(|release| &release.spec);
    if assigned == Some(at) {
        let on_baseline = spec.is_some_and(|spec| spec.baseline == at);
        if on_baseline && route.service().failover_canary().is_some() {
            // The baseline has gone down since, and the canary answers what was drawn for it.
            exchange.leave_trial();
        }
        return;
    }
    let to_canary = assigned.is_some() && assigned == spec.map(|spec| spec.canary);
    if let Some(release) = route.service().watch.clone().filter(|_| to_canary)
        && route.has_weight(at)
    {
        route.overflow(release);
        return;
    }
    let candidate = exchange.leave_trial();
    if to_canary {
        enrol(exchange, route);
        exchange.describe_trial(|| candidate);
    }
}

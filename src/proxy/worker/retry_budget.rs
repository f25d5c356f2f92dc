//! The retry budget of a release: how many of its requests may be sent to the baseline after the
//! canary has failed them.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tower::retry::budget::{Budget, TpsBudget};

use crate::routing::ReleaseHandle;

/// Of so many requests of a service one may be rescued, over [`WINDOW`].
const REQUESTS_EACH: u32 = 5;
/// Rescues that are allowed in each second, however few requests there are.
const SECOND_MIN: u32 = 10;
/// How long a request allows for a rescue.
const WINDOW: Duration = Duration::from_secs(10);

/// How many requests may be rescued, by release, of one worker. Without a bound a canary that fails
/// under load would put that load on the baseline a second time.
#[derive(Debug, Default)]
pub(crate) struct RetryBudgets(RefCell<Vec<RetryBudget>>);

#[derive(Debug)]
struct RetryBudget {
    watch: Weak<ReleaseHandle>,
    budget: TpsBudget,
    requests: Cell<u32>,
}

impl RetryBudgets {
    /// A request of this release's service was drawn.
    pub(crate) fn deposit(&self, watch: &Arc<ReleaseHandle>) {
        self.with(watch, |own| {
            // One deposit for several requests, since each asks for the time.
            let requests = (own.requests.get() + 1) % REQUESTS_EACH;
            own.requests.set(requests);
            if requests == 0 {
                own.budget.deposit();
            }
        });
    }

    /// Whether one more may be rescued.
    pub(crate) fn withdraw(&self, watch: &Arc<ReleaseHandle>) -> bool {
        self.with(watch, |own| own.budget.withdraw())
    }

    fn with<T>(&self, watch: &Arc<ReleaseHandle>, act: impl FnOnce(&RetryBudget) -> T) -> T {
        let mut all = self.0.borrow_mut();
        let known = all
            .iter()
            .position(|one| std::ptr::eq(one.watch.as_ptr(), Arc::as_ptr(watch)));
        if let Some(own) = known.and_then(|at| all.get(at)) {
            return act(own);
        }
        all.retain(|one| one.watch.strong_count() > 0);
        let own = RetryBudget {
            watch: Arc::downgrade(watch),
            budget: TpsBudget::new(WINDOW, SECOND_MIN, 1.0),
            requests: Cell::new(0),
        };
        let done = act(&own);
        all.push(own);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;
    use crate::routing::{ReleaseHandleSpec, RescuePolicy};
    use crate::stats::{ReleaseKey, UpstreamKey};

    fn watch() -> Arc<ReleaseHandle> {
        let spec = ReleaseHandleSpec {
            key: ReleaseKey(0),
            release: "shop-1".into(),
            baseline: UpstreamKey(0),
            baseline_name: Name::from("blue"),
            canary: UpstreamKey(1),
            canary_name: Name::from("green"),
            sticky: false,
            rescue: RescuePolicy::Safe,
            in_flight_max: 1,
        };
        Arc::new(ReleaseHandle::new(spec, 0, 0))
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_rescued_beyond_the_least_number() {
        let (budgets, release, other) = (RetryBudgets::default(), watch(), watch());
        let least = SECOND_MIN * 10;
        let taken = |watch| (0..10_000).take_while(|_| budgets.withdraw(watch)).count();
        assert_eq!(taken(&release), least as usize);
        (0..1_000).for_each(|_| budgets.deposit(&release));
        assert_eq!(taken(&release), 200);
        assert_eq!(taken(&other), least as usize, "releases do not share it");
    }

    #[test]
    fn what_releases_were_allowed_is_forgotten_with_them() {
        let budgets = RetryBudgets::default();
        let kept = watch();
        budgets.deposit(&kept);
        (0..100).for_each(|_| budgets.deposit(&watch()));
        assert!(budgets.0.borrow().len() <= 2);
    }
}

//! The limits of time on an exchange.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::model::Timeouts;
use crate::proxy::deadline::{Deadline, Deadlines, Millis};
use crate::proxy::error::Error;
use crate::stats::Reason;

/// The limits of time on an exchange.
#[derive(Debug)]
pub(crate) struct ExchangeTimeouts {
    /// Fires when what is waited for at the moment takes too long.
    pub(crate) idle: Deadline,
    pub(crate) idle_limit: Duration,
    /// Whether the idle limit is running.
    pub(crate) waiting: bool,
    /// Fires when the exchange as a whole takes too long, if that is limited.
    total: Option<Deadline>,
}

impl ExchangeTimeouts {
    /// The limits of a service; the total begins to run.
    pub(crate) fn new(timeouts: &Timeouts, deadlines: &Rc<Deadlines>) -> ExchangeTimeouts {
        let total = (!timeouts.total.is_zero()).then(|| {
            let deadline = deadlines.deadline();
            deadline.set(timeouts.total);
            deadline
        });
        ExchangeTimeouts {
            idle: deadlines.deadline(),
            idle_limit: timeouts.idle,
            waiting: false,
            total,
        }
    }

    /// Ready with the error once the exchange as a whole has taken too long.
    pub(crate) fn poll_total(&self, cx: &Context<'_>) -> Poll<Error> {
        let Some(total) = &self.total else {
            return Poll::Pending;
        };
        let late = || Error::new(Reason::TotalTimeout, "the exchange took too long");
        total.poll(cx).map(|()| late())
    }

    /// Something is waited for, for so long at most.
    pub(crate) fn begin(&self, limit: Duration) {
        self.idle.set(limit);
    }

    /// Ready with the error once the exchange as a whole has taken too long, or with `late` once
    /// the wait that has begun has; unless that is `extended` to a later time.
    pub(crate) fn poll(
        &self,
        cx: &Context<'_>,
        late: Error,
        extended: impl Fn() -> Option<Millis>,
    ) -> Poll<Error> {
        if let Poll::Ready(error) = self.poll_total(cx) {
            return Poll::Ready(error);
        }
        while self.idle.poll(cx).is_ready() {
            match extended() {
                Some(due) => self.idle.set_at(due),
                None => return Poll::Ready(late),
            }
        }
        Poll::Pending
    }
}

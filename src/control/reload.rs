//! The services of a configuration, merged with live state: at the start, and when the
//! configuration changes.
//!
//! The configuration declares what there is; weights belong to the store. So a reload moves no
//! traffic, and is refused where it could not but.

use std::collections::{BTreeMap, HashSet, VecDeque};

use serde_json::{Value, json};

use super::Refusal;
use super::absent::{AbsentServices, REMEMBERED_MAX};
use super::controller::{Controller, ServiceEntry, UncommittedChange};
use super::state::ServiceState;
use crate::model::{Name, ServiceSpec, WeightsError, api};
use crate::routing::RoutingTable;
use crate::store::{ChangeRecord, LoadedState, NewJournalEntry, ServiceRecord};

impl Controller {
    /// The first table.
    pub(super) fn start(&mut self, specs: Vec<ServiceSpec>, loaded: LoadedState) {
        let now = self.clock.now();
        self.absent = AbsentServices::new(loaded.services);
        let (mut fresh, mut warnings) = (Vec::new(), Vec::new());
        let order = names(&specs);
        let declared: Vec<_> = specs
            .into_iter()
            .map(|spec| (self.absent.take(&spec.name), spec))
            .collect();
        self.absent.trim(REMEMBERED_MAX);
        for (record, spec) in declared {
            let (managed, warning) = manage(spec, record.as_ref(), &self.absent, &now.rfc3339());
            if record.is_none() || warning.is_some() {
                fresh.push(Name::clone(&managed.spec.name));
            }
            warnings.extend(warning);
            self.services
                .insert(Name::clone(&managed.spec.name), managed);
        }
        self.publish_topology(&order);
        self.resume_releases(loaded.releases, loaded.checkpoints, loaded.parts);
        self.metrics.set_reload(now, true);
        if !fresh.is_empty() {
            let reason = (!warnings.is_empty()).then(|| warnings.join("; "));
            self.journal(
                "start",
                "weighbridge".to_owned(),
                reason,
                fresh,
                Value::Null,
            );
        }
        self.show_all();
    }

    /// The services of a new configuration; says what changed.
    pub(super) fn reload(
        &mut self,
        specs: Vec<ServiceSpec>,
        actor: String,
    ) -> Result<String, Refusal> {
        let merged = self
            .merge(&specs)
            .inspect_err(|refusal| self.reload_failed(refusal.to_string()))?;
        let before = topology(&self.services);
        let detail = self.difference(&specs);
        let changed = !detail.is_empty();
        let detail = if changed {
            detail.join("; ")
        } else {
            "nothing changed".to_owned()
        };
        if changed {
            let order = names(&specs);
            let (fresh, warnings) = self.replace(specs, merged);
            self.publish_topology(&order);
            let told = [vec![detail.clone()], warnings].concat().join("; ");
            self.journal("reload", actor, Some(told), fresh, before);
            self.show_all();
        }
        let now = self.clock.now();
        self.metrics.set_reload(now, true);
        self.emit(api::EventKind::Reload {
            ok: true,
            detail: detail.clone(),
        });
        Ok(detail)
    }

    pub(super) fn reload_failed(&mut self, detail: String) {
        self.metrics.set_reload(self.clock.now(), false);
        self.emit(api::EventKind::Reload { ok: false, detail });
    }

    /// The states of known services under their new declarations, with those that wait for the
    /// store.
    fn merge(
        &self,
        specs: &[ServiceSpec],
    ) -> Result<BTreeMap<Name, (ServiceState, Option<ServiceState>)>, Refusal> {
        let mut merged = BTreeMap::new();
        self.keep_released(specs)?;
        for spec in specs {
            let Some(managed) = self.services.get(&spec.name) else {
                continue;
            };
            managed.keeps_release(spec)?;
            let conform = |state: &ServiceState| {
                state
                    .conformed(spec)
                    .map_err(|error| in_use(spec, state, &error))
            };
            let pending = managed
                .pending
                .as_ref()
                .map(|pending| conform(&pending.moved.next));
            merged.insert(
                Name::clone(&spec.name),
                (conform(&managed.state)?, pending.transpose()?),
            );
        }
        Ok(merged)
    }

    /// What a reload changes, in words.
    fn difference(&self, specs: &[ServiceSpec]) -> Vec<String> {
        let (mut added, mut changed) = (Vec::new(), Vec::new());
        for spec in specs {
            match self.services.get(&spec.name) {
                None => added.push(&*spec.name),
                Some(managed) if managed.spec != *spec => changed.push(&*spec.name),
                Some(_) => {}
            }
        }
        let stay: HashSet<&Name> = specs.iter().map(|spec| &spec.name).collect();
        let removed: Vec<&str> = self
            .services
            .keys()
            .filter(|name| !stay.contains(name))
            .map(|name| &**name)
            .collect();
        // Where two routes are equal, the one that is declared first counts.
        let current = self.publisher.current();
        let order = current.table.services().map(|service| &service.name);
        let moved = added.is_empty()
            && removed.is_empty()
            && !order.eq(specs.iter().map(|spec| &spec.name));
        let reordered = if moved {
            specs.iter().map(|spec| &*spec.name).collect()
        } else {
            Vec::new()
        };
        [
            ("added", added),
            ("changed", changed),
            ("removed", removed),
            ("in this order", reordered),
        ]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {}", names.join(", ")))
        .collect()
    }

    /// Puts the new services in place of the old. Gives those whose state is new, and what people
    /// should know of them.
    fn replace(
        &mut self,
        specs: Vec<ServiceSpec>,
        mut merged: BTreeMap<Name, (ServiceState, Option<ServiceState>)>,
    ) -> (Vec<Name>, Vec<String>) {
        let at = self.clock.now().rfc3339();
        let (mut fresh, mut warnings) = (Vec::new(), Vec::new());
        let mut old = std::mem::take(&mut self.services);
        for spec in specs {
            let name = Name::clone(&spec.name);
            let managed = match (old.remove(&name), merged.remove(&name)) {
                (Some(mut managed), Some((mut state, pending_state))) => {
                    // Who asks for a rollback under the revision that he saw must not be led
                    // elsewhere than he saw. A change on its way has a revision
                    // of its own.
                    if !managed.state.leads_back_as(&state) && managed.pending.is_none() {
                        state.revision = managed.next_revision();
                        fresh.push(Name::clone(&name));
                    }
                    managed.state = state;
                    if let (Some(pending), Some(state)) = (&mut managed.pending, pending_state) {
                        pending.moved.next = state;
                    }
                    ServiceEntry { spec, ..managed }
                }
                _ => {
                    let record = self.absent.take(&name);
                    let (managed, warning) = manage(spec, record.as_ref(), &self.absent, &at);
                    fresh.push(Name::clone(&name));
                    warnings.extend(warning);
                    managed
                }
            };
            self.services.insert(name, managed);
        }
        old.into_iter()
            .for_each(|(name, managed)| self.retire(&name, managed));
        self.absent.trim(REMEMBERED_MAX);
        (fresh, warnings)
    }

    /// A service leaves the configuration; its weights are remembered in case it comes back.
    fn retire(&mut self, name: &Name, managed: ServiceEntry) {
        self.absent.keep(managed.state.record(name));
        self.metrics.forget_service(name);
        let gone = || Err(Refusal::UnknownService(name.to_string()));
        if let Some(pending) = managed.pending {
            self.outbox.withdraw(pending.ticket());
            pending
                .moved
                .reply
                .refuse(Refusal::UnknownService(name.to_string()));
        }
        managed
            .waiting
            .into_iter()
            .for_each(|asked| drop(asked.reply.send(gone())));
    }

    /// Publishes a table of all services as they are declared now, in the order of declaration: of
    /// equal routes the first one counts.
    fn publish_topology(&mut self, order: &[Name]) {
        let services = &self.services;
        let specs: Vec<ServiceSpec> = order
            .iter()
            .filter_map(|name| Some(services.get(name)?.spec.clone()))
            .collect();
        let live = |name: &str| services.get(name).map(ServiceEntry::live);
        let keys = &mut self.keys;
        self.publisher
            .update(|table| Some(RoutingTable::build(&specs, live, keys, Some(table))));
        let current = self.publisher.current();
        self.keys.retain(&current.table);
        self.collector.follow(&current.table, self.clock.now());
    }

    /// Writes a journal entry, with the states of the services that begin with it.
    fn journal(
        &mut self,
        action: &str,
        actor: String,
        reason: Option<String>,
        fresh: Vec<Name>,
        before: Value,
    ) {
        let record = |name: &Name| {
            self.services
                .get(name)
                .map(|managed| managed.state.record(name))
        };
        let change = ChangeRecord {
            services: fresh.iter().filter_map(record).collect(),
            releases: Vec::new(),
            entry: NewJournalEntry {
                at: self.clock.now().rfc3339(),
                actor,
                action: action.to_owned(),
                service: None,
                reason,
                before,
                after: topology(&self.services),
            },
            answer: None,
            in_effect: true,
        };
        let (services, saved) = (fresh, None);
        self.unsaved.insert(
            self.outbox.push(change),
            UncommittedChange { services, saved },
        );
    }
}

fn names(specs: &[ServiceSpec]) -> Vec<Name> {
    specs.iter().map(|spec| Name::clone(&spec.name)).collect()
}

/// A service that begins, with what the store remembers of it if anything.
fn manage(
    spec: ServiceSpec,
    record: Option<&ServiceRecord>,
    absent: &AbsentServices,
    at: &str,
) -> (ServiceEntry, Option<String>) {
    let (state, warning) = match record {
        Some(record) => ServiceState::resumed(&spec, record, at),
        None => {
            let mut state = ServiceState::declared(&spec, at);
            absent.raise(&mut state);
            (state, None)
        }
    };
    let warning = warning.map(|warning| {
        let told = format!("service {}: {warning}", spec.name);
        tracing::warn!("the stored weights are not used as they are: {told}");
        told
    });
    let managed = ServiceEntry {
        spec,
        state,
        active: None,
        ended: None,
        last: None,
        pending: None,
        waiting: VecDeque::new(),
    };
    (managed, warning)
}

fn in_use(spec: &ServiceSpec, state: &ServiceState, error: &WeightsError) -> Refusal {
    let WeightsError::Unknown { name, .. } = error else {
        return Refusal::Reload(format!("service {}: {error}", spec.name));
    };
    let weight = state.weights.get(name).unwrap_or_default();
    Refusal::Reload(format!(
        "service {}: upstream {name} gets {weight} % of the traffic and cannot be removed; move \
         its weight away first",
        spec.name
    ))
}

/// Services and their upstreams, weights and baselines, as the journal keeps them.
fn topology(services: &BTreeMap<Name, ServiceEntry>) -> Value {
    services
        .iter()
        .map(|(name, managed)| (name.to_string(), json!(managed.state.json())))
        .collect()
}

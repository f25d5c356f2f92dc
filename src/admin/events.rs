//! The live stream of events (server-sent events).

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use utoipa::IntoParams;

use super::problem::{self, ProblemResponse, retry_after};
use super::router::App;
use crate::model::api;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A comment is sent when nothing happened for so long, so that both sides notice a broken
/// connection.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);

/// A client that lost the stream is told to come back after so long.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// Which events are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Only events of this service, and those of none.
    service: Option<String>,
}

/// What happens, as it happens: `weights`, `release`, `verdict`, `health`, `reload`, `statistics`,
/// each with an `Event` as data.
///
/// After an interruption the stream goes on behind `Last-Event-ID`, as far back as events are
/// remembered. An event `lost` without an id says that some are missing: read the services again.
#[utoipa::path(get, path = "/api/v1/events", tag = "journal",
    params(EventsQuery, ("Last-Event-ID" = Option<u64>, Header, description = "The id of the last event that the caller saw")),
    responses(
        (status = 200, description = "The stream, without an end", body = String, content_type = "text/event-stream"),
        (status = 404, description = "No such service", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter is wrong", body = api::Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn stream_events(
    State(app): State<App>,
    query: Result<Query<EventsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ProblemResponse> {
    let Query(query) =
        query.map_err(|rejection| ProblemResponse::new(problem::INVALID, rejection.body_text()))?;
    let last_id = last_id(&headers)?;
    if let Some(service) = &query.service {
        app.handle.revision(service)?;
    }
    let Ok(permit) = app.streams.clone().try_acquire_owned() else {
        let (name, value) = retry_after(RECONNECT_AFTER.as_secs());
        let problem = ProblemResponse::new(
            problem::OVERLOADED,
            "There are too many event streams; try again later.",
        );
        return Err(problem.with_header(name, value));
    };
    let (replay, live) = app.handle.events(last_id);
    let events = all(last_id, replay, live)
        .filter_map(move |item| {
            let _until_the_stream_ends = &permit;
            std::future::ready(write(item, query.service.as_deref()).map(Ok::<_, Infallible>))
        })
        .take_until(app.stopping.cancelled_owned());
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE_EVERY);
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

fn last_id(headers: &HeaderMap) -> Result<Option<u64>, ProblemResponse> {
    let Some(value) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    let id = value.to_str().ok().and_then(|text| text.parse().ok());
    id.map(Some).ok_or_else(|| {
        ProblemResponse::new(
            problem::BAD_REQUEST,
            "Last-Event-ID must be an id of this stream.",
        )
    })
}

/// What a stream tells.
enum Item {
    /// The beginning.
    Open,
    /// An event.
    Event(api::Event),
    /// That events are missing here.
    Lost,
}

/// The beginning, what was missed, and what is to come.
fn all(
    last_id: Option<u64>,
    replay: Vec<api::Event>,
    live: broadcast::Receiver<api::Event>,
) -> impl Stream<Item = Item> {
    // Ids have no holes, so a first one further on means that those between are forgotten; a
    // smaller one, a restart.
    let is_gap = matches!((last_id, replay.first()), (Some(last), Some(first)) if Some(first.id) != last.checked_add(1));
    let live = BroadcastStream::new(live).map(|event| match event {
        Ok(event) => Item::Event(event),
        Err(BroadcastStreamRecvError::Lagged(_)) => Item::Lost,
    });
    stream::once(std::future::ready(Item::Open))
        .chain(stream::iter(is_gap.then_some(Item::Lost)))
        .chain(stream::iter(replay.into_iter().map(Item::Event)))
        .chain(live)
}

/// An item on the wire; `None` when the filter leaves it out.
fn write(item: Item, only: Option<&str>) -> Option<Event> {
    match item {
        Item::Open => Some(Event::default().retry(RECONNECT_AFTER).comment("open")),
        Item::Lost => Some(Event::default().event("lost").data("{}")),
        Item::Event(event) => {
            if only.is_some()
                && event
                    .kind
                    .service()
                    .is_some_and(|service| Some(service) != only)
            {
                return None;
            }
            let data = serde_json::to_string(&event).ok()?;
            Some(
                Event::default()
                    .id(event.id.to_string())
                    .event(event.kind.name())
                    .data(data),
            )
        }
    }
}

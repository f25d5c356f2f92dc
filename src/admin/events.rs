//! Live stream of events (server-sent events).

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
use super::state::App;
use crate::model::api;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Interval of keep-alive comments, so that both sides notice a broken connection.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);

/// Reconnection delay (`retry`) sent to clients.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// Query of the event stream.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Only events of this service, and events of no service.
    service: Option<String>,
}

/// Live events: `weights`, `release`, `verdict`, `health`, `reload`, `statistics`, each with an
/// `Event` as data.
///
/// After an interruption the stream resumes after `Last-Event-ID`, as far back as events are
/// stored. An event `lost` without an id means that events are missing: read the services again.
#[utoipa::path(get, path = "/api/v1/events", tag = "journal",
    params(EventsQuery,
        ("Last-Event-ID" = Option<u64>, Header,
            description = "The id of the last event received")),
    responses(
        (status = 200, description = "The stream, which does not end", body = String,
            content_type = "text/event-stream"),
        (status = 404, description = "Unknown service", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 422, description = "Invalid parameter", body = api::Problem,
            content_type = "application/problem+json"),
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
    let events = items(last_id, replay, live)
        .filter_map(move |item| {
            let _held_until_stream_ends = &permit;
            std::future::ready(encode(item, query.service.as_deref()).map(Ok::<_, Infallible>))
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
            "Last-Event-ID must be the id of an event of this stream.",
        )
    })
}

/// Item of a stream.
enum Item {
    /// Start of the stream.
    Open,
    /// An event.
    Event(api::Event),
    /// Events are missing at this point.
    Lost,
}

/// The start item, the replay of missed events, and the live events.
fn items(
    last_id: Option<u64>,
    replay: Vec<api::Event>,
    live: broadcast::Receiver<api::Event>,
) -> impl Stream<Item = Item> {
    // Ids are consecutive: a larger first id means that events were dropped, a smaller one that
    // Weighbridge was restarted.
    let is_gap = match (last_id, replay.first()) {
        (Some(last), Some(first)) => Some(first.id) != last.checked_add(1),
        _ => false,
    };
    let live = BroadcastStream::new(live).map(|event| match event {
        Ok(event) => Item::Event(event),
        Err(BroadcastStreamRecvError::Lagged(_)) => Item::Lost,
    });
    stream::once(std::future::ready(Item::Open))
        .chain(stream::iter(is_gap.then_some(Item::Lost)))
        .chain(stream::iter(replay.into_iter().map(Item::Event)))
        .chain(live)
}

/// Encodes an item; `None` if the filter excludes it.
fn encode(item: Item, only: Option<&str>) -> Option<Event> {
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

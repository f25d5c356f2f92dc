//! A request from its head to the head of the response, in one loop.

use std::rc::Rc;
use std::task::Context;

use http::{Request, Response};

use super::access::introduce;
use super::attempts::{AttemptOutcome, Attempts, Next};
use super::client_body::ClientBody;
use super::exchange::Exchange;
use super::relay::ResponseBody;
use super::replay::Resend;
use super::respond::{ForwardedResponse, refuse, relay, reserve_cookie};
use super::route::{RequestRoute, Target};
use super::send::{Sender, UpstreamResponse};
use super::timeouts::ExchangeTimeouts;
use super::upload::RequestBody;
use super::{check, enrolment, headers, identify};
use crate::proxy::error::Error;
use crate::proxy::upstream::held::HeldHead;
use crate::proxy::worker::client::ClientConnection;
use crate::proxy::worker::limits::Permit;
use crate::stats::MethodLabel;

/// Answers a request: with what the upstream says, or with why there is nothing.
pub(crate) async fn handle(
    client: Rc<ClientConnection>,
    request: Request<ClientBody>,
    permit: Permit,
    head: Option<HeldHead>,
) -> Response<ResponseBody> {
    let _counted = head;
    let mut exchange = Exchange::begin(&client, MethodLabel::of(request.method()), permit);
    let version = request.version();
    let (head, body) = request.into_parts();
    let (body, upload) = RequestBody::new(body, &client);
    exchange.upload = upload;
    let mut request = Request::from_parts(head, body);
    introduce(&mut exchange, &client, &request);
    match forward(&mut exchange, &mut request).await {
        Ok(response) => relay(exchange, response, version).await,
        Err(error) => refuse(exchange, &error),
    }
}

/// Asks upstreams until one has answered, or none is left that may be asked.
async fn forward(
    exchange: &mut Exchange,
    request: &mut Request<RequestBody>,
) -> Result<ForwardedResponse, Error> {
    check::request(request, &exchange.client)?;
    let (mut route, issue) = identify::route(exchange, request)?;
    headers::strip(request.headers_mut(), &exchange.client);
    let deadlines = &exchange.worker().deadlines;
    let limits = ExchangeTimeouts::new(&route.service().timeouts, deadlines);
    let mut replay = Resend::prepare(exchange, &mut route, request, &limits).await?;
    let mut attempts = Attempts::new(replay.repeatability);
    let answered = loop {
        let outcome = match next(exchange, &mut route, &attempts) {
            Ok(target) => send(exchange, &target, request, &limits).await,
            Err(error) => AttemptOutcome::Failed(error),
        };
        let status = |answer: &UpstreamResponse| answer.response.status().as_u16();
        let fail_over = || replay.fail_over(exchange, &mut route);
        match attempts.after(outcome, status, fail_over) {
            Next::Respond(answered) => break answered?,
            Next::Again => {}
            Next::FailOver(class, failed) => {
                exchange.fail_over(class, failed.as_ref().map(|answer| &answer.response));
                // A response goes with its connection, which is not pooled with a body half read.
                drop(failed);
                replay.restore(request);
            }
        }
    };
    let UpstreamResponse {
        mut response,
        endpoint,
    } = answered;
    reserve_cookie(exchange, &route, response.headers_mut());
    Ok(ForwardedResponse {
        response,
        endpoint,
        limits,
        issue,
    })
}

/// Where the next attempt goes by the newest table, which the exchange takes note of.
fn next<'a>(
    exchange: &mut Exchange,
    route: &'a mut RequestRoute,
    attempts: &Attempts,
) -> Result<Target<'a>, Error> {
    enrolment::assign(exchange, route);
    let Some(upstream) = route.upstream() else {
        return Err(attempts.no_endpoint());
    };
    exchange.assign(&route.service().name, &upstream.name, upstream.key);
    let endpoint = attempts.next(upstream, exchange.worker().draw())?;
    exchange.occupy(endpoint.enter());
    Ok(route.target(upstream.key, endpoint, attempts.needs_fresh()))
}

async fn send(
    exchange: &Exchange,
    target: &Target<'_>,
    request: &mut Request<RequestBody>,
    limits: &ExchangeTimeouts,
) -> AttemptOutcome<UpstreamResponse> {
    let stall = exchange.stall();
    let sender = Sender {
        client: &exchange.client,
        upload: exchange.upload.as_deref(),
        request_id: exchange.request_id.as_ref(),
        limits,
    };
    let watch = |held, cx: &Context<'_>| exchange.watch_client(held, stall.as_ref(), cx);
    sender.send(target, request, watch).await
}

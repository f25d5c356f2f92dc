//! What a request has to pass before any work is spent on it.

use std::future::ready;
use std::rc::Rc;

use futures_util::future::Either;
use http::{Request, Response};

use crate::proxy::error::Error;
use crate::proxy::http1::fields;
use crate::proxy::request::client_body::ClientBody;
use crate::proxy::request::exchange::Exchange;
use crate::proxy::request::relay::ResponseBody;
use crate::proxy::request::{access::introduce, handle::handle, respond::refuse};
use crate::proxy::worker::client::ClientConnection;
use crate::proxy::worker::limits::Permit;
use crate::stats::{MethodLabel, Reason};

/// Answers a request of HTTP/1.1.
pub(crate) async fn serve(
    client: &Rc<ClientConnection>,
    request: Request<ClientBody>,
) -> Response<ResponseBody> {
    let Some(place) = client.worker.room.enter() else {
        return shed(client, &request, &OVERLOADED);
    };
    handle(Rc::clone(client), request, place, None).await
}

const OVERLOADED: Error = Error::new(
    Reason::Overloaded,
    "too many requests are under way; try again",
);

/// Answers what exceeds a limit before any work is spent on it.
fn shed<B>(
    client: &Rc<ClientConnection>,
    request: &Request<B>,
    error: &Error,
) -> Response<ResponseBody> {
    let mut exchange =
        Exchange::begin(client, MethodLabel::of(request.method()), Permit::default());
    introduce(&mut exchange, client, request);
    refuse(exchange, error)
}

/// Begins a request of HTTP/2, which is counted at once: a connection has many of them.
pub(crate) fn begin(
    client: &Rc<ClientConnection>,
    mut request: Request<ClientBody>,
) -> impl Future<Output = Response<ResponseBody>> + Unpin + use<> {
    fields::join_cookies(request.headers_mut());
    let head = client.held.head(&mut request);
    let error = match (head, client.worker.room.enter()) {
        (None, _) => Error::new(
            Reason::HeadersTooLarge,
            "the heads of the requests under way are too large",
        ),
        (_, None) => OVERLOADED,
        // In memory of its own, which is let go once there is a response: in the request's task it
        // would stay for as long as the body takes.
        (head, Some(place)) => {
            return Either::Left(Box::pin(handle(Rc::clone(client), request, place, head)));
        }
    };
    Either::Right(ready(shed(client, &request, &error)))
}

//! What stands around the path of a request, as one list that reads from top to bottom.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::service::TowerToHyperService;
use tower::ServiceBuilder;
use tower::layer::layer_fn;

use crate::proxy::error::Error;
use crate::proxy::request::body::{ClientBody, ResponseBody};
use crate::proxy::request::exchange::Exchange;
use crate::proxy::request::{access::introduce, handle::handle, respond::refuse};
use crate::proxy::upstream::held::HeldHead;
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
    match handle(Rc::clone(client), request, place, None).await {
        Ok(response) => response,
    }
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

/// The service that the requests of an HTTP/2 connection go through.
pub(crate) fn around(
    client: &Rc<ClientConnection>,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response<ResponseBody>,
    Error = Infallible,
    Future: Future<Output = Result<Response<ResponseBody>, Infallible>> + 'static,
> + use<> {
    let (shedding, handling) = (Rc::clone(client), Rc::clone(client));
    TowerToHyperService::new(
        ServiceBuilder::new()
            .layer(layer_fn(move |inner| Shed {
                inner,
                client: Rc::clone(&shedding),
            }))
            .service_fn(move |(request, place, head): Admitted| {
                // In memory of its own, which hyper lets go once there is a response: in the
                // request's task it would stay for as long as the body takes.
                Box::pin(handle(
                    Rc::clone(&handling),
                    request.map(ClientBody::Http2),
                    place,
                    head,
                ))
            }),
    )
}

/// A request with what it takes up: its place among all of the process, and for HTTP/2 its head's.
type Admitted = (Request<Incoming>, Permit, Option<HeldHead>);

/// Answers 503 to what exceeds the limit on requests under way, before any work is spent on it.
#[derive(Clone, Debug)]
struct Shed<S> {
    inner: S,
    client: Rc<ClientConnection>,
}

impl<S> tower::Service<Request<Incoming>> for Shed<S>
where
    S: tower::Service<Admitted, Response = Response<ResponseBody>, Error = Infallible>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<ResponseBody>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let head = self.client.held.head(&request);
        let error = match (head, self.client.worker.room.enter()) {
            (None, _) => Error::new(
                Reason::HeadersTooLarge,
                "the heads of the requests under way are too large",
            ),
            (_, None) => OVERLOADED,
            (head, Some(place)) => return Either::Left(self.inner.call((request, place, head))),
        };
        Either::Right(ready(Ok(shed(&self.client, &request, &error))))
    }
}

//! What stands around the path of a request, as one list that reads from top to bottom.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper_util::service::TowerToHyperService;
use tower::ServiceBuilder;
use tower::layer::layer_fn;

use super::body::ResponseBody;
use super::client::Client;
use super::error::Error;
use super::exchange::Exchange;
use super::handle::{handle, introduce, refuse};
use super::held::HeldHead;
use super::room::Place;
use crate::stats::{MethodLabel, Reason};

/// The service that a connection's requests go through.
pub(crate) fn around(
    client: &Rc<Client>,
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
            .service_fn(move |(request, place, head)| {
                handle(Rc::clone(&handling), request, place, head)
            }),
    )
}

/// A request with what it takes up: its place among all of the process, and for HTTP/2 its head's.
type Admitted = (Request<Incoming>, Place, Option<HeldHead>);

/// Answers 503 to what exceeds the limit on requests under way, before any work is spent on it.
#[derive(Clone, Debug)]
struct Shed<S> {
    inner: S,
    client: Rc<Client>,
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

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        self.client.restore(&mut request);
        let http2 = request.version() == Version::HTTP_2;
        let head = http2.then(|| self.client.held.head(&request));
        let error = match (head, self.client.worker.room.enter()) {
            (Some(None), _) => Error::new(
                Reason::HeadersTooLarge,
                "the heads of the requests under way are too large",
            ),
            (_, None) => Error::new(
                Reason::Overloaded,
                "too many requests are under way; try again",
            ),
            (head, Some(place)) => {
                return Either::Left(self.inner.call((request, place, head.flatten())));
            }
        };
        let mut exchange = Exchange::begin(
            &self.client,
            MethodLabel::of(request.method()),
            Place::default(),
        );
        introduce(&mut exchange, &self.client, &request);
        Either::Right(ready(Ok(refuse(exchange, &error))))
    }
}

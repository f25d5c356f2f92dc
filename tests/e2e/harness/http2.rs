//! An HTTP/2 client with prior knowledge.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::DEADLINE;

/// Runs an asynchronous case; fails if it hangs.
#[track_caller]
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(2 * DEADLINE, future)
            .await
            .expect("the case hangs")
    })
}

/// One HTTP/2 connection; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Http2 {
    pub(crate) sender: SendRequest<BoxBody<Bytes, std::io::Error>>,
}

/// A response with its whole body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Http2 {
    pub(crate) async fn connect(address: SocketAddr) -> Http2 {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Http2 { sender }
    }

    /// A request without a body.
    pub(crate) fn request(path: &str) -> http::request::Builder {
        Request::get(format!("http://shop.test{path}"))
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        let request = Http2::request(path)
            .body(Empty::new().map_err(|never| match never {}).boxed())
            .unwrap();
        self.send(request).await
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<BoxBody<Bytes, std::io::Error>>,
    ) -> Answer {
        Answer::of(self.head(request).await).await.unwrap()
    }

    /// Returns the response head with an unread body.
    pub(crate) async fn head(
        &mut self,
        request: Request<BoxBody<Bytes, std::io::Error>>,
    ) -> http::Response<Incoming> {
        self.try_head(request).await.unwrap()
    }

    /// Like [`Http2::head`], where the stream may be reset instead.
    pub(crate) async fn try_head(
        &mut self,
        request: Request<BoxBody<Bytes, std::io::Error>>,
    ) -> hyper::Result<http::Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }
}

impl Answer {
    pub(crate) async fn of(response: http::Response<Incoming>) -> hyper::Result<Answer> {
        let (head, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned();
        let text = String::from_utf8_lossy(&collected.to_bytes()).into_owned();
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            text,
            trailers,
        })
    }
}

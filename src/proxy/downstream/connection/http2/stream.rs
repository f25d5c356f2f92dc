//! One request of an HTTP/2 connection and the response to it, in a task of its own.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::Response;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http_body::Body as _;

use crate::proxy::request::relay::ResponseBody;
use crate::proxy::upstream::held::ChargedBytes;

/// Waits for the response, and writes it; an error means that the stream is over.
pub(super) async fn answer(
    mut handling: impl Future<Output = Response<ResponseBody>> + Unpin,
    mut respond: SendResponse<ChargedBytes>,
) -> Result<(), h2::Error> {
    let response = poll_fn(|cx| match Pin::new(&mut handling).poll(cx) {
        Poll::Ready(response) => Poll::Ready(Ok(response)),
        // A client that resets the stream wants no response any more.
        Poll::Pending => respond
            .poll_reset(cx)
            .map(|reset| Err(reset.map_or_else(|error| error, h2::Error::from))),
    })
    .await?;
    // What it takes to get a response is not held while that is written.
    drop(handling);
    let (mut head, body) = response.into_parts();
    let ended = body.is_end_stream();
    if !ended && let Some(length) = body.size_hint().exact() {
        let fields = head.headers.entry(CONTENT_LENGTH);
        fields.or_insert_with(|| HeaderValue::from(length));
    }
    let stream = respond
        .send_response(Response::from_parts(head, ()), ended)
        .inspect_err(|_| respond.send_reset(Reason::INTERNAL_ERROR))?;
    if ended {
        return Ok(());
    }
    let mut pipe = Pipe {
        stream,
        body,
        piece: None,
    };
    poll_fn(|cx| pipe.poll(cx)).await
}

/// The body of a response on its way to the client.
struct Pipe {
    stream: SendStream<ChargedBytes>,
    body: ResponseBody,
    /// A piece for which the client has to make room, and whether it is the last.
    piece: Option<(ChargedBytes, bool)>,
}

impl Pipe {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            if let Poll::Ready(reset) = self.stream.poll_reset(cx) {
                return Poll::Ready(Err(reset?.into()));
            }
            if self.piece.is_some() {
                ready!(self.poll_capacity(cx))?;
            }
            if let Some((piece, last)) = self.piece.take() {
                self.stream.send_data(piece, last)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            // No window is reserved before there is something to send, or a body that does not come
            // would keep the connection's window from the others.
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                return Poll::Ready(self.stream.send_data(ChargedBytes::default(), true));
            };
            let Ok(frame) = frame else {
                self.stream.send_reset(Reason::INTERNAL_ERROR);
                return Poll::Ready(Err(Reason::INTERNAL_ERROR.into()));
            };
            match frame.into_data() {
                Ok(data) => {
                    if data.len() > 0 {
                        self.stream.reserve_capacity(1);
                    }
                    self.piece = Some((data, self.body.is_end_stream()));
                }
                Err(frame) => {
                    self.stream.reserve_capacity(0);
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return Poll::Ready(self.stream.send_trailers(trailers));
                }
            }
        }
    }

    /// Waits until the client has room for some of the piece at hand; `h2` keeps the rest until it
    /// has.
    fn poll_capacity(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let is_empty = self
            .piece
            .as_ref()
            .is_none_or(|(piece, _)| piece.len() == 0);
        while !is_empty && self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(room) => _ = room?,
                // The stream is over.
                None => return Poll::Ready(Err(Reason::CANCEL.into())),
            }
        }
        Poll::Ready(Ok(()))
    }
}

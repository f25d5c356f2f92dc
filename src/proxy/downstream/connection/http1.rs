//! HTTP/1.1: one request after the other, each in the connection's own task.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Method, Response, Version};

use super::end::ConnectionEnd;
use super::link::Link;
use super::output::{Output, RequestTraits};
use crate::proxy::downstream::load_shedding;
use crate::proxy::http1::request::{RequestHead, RequestHeadReader};
use crate::proxy::request::relay::ResponseBody;

/// Serves a connection until it ends, or turns out to speak HTTP/2.
pub(super) async fn serve(link: &Rc<Link>) -> ConnectionEnd {
    let mut reader = RequestHeadReader::new(link.client.listener.head_limits());
    let mut fresh = true;
    loop {
        let head = match poll_fn(|cx| link.poll_head(&mut reader, fresh, cx)).await {
            Ok(head) => head,
            Err(end) => return end,
        };
        fresh = false;
        if let Err(end) = exchange(link, head).await {
            return end;
        }
    }
}

/// Answers one request. An error is the end of the connection, be it as it should.
async fn exchange(link: &Rc<Link>, head: RequestHead) -> Result<(), ConnectionEnd> {
    let mut asked = RequestTraits {
        is_head: *head.request.method() == Method::HEAD,
        http10: head.request.version() == Version::HTTP_10,
        accepts_trailers: head.accepts_trailers,
        keep_alive: head.keep_alive,
    };
    let (length, expects) = (head.body, head.expects_continue);
    let request = head.request.map(|()| link.begin_body(length, expects));
    let response = {
        let mut handling = pin!(load_shedding::serve(&link.client, request));
        poll_fn(|cx| poll_response(link, handling.as_mut(), cx)).await?
    };
    let (mut head, body) = response.into_parts();
    asked.keep_alive &=
        poll_fn(|cx| Poll::Ready(link.settle(cx))).await && !link.client.worker.is_draining();
    let buffers = &link.client.worker.buffers;
    let mut buffer = buffers.acquire();
    link.take_interims(&mut buffer);
    let mut output = Output::new(buffer, asked, &head, &body);
    buffers.give_back_fields(std::mem::take(&mut head.headers));
    let mut body = Some(body);
    poll_fn(|cx| poll_output(link, &mut output, &mut body, cx)).await?;
    buffers.release(std::mem::take(&mut output.segment.before));
    let whole = poll_fn(|cx| link.poll_body_end(cx)).await;
    if whole && output.keeps_alive() {
        Ok(())
    } else {
        Err(ConnectionEnd::Done {
            lingers: !whole || link.has_unread(),
        })
    }
}

/// Waits for the response; meanwhile interim ones are passed on.
fn poll_response(
    link: &Link,
    handling: Pin<&mut impl Future<Output = Response<ResponseBody>>>,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<ResponseBody>, ConnectionEnd>> {
    link.client.keep_task(cx);
    if let Poll::Ready(response) = handling.poll(cx) {
        return Poll::Ready(Ok(response));
    }
    if link.write_interims(cx).is_err() || link.is_gone(cx) {
        return Poll::Ready(Err(ConnectionEnd::Closed));
    }
    link.client
        .poll_overdue(cx)
        .map(|overdue| Err(ConnectionEnd::Overdue(overdue)))
}

/// Writes the response.
fn poll_output(
    link: &Link,
    output: &mut Output,
    body: &mut Option<ResponseBody>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), ConnectionEnd>> {
    link.client.keep_task(cx);
    loop {
        if let Some(filled) = body {
            match output.poll_fill(filled, cx) {
                // It has nothing more to say, and its request is over.
                Poll::Ready(Ok(())) if output.is_finished() => *body = None,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(cut(link, output))),
                Poll::Pending => break,
            }
        }
        while !output.segment.is_written() {
            match link.poll_write(&mut output.segment, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(ConnectionEnd::Closed)),
                Poll::Pending => return poll_blocked(link, output, body, cx),
            }
        }
        if body.is_none() {
            return Poll::Ready(Ok(()));
        }
        output.segment.clear();
    }
    if link.is_gone(cx) {
        return Poll::Ready(Err(ConnectionEnd::Closed));
    }
    link.client
        .poll_overdue(cx)
        .map(|overdue| Err(ConnectionEnd::Overdue(overdue)))
}

/// Waits until the client takes more, within the limits of time.
fn poll_blocked(
    link: &Link,
    output: &Output,
    body: &mut Option<ResponseBody>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), ConnectionEnd>> {
    if body
        .as_mut()
        .is_some_and(|body| body.poll_expired(cx).is_ready())
    {
        return Poll::Ready(Err(cut(link, output)));
    }
    if body.is_some() && link.is_gone(cx) {
        return Poll::Ready(Err(ConnectionEnd::Closed));
    }
    link.client
        .poll_overdue(cx)
        .map(|overdue| Err(ConnectionEnd::Overdue(overdue)))
}

/// The response breaks off, and must not look complete.
fn cut(link: &Link, output: &Output) -> ConnectionEnd {
    if output.is_close_delimited() {
        link.abort();
    }
    ConnectionEnd::Closed
}

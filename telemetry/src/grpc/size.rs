//! A bound on the size of a request message, checked on its length prefix, before it is read.

use super::{Next, Policy, is_ours};
use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use rustic_proto::{reason::Reason, status::with_reason};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{Status, body::Body};

/// A gRPC message starts with a flag byte and four bytes of length, big-endian.
/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests>
const PREFIX: usize = 5;

/// Refuses requests over the limit and says what the limit is.
#[derive(Debug, Clone)]
pub struct MessageSize {
    /// Largest message in bytes.
    pub limit: usize,
}

impl Policy for MessageSize {
    async fn around(&self, request: Request<Body>, next: impl Next) -> Response<Body> {
        if !is_ours(&request) {
            return next.run(request).await;
        }
        let (parts, mut body) = request.into_parts();
        let mut start = BytesMut::new();
        while start.len() < PREFIX {
            match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => start.extend_from_slice(&data),
                    Err(_trailers) => break,
                },
                Some(Err(status)) => return status.into_http(),
                None => break,
            }
        }
        if let Some([_, a, b, c, d]) = start.first_chunk::<PREFIX>() {
            let size = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            if size > self.limit {
                return self.refuse(size);
            }
        }
        let body = Body::new(Resumed { start: Some(start.freeze()).filter(|s| !s.is_empty()), rest: body });
        next.run(Request::from_parts(parts, body)).await
    }
}

impl MessageSize {
    fn refuse(&self, size: usize) -> Response<Body> {
        let text = format!(
            "the request is {size} bytes long, the limit is {} bytes; send a smaller spec or raise --max-message-size \
             of the service",
            self.limit
        );
        with_reason(Reason::RequestTooLarge, text, &[]).into_http()
    }
}

/// A body of which the start was read already.
struct Resumed {
    start: Option<Bytes>,
    rest: Body,
}

impl http_body::Body for Resumed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.start.take() {
            Some(start) => Poll::Ready(Some(Ok(Frame::data(start)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.start.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

//! Bounds on what callers have under way: more is turned away at once instead of queued until it times out.
//!
//! | what | counts | for how long |
//! | --- | --- | --- |
//! | calls of our services, KEDA's streams among them | against `--max-calls` | until the last byte of the answer, and until the work behind it ends ([`CallPermit`]) |
//! | health watches, reflection | against [`WATCHES`] | until the stream ends |
//! | health checks | not at all | each is answered at once: the probes of Kubernetes are such, and must work under any load |
//!
//! Watches have a limit of their own so that they can crowd out neither calls nor, whoever opens them, the probes.

use super::{Next, Policy, is_ours};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use rustic_proto::{reason::Reason, status::with_reason};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, body::Body};

/// Health watches and reflection streams at once: a few for each client that watches.
const WATCHES: usize = 256;

/// The one call that is never turned away.
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// Sheds load: a call over the limit is turned away before anything is done, and may be retried.
#[derive(Debug, Clone)]
pub struct LoadLimit {
    calls: Limit,
    watches: Limit,
}

#[derive(Debug, Clone)]
struct Limit {
    permits: Arc<Semaphore>,
    most: usize,
}

/// The place of a call among those that are under way; found in the request's extensions. Work that goes on when its caller
/// has hung up keeps it, else callers that hang up could have any number of it under way.
#[derive(Debug, Clone)]
pub struct CallPermit {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl LoadLimit {
    /// At most `calls` calls at once. More are turned away with a reason by which callers distinguish this from a failure of the
    /// transport: the service lives, and nothing was done.
    pub fn new(calls: usize) -> Self {
        Self { calls: Limit::new(calls), watches: Limit::new(WATCHES) }
    }
}

impl Limit {
    fn new(most: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(most)), most }
    }

    fn take(&self) -> Result<CallPermit, Status> {
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| {
            let text = format!("{} calls are under way, the most this service takes; retry with backoff", self.most);
            with_reason(Reason::TooManyCalls, text, &[])
        })?;
        Ok(CallPermit { _permit: Arc::new(permit) })
    }
}

impl Policy for LoadLimit {
    async fn around(&self, mut request: Request<Body>, next: impl Next) -> Response<Body> {
        let limit = match request.uri().path() {
            CHECK => return next.run(request).await,
            _ if is_ours(&request) => &self.calls,
            _ => &self.watches,
        };
        let permit = match limit.take() {
            Ok(permit) => permit,
            Err(status) => return status.into_http(),
        };
        request.extensions_mut().insert(permit.clone());
        next.run(request).await.map(|body| Body::new(Counted { body, _permit: permit }))
    }
}

/// An answer that counts until it is dropped, which the server does when it has ended or nobody wants it any more.
struct Counted {
    body: Body,
    _permit: CallPermit,
}

impl http_body::Body for Counted {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use tonic::Code;

    const OURS: &str = "/externalscaler.ExternalScaler/StreamIsActive";
    const WATCH: &str = "/grpc.health.v1.Health/Watch";

    /// Answers at once, with a body; keeps the permit if it is asked to, as work does that goes on.
    struct Answer(Option<tokio::sync::oneshot::Sender<Option<CallPermit>>>);

    impl Next for Answer {
        async fn run(self, request: Request<Body>) -> Response<Body> {
            if let Some(kept) = self.0 {
                let _ = kept.send(request.extensions().get().cloned());
            }
            // One that has not ended yet.
            Response::new(Body::new(Full::new(bytes::Bytes::from_static(b"answer"))))
        }
    }

    async fn call(limit: &LoadLimit, path: &str) -> Result<Response<Body>, Code> {
        let request = Request::builder().uri(path).body(Body::default()).expect("a request");
        let response = limit.around(request, Answer(None)).await;
        match Status::from_header_map(response.headers()) {
            Some(status) => Err(status.code()),
            None => Ok(response),
        }
    }

    #[tokio::test]
    async fn a_stream_counts_for_as_long_as_it_lasts() {
        let limit = LoadLimit::new(1);
        let stream = call(&limit, OURS).await.expect("there is room");
        assert_eq!(call(&limit, OURS).await.map(drop), Err(Code::Unavailable));
        drop(stream);
        call(&limit, OURS).await.expect("there is room again");
    }

    #[tokio::test]
    async fn work_that_goes_on_counts_when_its_caller_has_hung_up() {
        let limit = LoadLimit::new(1);
        let (keep, kept) = tokio::sync::oneshot::channel();
        let request = Request::builder().uri(OURS).body(Body::default()).expect("a request");
        drop(limit.around(request, Answer(Some(keep))).await);
        let permit = kept.await.expect("it ran").expect("it has a permit");
        assert_eq!(call(&limit, OURS).await.map(drop), Err(Code::Unavailable));
        drop(permit);
        call(&limit, OURS).await.expect("there is room again");
    }

    #[tokio::test]
    async fn watches_are_bounded_and_crowd_out_neither_calls_nor_probes() {
        let limit = LoadLimit::new(1);
        let mut watches = vec![];
        for _ in 0..WATCHES {
            watches.push(call(&limit, WATCH).await.expect("there is room"));
        }
        assert_eq!(call(&limit, WATCH).await.map(drop), Err(Code::Unavailable));
        let _stream = call(&limit, OURS).await.expect("calls have room of their own");
        call(&limit, CHECK).await.expect("a probe is never turned away");
    }
}

//! Tower layers for what every gRPC call needs, so that handlers hold none of it.
//!
//! ```text
//! call ─▶ Trace ─▶ Reasons ─▶ Panics ─▶ LoadLimit ─▶ Deadline ─▶ MessageSize ─▶ handler
//! ```
//!
//! Each is a [`Policy`]: one function around a call. [`Around`] turns a policy into a tower layer.

mod deadline;
mod limit;
mod panics;
mod reasons;
mod server;
mod size;
mod trace;

pub use deadline::{CallDeadline, Deadline};
pub use limit::{CallPermit, LoadLimit};
pub use panics::Panics;
pub use reasons::Reasons;
pub use server::{Layers, ServerSettings, incoming, parse_duration};
pub use size::MessageSize;
pub use trace::{CALLS, Trace};

use http::{Request, Response};
use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tonic::body::Body;
use tower::{Layer, Service};

/// What a policy wraps: everything further in.
pub trait Next: Send + 'static {
    /// Goes on with the call.
    fn run(self, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;
}

/// One concern around a call.
pub trait Policy: Clone + Send + Sync + 'static {
    /// Handles the call, usually by running `next`.
    fn around(&self, request: Request<Body>, next: impl Next) -> impl Future<Output = Response<Body>> + Send;
}

/// A policy as a layer.
#[derive(Debug, Clone)]
pub struct Around<P>(pub P);

impl<P: Policy, S> Layer<S> for Around<P> {
    type Service = AroundService<P, S>;

    fn layer(&self, inner: S) -> Self::Service {
        AroundService { policy: self.0.clone(), inner }
    }
}

/// A policy around a service.
#[derive(Debug, Clone)]
pub struct AroundService<P, S> {
    policy: P,
    inner: S,
}

/// The rest of the stack, ready to take one call.
struct Inner<S>(S);

impl<S> Next for Inner<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
    S::Future: Send,
{
    async fn run(mut self, request: Request<Body>) -> Response<Body> {
        match self.0.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

impl<P, S> Service<Request<Body>> for AroundService<P, S>
where
    P: Policy,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The service that was polled ready takes the call; its clone waits for the next one.
        let next = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, next);
        let policy = self.policy.clone();
        Box::pin(async move { Ok(policy.around(request, Inner(ready)).await) })
    }
}

/// Whether a call is one of ours; health checks and reflection are not.
fn is_ours(request: &Request<Body>) -> bool {
    let path = request.uri().path();
    path.starts_with("/rustic_ai.") || path.starts_with("/externalscaler.")
}

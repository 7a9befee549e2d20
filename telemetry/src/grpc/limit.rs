//! A bound on calls at once: more are turned away at once instead of queued until they time out.

use super::{Next, Policy, is_ours};
use http::{Request, Response};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tonic::{Status, body::Body};

/// Sheds load: the call over the limit is UNAVAILABLE, which callers may retry.
#[derive(Debug, Clone)]
pub struct LoadLimit {
    permits: Arc<Semaphore>,
    limit: usize,
}

impl LoadLimit {
    /// At most `limit` calls at once.
    pub fn new(limit: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(limit)), limit }
    }
}

impl Policy for LoadLimit {
    async fn around(&self, request: Request<Body>, next: impl Next) -> Response<Body> {
        if !is_ours(&request) {
            return next.run(request).await;
        }
        let Ok(_permit) = self.permits.try_acquire() else {
            let text = format!("{} calls are under way, the most this service takes; retry with backoff", self.limit);
            return Status::unavailable(text).into_http();
        };
        next.run(request).await
    }
}

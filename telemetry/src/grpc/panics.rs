//! A call that panics is answered: INTERNAL, which callers must not retry blindly. Other calls of its connection go on.

use super::{Next, Policy};
use crate::tasks::message;
use futures_util::FutureExt as _;
use http::{Request, Response};
use rustic_proto::{reason::Reason, status::with_reason};
use std::panic::AssertUnwindSafe;
use tonic::body::Body;
use tracing::error;

/// Turns a panic into an answer, and logs it.
#[derive(Debug, Clone)]
pub struct Panics;

impl Policy for Panics {
    async fn around(&self, request: Request<Body>, next: impl Next) -> Response<Body> {
        let path = request.uri().path().to_owned();
        // What the call leaves behind is its own: what calls share is behind locks that hold through a panic.
        match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(panic) => {
                error!(
                    path,
                    cause = message(&*panic),
                    "a call panicked; this is a bug of the program, please report it"
                );
                let text = "internal error: a bug of this service, of which its log has more";
                with_reason(Reason::InternalError, text, &[]).into_http()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::{Code, Status};

    struct Call;

    impl Next for Call {
        async fn run(self, _request: Request<Body>) -> Response<Body> {
            panic!("as the test wants it")
        }
    }

    #[tokio::test]
    async fn a_call_that_panics_is_answered_internal_not_stopping() {
        let response = Panics.around(Request::new(Body::default()), Call).await;
        let status = Status::from_header_map(response.headers()).expect("a status");
        assert_eq!((status.code(), Reason::of(&status)), (Code::Internal, Some(Ok(Reason::InternalError))));
    }
}

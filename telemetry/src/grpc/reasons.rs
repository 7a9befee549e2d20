//! Every error has a reason that a program can read, those of the gRPC library too.

use super::{Next, Policy, is_ours};
use http::{Request, Response};
use rustic_proto::{reason::Reason, status::with_reason};
use tonic::{Code, Status, body::Body};

/// Gives a reason to errors of calls of ours that come without details: those that the gRPC library answers itself, before a
/// handler is asked.
#[derive(Debug, Clone)]
pub struct Reasons;

impl Policy for Reasons {
    async fn around(&self, request: Request<Body>, next: impl Next) -> Response<Body> {
        if !is_ours(&request) {
            return next.run(request).await;
        }
        let response = next.run(request).await;
        match Status::from_header_map(response.headers()) {
            Some(status) if status.code() != Code::Ok && status.details().is_empty() => {
                explained(&status).into_http()
            }
            _ => response,
        }
    }
}

/// The same error with a reason. The library says INTERNAL of a request that it cannot decode, which is the caller's fault.
fn explained(status: &Status) -> Status {
    let reason = match status.code() {
        Code::Unimplemented => Reason::MethodUnknown,
        Code::Internal | Code::InvalidArgument | Code::Unknown => Reason::RequestUnreadable,
        Code::ResourceExhausted | Code::OutOfRange => Reason::RequestTooLarge,
        Code::DeadlineExceeded | Code::Cancelled => Reason::DeadlineExceeded,
        _ => Reason::InternalError,
    };
    let text = match status.message() {
        "" => reason.meaning().trim(),
        text => text,
    };
    with_reason(reason, text, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Answer(Status);

    impl Next for Answer {
        async fn run(self, _request: Request<Body>) -> Response<Body> {
            self.0.into_http()
        }
    }

    async fn through(path: &str, status: Status) -> Status {
        let request = Request::builder().uri(path).body(Body::default()).expect("a request");
        let response = Reasons.around(request, Answer(status)).await;
        Status::from_header_map(response.headers()).expect("a status")
    }

    #[tokio::test]
    async fn an_error_of_the_library_gets_a_reason_and_others_keep_theirs() {
        let ours = "/rustic_ai.engine.v1.EngineService/CreateAgent";
        let decoded = through(ours, Status::internal("failed to decode Protobuf message")).await;
        assert_eq!(
            (decoded.code(), Reason::of(&decoded)),
            (Code::InvalidArgument, Some(Ok(Reason::RequestUnreadable)))
        );
        assert_eq!(decoded.message(), "failed to decode Protobuf message");
        let unknown = through(ours, Status::unimplemented("")).await;
        assert_eq!(Reason::of(&unknown), Some(Ok(Reason::MethodUnknown)));
        assert!(!unknown.message().is_empty());
        let full = with_reason(Reason::NoRoom, "no host has room", &[]);
        let kept = through(ours, full.clone()).await;
        assert_eq!((kept.code(), kept.details()), (full.code(), full.details()));
        let health = through("/grpc.health.v1.Health/Check", Status::not_found("unknown service")).await;
        assert_eq!(health.code(), Code::NotFound);
    }
}

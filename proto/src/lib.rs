//! The wire contract of both services: generated code, and the one place where its messages are checked and
//! translated to the registry's words.
//!
//! The contract itself is the `.proto` files beside this crate. Nothing here talks to a network or a store.
//!
//! | module | what |
//! | --- | --- |
//! | [`agent::v1`], [`agent_host::v1`], [`engine::v1`], [`externalscaler`] | generated from the protos |
//! | [`launch`] | what a valid launch is; a [`launch::Launch`] exists only if it is one |
//! | [`raw`] | a launch as its sender wrote it, with fields that this version does not know |
//! | [`bus`] | the message bus that a launch names |
//! | [`request`] | checks shared by the other requests: ids, page size and token, timeouts |
//! | [`violation`] | collects what is wrong with a request into one INVALID_ARGUMENT |
//! | [`reason`] | why a call was refused, for programs |
//! | [`status`] | rich error details |
//! | [`reflection`] | server reflection over the descriptors |
//! | [`convert`] | registry records to messages |

pub mod bus;
pub mod confinement;
pub mod convert;
pub mod launch;
pub mod profile;
pub mod raw;
pub mod reason;
pub mod reflection;
pub mod request;
pub mod restart;
pub mod status;
pub mod violation;

/// What an agent is on the wire: types that both services share.
pub mod agent {
    /// Version 1.
    #[allow(missing_docs, clippy::all, reason = "generated; documented in the proto files")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/agent/rustic_ai.agent.v1.rs"));
    }
}

/// Contract of agent-host.
pub mod agent_host {
    /// Version 1.
    #[allow(missing_docs, clippy::all, reason = "generated; documented in the proto files")]
    pub mod v1 {
        tonic::include_proto!("rustic_ai.agent_host.v1");
    }
}

/// Contract of engine-svc.
pub mod engine {
    /// Version 1.
    #[allow(missing_docs, clippy::all, reason = "generated; documented in the proto files")]
    pub mod v1 {
        tonic::include_proto!("rustic_ai.engine.v1");
    }
}

/// What KEDA asks of an external scaler.
#[allow(missing_docs, clippy::all, reason = "generated; documented in the proto file")]
pub mod externalscaler {
    tonic::include_proto!("externalscaler");
}

/// Descriptors of all protos, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

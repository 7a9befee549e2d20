//! Stand-ins that several tests use.

use crate::{
    answer::HostAnswer,
    channels::{Callee, HostCalls},
};
use async_trait::async_trait;
use rustic_proto::agent_host::v1 as pb;
use rustic_registry::HostId;
use std::collections::BTreeSet;
use tokio::time::Instant;

/// There are none that could be called.
pub(crate) struct NoHosts;

#[async_trait]
impl HostCalls for NoHosts {
    async fn create_agent(
        &self,
        host: &Callee,
        _message: pb::CreateAgentRequest,
        _deadline: Instant,
    ) -> HostAnswer<pb::CreateAgentResponse> {
        panic!("{} is called", host.host)
    }

    async fn stop_agent(
        &self,
        host: &Callee,
        _message: pb::StopAgentRequest,
        _deadline: Instant,
    ) -> HostAnswer<pb::StopAgentResponse> {
        panic!("{} is called", host.host)
    }

    fn retain(&self, _hosts: &BTreeSet<HostId>) {}
}

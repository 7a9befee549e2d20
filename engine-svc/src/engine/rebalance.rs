//! Moves agents from hosts with much load to hosts with little, one at a time ([`crate::balance`] says which).
//!
//! ```text
//!  the most loaded host ─▶ its agents that may move ─▶ each is asked to, unless a handler of it is at work ─▶ one goes
//!                                                              └─ all are at work ─▶ the first goes when its handler is done
//! ```

use super::{
    Engine,
    reconcile::{Relocated, Relocation},
};
use crate::{
    answer::Refused,
    balance::{self, Rebalancing},
    error::EngineError,
    fleet::FleetView,
    metrics::Move,
};
use rustic_proto::agent_host::v1::AtWorkPolicy;
use rustic_registry::{AgentRecord, HostId, Phase};
use tracing::{debug, info};

/// Agents of one host that are asked whether they are idle, in one pass.
const ASKED: usize = 64;

impl Engine {
    /// Moves one agent, if the load of hosts differs too much, nothing else is under way, and no engine has moved one a moment ago.
    pub async fn rebalance(&self, rule: &Rebalancing) -> Result<(), EngineError> {
        self.fleet.refresh().await?;
        let view = self.fleet.view();
        if self.fleet.since_moved().is_some_and(|rest| rest < rule.every) || !balance::is_quiet(&view) {
            return Ok(());
        }
        for host in balance::overloaded(&view, rule.threshold) {
            let mut agents = self.fleet.agents_on(&host).await?;
            agents.retain(|agent| self.may_move(agent, &host, &view, rule));
            if self.move_one(&agents, &host, &view).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn may_move(&self, agent: &AgentRecord, host: &HostId, view: &FleetView, rule: &Rebalancing) -> bool {
        let runs = agent.phase() == Phase::Running && agent.accepted().is_some();
        runs && agent.demand.is_movable()
            && self.fleet.moves_of(&agent.key.guild) < rule.per_guild
            && self.fleet.has_room(&agent.demand, &balance::no_better(view, host, &agent.demand))
    }

    /// Moves the first of the agents of a host that is idle; the first of all, if none is. Returns whether one has gone, or goes.
    async fn move_one(&self, agents: &[AgentRecord], host: &HostId, view: &FleetView) -> Result<bool, EngineError> {
        let idle = agents.iter().take(ASKED).map(|agent| (agent, AtWorkPolicy::Refuse));
        let any = agents.iter().take(1).map(|agent| (agent, AtWorkPolicy::Finish));
        for (agent, at_work) in idle.chain(any) {
            let Some(assignment) = agent.assignment() else { continue };
            let not_on = balance::no_better(view, host, &agent.demand);
            let relocation = Relocation { why: Move::Rebalancing, at_work, not_on: &not_on };
            match self.relocate(agent, assignment, &relocation).await? {
                Relocated::Moved => {
                    info!(agent = %agent.key, %host, "moved: other hosts have less load");
                    return Ok(true);
                }
                // It has its time to finish, and goes then.
                Relocated::Refused(Refused::Unfinished) => return Ok(true),
                Relocated::Refused(refused) => debug!(agent = %agent.key, ?refused, "it stays for now"),
            }
        }
        Ok(false)
    }
}

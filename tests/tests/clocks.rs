//! Steps of the registry's wall clock change timestamps and nothing else (P10): a real Redis whose clock is stepped, or goes wrong, while
//! agents run, hosts renew their leases out of phase, and one of them is killed.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rustic_proto::{agent::v1::AgentPhase, engine::v1 as pb};
use rustic_tests::{
    ShiftedClock, Stack, StackSettings, launches::idle, processes::lives, program::Program, stack::engine_arguments,
    wait_until,
};
use rustix::process::Signal;
use std::time::Duration;
use tokio::time::sleep;

const TTL: Duration = Duration::from_millis(1500);
const HOUR: i64 = 3600;

/// Two hosts, two engines, six agents, and the clock of their registry.
struct Stepped {
    clock: ShiftedClock,
    stack: Stack,
    _second: Program,
    agents: Vec<(String, u64, u32)>,
}

impl Stepped {
    async fn start() -> Self {
        let clock = ShiftedClock::new();
        let host_arguments = ["--lease-ttl", "1500ms", "--lease-margin", "400ms", "--lease-grace", "300ms"];
        let engine_arguments_of_all = ["--lease-ttl", "1500ms", "--lease-grace", "300ms"].map(str::to_owned).to_vec();
        let stack = Stack::with(StackSettings {
            hosts: 2,
            host_arguments: host_arguments.map(str::to_owned).to_vec(),
            engine_arguments: engine_arguments_of_all.clone(),
            redis_environment: clock.environment(),
            ..StackSettings::default()
        })
        .await;
        let _second = Program::start("engine-svc", &engine_arguments(&stack.redis.url(), &engine_arguments_of_all));
        let mut agents = vec![];
        for n in 0..6 {
            let agent = stack.create(idle("g", &n.to_string())).await.unwrap();
            agents.push((agent.agent_id, agent.epoch, agent.pid));
        }
        Self { clock, stack, _second, agents }
    }

    /// Whatever a step does, it has done when leases could have ended twice.
    async fn nothing_has_happened(&self, after: &str) {
        sleep(TTL * 2).await;
        for (agent, epoch, pid) in &self.agents {
            let now = self.stack.get("g", agent).await.unwrap();
            assert_eq!((now.phase(), now.epoch, now.pid), (AgentPhase::Running, *epoch, *pid), "{after}");
            assert!(lives(*pid), "{after}");
        }
        let here: usize = self.stack.hosts.iter().map(|h| rustic_tests::processes::agents(h.pid()).len()).sum();
        assert_eq!(here, self.agents.len(), "one process for each, {after}");
    }

    /// A host dies: its agents run on the other one, and a stop of the guild leaves none.
    async fn a_host_dies(mut self) {
        self.stack.hosts[0].signal(Signal::KILL);
        self.stack.hosts[0].ended().await;
        for (agent, epoch, pid) in &self.agents {
            let moved = |now: &rustic_proto::agent::v1::Agent| {
                now.phase() == AgentPhase::Running && now.host_id == "agent-host-1"
            };
            let now = self.stack.agent_is("the agent to run on the host that lives", "g", agent, moved).await;
            assert!(now.epoch == *epoch && now.pid == *pid || now.epoch > *epoch && !lives(*pid));
        }
        let request = pb::StopGuildRequest { guild_id: "g".to_owned(), ..Default::default() };
        let stopped = self.stack.client.clone().stop_guild(request).await.unwrap().into_inner().stopped;
        assert_eq!(stopped, 6);
        wait_until("no agent to be left", async || {
            let left = rustic_tests::processes::agents(self.stack.hosts[1].pid());
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_clock_that_steps_forward_ends_no_lease() {
    let mut stepped = Stepped::start().await;
    for seconds in [11, HOUR] {
        stepped.clock.step(seconds);
        stepped.nothing_has_happened("after a step forward").await;
    }
    stepped.clock.step(11);
    stepped.a_host_dies().await;
}

#[tokio::test]
async fn a_clock_that_steps_back_keeps_no_dead_host_alive() {
    let mut stepped = Stepped::start().await;
    stepped.clock.step(-HOUR);
    stepped.nothing_has_happened("after a step back").await;
    stepped.clock.step(-HOUR);
    stepped.a_host_dies().await;
}

#[tokio::test]
async fn a_clock_that_runs_fast_ends_no_lease() {
    let mut stepped = Stepped::start().await;
    stepped.clock.run_at(1.1);
    stepped.nothing_has_happened("on a clock that runs a tenth too fast").await;
    stepped.a_host_dies().await;
}

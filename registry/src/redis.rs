//! The store over deadpool-redis: one Lua script per change, run by its hash.
//!
//! Owns the connections and their deadlines. Decides nothing: what an operation means stands in its script under
//! `lua/`.

mod access;
mod ask;
mod pool;
mod reach;
mod read;
mod schema;
mod scripts;

pub use access::{AccessError, RedisAccess, Sentinel};
pub use schema::Schema;

use crate::{
    Registry, encoded,
    error::RegistryError,
    ids::{AgentKey, Epoch, HostId, Incarnation, StoreLife},
    keys::{self, Keys},
    ops::{
        Advance, AdvanceOutcome, Announce, Announced, AssignOutcome, Bring, Claim, ClaimOutcome, Cordon, Drift,
        EventId, Events, HostsView, Index, Look, Page, Queue, ReleaseGuard, ReleaseOutcome, Remember, Remembered,
        Renew, Renewal, Restore, Retire, Unassign,
    },
    placement::Candidates,
    record::{AgentRecord, View},
};
use access::Access;
use ask::Ask;
use async_trait::async_trait;
use deadpool_redis::redis::{self, FromRedisValue, Script, Value, aio::MultiplexedConnection};
use pool::{Connection, Pool};
use reach::Address;
use scripts::Scripts;
use std::time::Duration;
use tracing::{debug, error, warn};

/// Connections that wait for changes at once.
const WAITING: usize = 2;

/// How to reach the store.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://[user:password@]host:port/db`, the same with `rediss://` for TLS, or `unix:///path`.
    pub url: String,
    /// Who this service is, and whom it trusts, beyond what the URL says.
    pub access: RedisAccess,
    /// Prefix of all keys, without braces.
    pub prefix: String,
    /// Most connections at once.
    pub connections: usize,
    /// Longest wait for a connection and for an answer, each.
    pub timeout: Duration,
}

impl RedisSettings {
    /// Usual settings for a URL.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            access: RedisAccess::default(),
            prefix: "rustic".to_owned(),
            connections: 16,
            timeout: Duration::from_secs(2),
        }
    }

    /// Which Redis, and which database of it: the same whoever is asked by whom. Errors: the settings cannot work.
    pub fn place(&self) -> Result<String, AccessError> {
        Ok(Access::new(&self.url, &self.access)?.place())
    }
}

/// The store in Redis.
pub struct RedisRegistry {
    pool: Pool,
    /// Of those that wait for changes: nobody else stands behind them.
    waiting: Pool,
    keys: Keys,
    scripts: Scripts,
    /// The form of the data, which every script gets as an argument.
    schema: String,
    timeout: Duration,
    address: Address,
}

impl RedisRegistry {
    /// Prepares the pool; connects with the first operation. Errors: the settings cannot work.
    pub fn new(settings: &RedisSettings) -> Result<Self, AccessError> {
        Self::of_form(settings, &Schema::current())
    }

    /// The same for a version that writes another form.
    pub fn of_form(settings: &RedisSettings, schema: &Schema) -> Result<Self, AccessError> {
        let access = Access::new(&settings.url, &settings.access)?;
        let address = Address::of(&access);
        let pool = pool::pool(access.clone(), settings.connections, settings.timeout)?;
        let waiting = pool::pool_for_waiting(access, WAITING, settings.timeout)?;
        let (keys, scripts) = (Keys::new(&settings.prefix), Scripts::load(schema));
        Ok(Self { pool, waiting, keys, scripts, schema: schema.version(), timeout: settings.timeout, address })
    }

    /// Commands that the user of Redis may not run and scripts need.
    pub async fn missing_rights(&self) -> Result<Vec<String>, RegistryError> {
        let connection = self.connection().await?;
        let script = self.scripts.rights.key(self.keys.tag());
        self.answer(connection, async |c| script.invoke_async(c).await).await
    }

    /// Says in the log what Redis does not let this service do. Says nothing if Redis does not answer: then others say it.
    pub async fn tell_missing_rights(&self) {
        let (commands, of_info): (Vec<_>, Vec<_>) = match self.missing_rights().await {
            Ok(missing) => missing.into_iter().partition(|command| command != "INFO"),
            Err(why) => return debug!(%why, "the rights of the user of Redis are not known"),
        };
        if !commands.is_empty() {
            let commands = commands.join(", ");
            error!(
                commands,
                "the user of Redis may not run commands that are needed; docs/redis.md has the rights to give it"
            );
        }
        if !of_info.is_empty() {
            warn!(
                "the user of Redis may not run INFO: nobody sees that Redis was restarted and lost its last writes, and agents that these \
                 created or moved may be forgotten or run twice; give it +info"
            );
        }
    }

    async fn connection(&self) -> Result<Connection, RegistryError> {
        self.pool.get().await.map_err(|error| self.address.out_of_reach(error, self.timeout))
    }

    async fn answer<T>(
        &self,
        connection: Connection,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> redis::RedisResult<T>,
    ) -> Result<T, RegistryError> {
        pool::answer(connection, self.timeout, call).await
    }

    async fn run<T: FromRedisValue>(&self, script: &Script, ask: &Ask) -> Result<T, RegistryError> {
        self.run_on(script, None, ask).await
    }

    async fn run_on<T: FromRedisValue>(
        &self,
        script: &Script,
        index: Option<&str>,
        ask: &Ask,
    ) -> Result<T, RegistryError> {
        let connection = self.connection().await?;
        let mut call = script.prepare_invoke();
        call.key(self.keys.tag());
        if let Some(index) = index {
            call.key(index);
        }
        call.arg(ask.as_bytes()).arg(&self.schema);
        self.answer(connection, async |c| call.invoke_async(c).await).await
    }

    /// Runs a script whose answer says whether it did what it was asked for.
    async fn did(&self, script: &Script, ask: &Ask) -> Result<bool, RegistryError> {
        self.run(script, ask).await.map(|did: u8| did == 1)
    }

    fn index_key(&self, index: &Index) -> String {
        match index {
            Index::Within(_) => self.keys.all(),
            Index::Host(host) => self.keys.on(host),
        }
    }
}

#[async_trait]
impl Registry for RedisRegistry {
    async fn announce(&self, r: &Announce) -> Result<Announced, RegistryError> {
        let (store, life, returned, stops, epoch): (String, String, String, String, String) =
            self.run(&self.scripts.announce, &ask::announce(r)).await?;
        read::announced(store, &[&life, &returned, &stops, &epoch])
    }

    async fn renew(&self, r: &Renew) -> Result<Renewal, RegistryError> {
        let answer: Vec<Option<String>> = self.run(&self.scripts.renew, &ask::renew(r)).await?;
        read::renewal(&answer)
    }

    async fn depart(&self, host: &HostId, incarnation: &Incarnation) -> Result<(), RegistryError> {
        let _: Value = self.run(&self.scripts.depart, &ask::depart(host, incarnation)).await?;
        Ok(())
    }

    async fn claim(&self, r: &Claim) -> Result<ClaimOutcome, RegistryError> {
        let ask = ask::claim(r);
        loop {
            let answer: Vec<String> = self.run(&self.scripts.claim, &ask).await?;
            if answer.first().map(String::as_str) != Some("exists") {
                return read::claim(&answer);
            }
            // It may have gone since the script looked: then ask again.
            if let Some(record) = self.get(&r.key, View::Basic).await? {
                return Ok(ClaimOutcome::Exists(Box::new(record)));
            }
        }
    }

    async fn advance(&self, r: &Advance) -> Result<AdvanceOutcome, RegistryError> {
        let answer: Vec<String> = self.run(&self.scripts.advance, &ask::advance(r)).await?;
        read::advance(&answer)
    }

    async fn restore(&self, r: &Restore) -> Result<AdvanceOutcome, RegistryError> {
        let answer: Vec<String> = self.run(&self.scripts.restore, &ask::restore(r)).await?;
        read::advance(&answer)
    }

    async fn remember(&self, r: &Remember) -> Result<Remembered, RegistryError> {
        let answer: Vec<String> = self.run(&self.scripts.remember, &ask::remember(r)).await?;
        read::remember(&answer)
    }

    async fn release(
        &self,
        key: &AgentKey,
        epoch: Epoch,
        guard: ReleaseGuard,
    ) -> Result<ReleaseOutcome, RegistryError> {
        let answer: Vec<String> = self.run(&self.scripts.release, &ask::release(key, epoch, guard)).await?;
        read::release(key, &answer)
    }

    async fn unassign(&self, r: &Unassign) -> Result<ReleaseOutcome, RegistryError> {
        let answer: Vec<String> = self.run(&self.scripts.release, &ask::unassign(r)).await?;
        read::release(&r.key, &answer)
    }

    async fn assign(
        &self,
        key: &AgentKey,
        epoch: Epoch,
        candidates: &Candidates,
    ) -> Result<AssignOutcome, RegistryError> {
        let answer: Vec<String> = self.run(&self.scripts.assign, &ask::assign(key, epoch, candidates)).await?;
        read::assigned(&answer)
    }

    async fn cordon(&self, host: &HostId, cordon: Cordon) -> Result<bool, RegistryError> {
        self.did(&self.scripts.cordon, &ask::cordon(host, cordon)).await
    }

    async fn audit(&self, host: &HostId) -> Result<Option<Drift>, RegistryError> {
        let answer: Vec<String> = self.run(&self.scripts.audit, &ask::audit(host)).await?;
        Ok(read::drift(&answer))
    }

    async fn retire(&self, r: &Retire) -> Result<bool, RegistryError> {
        self.did(&self.scripts.retire, &ask::retire(r)).await
    }

    async fn forget(&self, host: &HostId, incarnation: &Incarnation) -> Result<bool, RegistryError> {
        self.did(&self.scripts.forget, &ask::forget(host, incarnation)).await
    }

    async fn bring(&self, r: &Bring) -> Result<(), RegistryError> {
        self.did(&self.scripts.bring, &ask::bring(r)).await.map(|_in_time| ())
    }

    async fn settle(&self, store: &StoreLife, watched: bool) -> Result<bool, RegistryError> {
        self.did(&self.scripts.settle, &ask::settle(store, watched)).await
    }

    async fn bury(&self, key: &AgentKey) -> Result<bool, RegistryError> {
        let answer: Vec<String> = self.run(&self.scripts.bury, &ask::bury(key)).await?;
        read::buried(key, &answer)
    }

    async fn oldest(
        &self,
        queue: Queue,
        skip: usize,
        limit: usize,
        view: View,
    ) -> Result<Vec<AgentRecord>, RegistryError> {
        let (script, index) = match queue {
            Queue::Pending => (&self.scripts.oldest, Some(self.keys.pending())),
            Queue::Lines => (&self.scripts.lines, None),
            Queue::Unaccepted => (&self.scripts.oldest, Some(self.keys.unaccepted())),
        };
        let rows: Vec<read::Row> =
            self.run_on(script, index.as_deref(), &ask::oldest(queue, skip, limit, view)).await?;
        Ok(read::page(rows, limit, view).0.agents)
    }

    async fn get(&self, key: &AgentKey, view: View) -> Result<Option<AgentRecord>, RegistryError> {
        let connection = self.connection().await?;
        let name = self.keys.agent(key);
        let mut command = redis::cmd("HMGET");
        command.arg(&name).arg(read::fields(view));
        let values = self.answer(connection, async |c| command.query_async(c).await).await?;
        read::agent(key.clone(), view, values)
    }

    async fn list(
        &self,
        index: &Index,
        after: Option<&AgentKey>,
        limit: usize,
        view: View,
    ) -> Result<Page, RegistryError> {
        let prefix = match index {
            Index::Within(scope) => encoded::prefix(scope),
            Index::Host(_) => String::new(),
        };
        let mut after = after.map(keys::member);
        loop {
            let ask = ask::list(&prefix, after.as_deref(), limit, view);
            let (store, rows): (String, Vec<read::Row>) =
                self.run_on(&self.scripts.list, Some(&self.index_key(index)), &ask).await?;
            match read::page(rows, limit, view) {
                // Nothing but names that cannot be read, after which no caller could ask for more.
                (Page { next: None, .. }, Some(end)) => after = Some(end),
                (page, _) => {
                    let settled = Some(StoreLife(store)).filter(|store| !store.0.is_empty());
                    return Ok(Page { settled, ..page });
                }
            }
        }
    }

    async fn hosts(&self) -> Result<HostsView, RegistryError> {
        let (store, hosts, former) = self.run(&self.scripts.hosts, &ask::nothing()).await?;
        read::hosts(store, hosts, former)
    }

    async fn look(&self) -> Result<Look, RegistryError> {
        let connection = self.connection().await?;
        let mut command = redis::cmd("HGETALL");
        command.arg(self.keys.leases());
        let leases = self.answer(connection, async |c| command.query_async(c).await).await?;
        read::look(leases)
    }

    async fn events(&self, after: EventId, limit: usize, wait: Duration) -> Result<Events, RegistryError> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(limit).arg("BLOCK").arg(wait.as_millis().max(1).to_string());
        command.arg("STREAMS").arg(self.keys.events()).arg(after.to_string());
        let connection = self.waiting.get().await.map_err(|error| self.address.out_of_reach(error, self.timeout))?;
        let rows =
            pool::answer_alone(connection, self.timeout + wait, async |c| command.query_async(c).await).await?;
        Ok(read::events(rows, after))
    }
}

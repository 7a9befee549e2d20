//! The store over deadpool-redis: one Lua script per change, run by its hash.
//!
//! Owns the connections and their deadlines. Decides nothing: what an operation means stands in its script under
//! `lua/`.

mod pool;
mod read;
mod schema;
mod scripts;

pub use schema::Schema;

use crate::{
    Registry,
    error::RegistryError,
    ids::{AgentKey, Epoch, HostId, Incarnation, StoreLife, UnixMillis},
    keys::{self, Keys},
    ops::{
        Advance, AdvanceOutcome, Announce, Announced, Bring, Claim, ClaimOutcome, Cordon, EventId, Events, HostsView,
        IfFull, Index, LINES, Look, Page, PlaceOutcome, Queue, ReleaseGuard, ReleaseOutcome, Remember, Remembered,
        Renew, Renewal, Restore, Retire, Unplace,
    },
    record::{AgentRecord, Documents, ExitStatus, View},
};
use async_trait::async_trait;
use deadpool_redis::redis::{self, FromRedisValue, Script, Value, aio::MultiplexedConnection};
use pool::{Connection, Pool};
use scripts::Scripts;
use std::time::Duration;

/// Connections that wait for changes at once.
const WAITING: usize = 2;

/// How to reach the store.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://[user:password@]host:port/db`, or `unix:///path`.
    pub url: String,
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
        Self { url: url.to_owned(), prefix: "rustic".to_owned(), connections: 16, timeout: Duration::from_secs(2) }
    }
}

/// The store in Redis.
pub struct RedisRegistry {
    pool: Pool,
    /// Of those that wait for changes: nobody else stands behind them.
    waiting: Pool,
    keys: Keys,
    scripts: Scripts,
    timeout: Duration,
}

impl RedisRegistry {
    /// Prepares the pool; connects with the first operation. Errors: the URL does not parse.
    pub fn new(settings: &RedisSettings) -> Result<Self, RegistryError> {
        Self::of_form(settings, &Schema::current())
    }

    /// The same for a version that writes another form.
    pub fn of_form(settings: &RedisSettings, schema: &Schema) -> Result<Self, RegistryError> {
        let pool = pool::pool(&settings.url, settings.connections, settings.timeout)?;
        let waiting = pool::pool(&settings.url, WAITING, settings.timeout)?;
        let (keys, scripts) = (Keys::new(&settings.prefix), Scripts::load(schema));
        Ok(Self { pool, waiting, keys, scripts, timeout: settings.timeout })
    }

    async fn connection(&self) -> Result<Connection, RegistryError> {
        self.pool.get().await.map_err(|e| RegistryError::Unreachable(Box::new(e)))
    }

    async fn answer<T>(
        &self,
        connection: Connection,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> redis::RedisResult<T>,
    ) -> Result<T, RegistryError> {
        pool::answer(connection, self.timeout, call).await
    }

    async fn run<T: FromRedisValue>(&self, script: &Script, args: &[&[u8]]) -> Result<T, RegistryError> {
        self.run_on(script, None, args).await
    }

    async fn run_on<T: FromRedisValue>(
        &self,
        script: &Script,
        index: Option<&str>,
        args: &[&[u8]],
    ) -> Result<T, RegistryError> {
        let connection = self.connection().await?;
        let mut call = script.prepare_invoke();
        call.key(self.keys.tag());
        if let Some(index) = index {
            call.key(index);
        }
        for arg in args {
            call.arg(*arg);
        }
        self.answer(connection, async |c| call.invoke_async(c).await).await
    }

    /// Runs a script that tells whether it did what it was asked for.
    async fn did(&self, script: &Script, args: &[String]) -> Result<bool, RegistryError> {
        let args: Vec<_> = args.iter().map(String::as_bytes).collect();
        self.run(script, &args).await.map(|did: u8| did == 1)
    }

    /// Takes an agent off its host. What it becomes: gone or pending, with which reason, in which life of the store.
    async fn take_off(
        &self,
        key: &AgentKey,
        epoch: Epoch,
        guard: ReleaseGuard,
        becomes: [&str; 3],
    ) -> Result<ReleaseOutcome, RegistryError> {
        let guard = match guard {
            ReleaseGuard::Reaped => "reaped",
            ReleaseGuard::Vouched => "vouched",
            ReleaseGuard::Failed => "failed",
            ReleaseGuard::Unaccepted => "unaccepted",
            ReleaseGuard::Unhosted => "unhosted",
            ReleaseGuard::Retired => "retired",
            ReleaseGuard::Ended => "ended",
        };
        let (guild, member, epoch) = (keys::encode(key.guild.as_str()), keys::member(key), epoch.to_string());
        let args = [[&*guild, &member, &epoch, guard].as_slice(), &becomes].concat();
        let args: Vec<_> = args.iter().map(|arg| arg.as_bytes()).collect();
        let answer: Vec<String> = self.run(&self.scripts.release, &args).await?;
        read::release(key, &answer)
    }

    fn index_key(&self, index: &Index) -> String {
        match index {
            Index::All => self.keys.all(),
            Index::Guild(guild) => self.keys.guild(guild),
            Index::Host(host) => self.keys.on(host),
        }
    }
}

fn exit_word(exit: Option<ExitStatus>) -> String {
    match exit {
        None => String::new(),
        Some(ExitStatus::Code(code)) => format!("code:{code}"),
        Some(ExitStatus::Signal(signal)) => format!("signal:{signal}"),
    }
}

fn known(store: Option<&StoreLife>) -> String {
    store.map(ToString::to_string).unwrap_or_default()
}

fn flag(set: bool) -> String {
    (if set { "1" } else { "0" }).to_owned()
}

/// A name for a life of the store, if there is none.
fn new_life() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

#[async_trait]
impl Registry for RedisRegistry {
    async fn announce(&self, r: &Announce) -> Result<Announced, RegistryError> {
        let labels = serde_json::to_string(&r.labels).unwrap_or_default();
        let args = [
            keys::encode(r.host.as_str()),
            r.incarnation.to_string(),
            r.address.clone(),
            r.capacity.to_string(),
            labels,
            r.version.clone(),
            millis(r.lasts),
            r.highest_epoch.to_string(),
            r.highest_life.to_string(),
            new_life(),
            r.succeeds.as_ref().map(ToString::to_string).unwrap_or_default(),
            known(r.knew.as_ref()),
            known(r.told.as_ref()),
            r.dns_name.clone(),
            r.state.to_string(),
            flag(r.cordoned),
            millis(r.ttl),
        ];
        let (store, life, returned, stops): (String, String, String, String) =
            self.run(&self.scripts.announce, &args.each_ref().map(|a| a.as_bytes())).await?;
        read::announced(store, &[&life, &returned, &stops])
    }

    async fn renew(&self, r: &Renew) -> Result<Renewal, RegistryError> {
        let args = [
            keys::encode(r.host.as_str()),
            r.incarnation.to_string(),
            r.life.to_string(),
            r.state.to_string(),
            r.highest_epoch.to_string(),
            r.store.to_string(),
            flag(r.told),
        ];
        let answer: Vec<Option<String>> =
            self.run(&self.scripts.renew, &args.each_ref().map(|a| a.as_bytes())).await?;
        read::renewal(&answer)
    }

    async fn depart(&self, host: &HostId, incarnation: &Incarnation) -> Result<(), RegistryError> {
        let args = [keys::encode(host.as_str()), incarnation.to_string()];
        let _: Value = self.run(&self.scripts.depart, &args.each_ref().map(|a| a.as_bytes())).await?;
        Ok(())
    }

    async fn claim(&self, r: &Claim) -> Result<ClaimOutcome, RegistryError> {
        let guild = keys::encode(r.key.guild.as_str());
        let member = keys::member(&r.key);
        let demand = r.demand.to_string();
        let (knew, asked) = (known(r.knew.as_ref()), r.asked.0.to_string());
        let candidates: Vec<String> = r.candidates.iter().map(|h| keys::encode(h.as_str())).collect();
        let args: Vec<&[u8]> = vec![
            guild.as_bytes(),
            member.as_bytes(),
            r.name.as_bytes(),
            r.request_id.as_str().as_bytes(),
            r.digest.0.as_bytes(),
            demand.as_bytes(),
            r.on_disconnect.as_str().as_bytes(),
            r.documents.spec.as_bytes(),
            &r.documents.launch,
            match r.if_full {
                IfFull::Refuse => b"refuse",
                IfFull::Wait => b"wait",
            },
            knew.as_bytes(),
            asked.as_bytes(),
            r.first_start.as_str().as_bytes(),
        ];
        let args: Vec<&[u8]> = args.into_iter().chain(candidates.iter().map(String::as_bytes)).collect();
        loop {
            let answer: Vec<String> = self.run(&self.scripts.claim, &args).await?;
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
        let args = [
            keys::member(&r.key),
            r.epoch.to_string(),
            r.phase.as_str().to_owned(),
            r.pid.unwrap_or(0).to_string(),
            r.restarts.to_string(),
            r.reason.clone(),
            exit_word(r.exit),
            known(r.knew.as_ref()),
            r.sequence.to_string(),
            r.last_lines.join("\n"),
        ];
        let answer: Vec<String> = self.run(&self.scripts.advance, &args.each_ref().map(|a| a.as_bytes())).await?;
        read::advance(&answer)
    }

    async fn restore(&self, r: &Restore) -> Result<AdvanceOutcome, RegistryError> {
        let a = &r.advance;
        let texts = [
            keys::encode(a.key.guild.as_str()),
            keys::member(&a.key),
            a.epoch.to_string(),
            keys::encode(r.host.as_str()),
            r.incarnation.to_string(),
            known(a.knew.as_ref()),
            a.phase.as_str().to_owned(),
            a.pid.unwrap_or(0).to_string(),
            a.restarts.to_string(),
            a.reason.clone(),
            exit_word(a.exit),
            r.name.clone(),
            r.request_id.to_string(),
            r.digest.0.clone(),
            r.demand.to_string(),
            r.on_disconnect.as_str().to_owned(),
            r.documents.spec.clone(),
        ];
        let (machine_id, created) = (r.machine_id.to_string(), r.created.0.to_string());
        let sequence = a.sequence.to_string();
        let mut args: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
        args.extend([&r.documents.launch, machine_id.as_bytes(), created.as_bytes(), sequence.as_bytes()]);
        let had = known(r.had.as_ref());
        args.push(had.as_bytes());
        let lines = a.last_lines.join("\n");
        args.push(lines.as_bytes());
        let answer: Vec<String> = self.run(&self.scripts.restore, &args).await?;
        read::advance(&answer)
    }

    async fn remember(&self, r: &Remember) -> Result<Remembered, RegistryError> {
        let record = &r.record;
        let Documents { spec, launch } = record.documents.clone().unwrap_or_default();
        let exit = record.last_exit;
        let millis_of = |at: Option<UnixMillis>| at.map(|at| at.0.to_string()).unwrap_or_default();
        let before = [
            keys::encode(record.key.guild.as_str()),
            keys::member(&record.key),
            record.epoch.to_string(),
            record.phase.as_str().to_owned(),
            r.had.to_string(),
            record.name.clone(),
            record.request_id.to_string(),
            record.digest.0.clone(),
            record.demand.to_string(),
            record.on_disconnect.as_str().to_owned(),
            spec,
        ];
        let after = [
            record.machine_id.to_string(),
            record.created.0.to_string(),
            record.restarts.to_string(),
            record.reason.clone(),
            exit_word(exit.map(|exit| exit.status)),
            millis_of(exit.map(|exit| exit.at)),
            record.last_lines.join("\n"),
            millis_of(record.running),
            record.first_start.as_str().to_owned(),
        ];
        let mut args: Vec<&[u8]> = before.iter().map(String::as_bytes).collect();
        args.push(&launch);
        args.extend(after.iter().map(String::as_bytes));
        let answer: Vec<String> = self.run(&self.scripts.remember, &args).await?;
        read::remember(&answer)
    }

    async fn release(
        &self,
        key: &AgentKey,
        epoch: Epoch,
        guard: ReleaseGuard,
    ) -> Result<ReleaseOutcome, RegistryError> {
        self.take_off(key, epoch, guard, ["gone", "", ""]).await
    }

    async fn unplace(&self, r: &Unplace) -> Result<ReleaseOutcome, RegistryError> {
        let knew = known(r.knew.as_ref());
        self.take_off(&r.key, r.epoch, r.guard, ["pending", &r.reason, &knew]).await
    }

    async fn place(
        &self,
        key: &AgentKey,
        epoch: Epoch,
        candidates: &[HostId],
    ) -> Result<PlaceOutcome, RegistryError> {
        let mut args = vec![keys::member(key), epoch.to_string()];
        args.extend(candidates.iter().map(|h| keys::encode(h.as_str())));
        let args: Vec<_> = args.iter().map(String::as_bytes).collect();
        let answer: Vec<String> = self.run(&self.scripts.place, &args).await?;
        read::place(&answer)
    }

    async fn cordon(&self, host: &HostId, cordon: Cordon) -> Result<bool, RegistryError> {
        self.did(&self.scripts.cordon, &[keys::encode(host.as_str()), flag(cordon == Cordon::On)]).await
    }

    async fn retire(&self, r: &Retire) -> Result<bool, RegistryError> {
        let (life, renewals) = r.seen;
        let args = [
            keys::encode(r.host.as_str()),
            r.incarnation.to_string(),
            life.to_string(),
            renewals.to_string(),
            r.store.to_string(),
        ];
        self.did(&self.scripts.retire, &args).await
    }

    async fn forget(&self, host: &HostId, incarnation: &Incarnation) -> Result<bool, RegistryError> {
        self.did(&self.scripts.forget, &[keys::encode(host.as_str()), incarnation.to_string()]).await
    }

    async fn bring(&self, r: &Bring) -> Result<(), RegistryError> {
        let mut args = vec![
            r.had.to_string(),
            new_life(),
            r.highest_epoch.to_string(),
            r.highest_life.to_string(),
            r.hosts.len().to_string(),
        ];
        for (host, incarnation, lasts) in &r.hosts {
            args.extend([keys::encode(host.as_str()), incarnation.to_string(), millis(*lasts)]);
        }
        for (key, epoch) in &r.stopped {
            args.extend([keys::member(key), epoch.to_string()]);
        }
        self.did(&self.scripts.bring, &args).await.map(|_in_time| ())
    }

    async fn settle(&self, store: &StoreLife, watched: bool) -> Result<bool, RegistryError> {
        self.did(&self.scripts.settle, &[store.to_string(), flag(watched)]).await
    }

    async fn bury(&self, key: &AgentKey) -> Result<bool, RegistryError> {
        let answer: Vec<String> = self.run(&self.scripts.bury, &[keys::member(key).as_bytes()]).await?;
        read::buried(key, &answer)
    }

    async fn oldest(
        &self,
        queue: Queue,
        skip: usize,
        limit: usize,
        view: View,
    ) -> Result<Vec<AgentRecord>, RegistryError> {
        let (script, index, skip) = match queue {
            Queue::Pending => (&self.scripts.oldest, Some(self.keys.pending()), vec![skip]),
            Queue::Lines => (&self.scripts.lines, None, vec![skip, LINES]),
            Queue::Unaccepted => (&self.scripts.oldest, Some(self.keys.unaccepted()), vec![skip]),
        };
        let texts: Vec<_> = skip.into_iter().chain([limit]).map(|number| number.to_string()).collect();
        let mut args: Vec<_> = texts.iter().map(String::as_bytes).collect();
        args.extend(read::fields(view).iter().map(|f| f.as_bytes()));
        let rows: Vec<read::Row> = self.run_on(script, index.as_deref(), &args).await?;
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
        let mut after = after.map(keys::member).unwrap_or_default();
        let limit_text = limit.to_string();
        loop {
            let mut args: Vec<&[u8]> = vec![after.as_bytes(), limit_text.as_bytes()];
            args.extend(read::fields(view).iter().map(|f| f.as_bytes()));
            let (store, rows): (String, Vec<read::Row>) =
                self.run_on(&self.scripts.list, Some(&self.index_key(index)), &args).await?;
            match read::page(rows, limit, view) {
                // Nothing but names that cannot be read, after which no caller could ask for more.
                (Page { next: None, .. }, Some(end)) => after = end,
                (page, _) => {
                    let settled = Some(StoreLife(store)).filter(|store| !store.0.is_empty());
                    return Ok(Page { settled, ..page });
                }
            }
        }
    }

    async fn hosts(&self) -> Result<HostsView, RegistryError> {
        let (store, hosts, former) = self.run(&self.scripts.hosts, &[]).await?;
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
        let connection = self.waiting.get().await.map_err(|e| RegistryError::Unreachable(Box::new(e)))?;
        let rows =
            pool::answer_alone(connection, self.timeout + wait, async |c| command.query_async(c).await).await?;
        Ok(read::events(rows, after))
    }
}

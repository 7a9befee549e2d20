//! Who this service is to Redis, and whom it trusts to be Redis.
//!
//! What is secret, or may be replaced while a service runs, stands in files. They are read for every new connection, so a password or a
//! certificate is rotated without a restart: Redis accepts both passwords for a while, the file gets the new one, connections that Redis
//! then closes are made anew.
//!
//! Where sentinels watch Redis, they are asked for every new connection which server is the primary. After a failover, connections to the
//! former one break, or refuse to write: those are thrown away too (`pool`).

use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo as _, RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, cmd,
};
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// Longest wait for one sentinel before the next is asked.
const SENTINEL: Duration = Duration::from_millis(500);

/// A sentinel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentinel {
    host: String,
    port: u16,
}

impl FromStr for Sentinel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = parts.filter(|(host, _)| !host.is_empty()).ok_or("must be HOST:PORT")?;
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port })
    }
}

impl fmt::Display for Sentinel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Identity and trust, beyond what the URL says.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct RedisAccess {
    /// User of Redis; default: that in --redis-url, or Redis' default user
    #[arg(long, value_name = "NAME")]
    pub redis_username: Option<String>,
    /// File with the password of Redis, read for every new connection; default: the password in --redis-url
    #[arg(long, value_name = "FILE")]
    pub redis_password_file: Option<PathBuf>,
    /// File with the certificates of those who vouch for Redis, in PEM; needs rediss:// in --redis-url; default: those of the system
    #[arg(long, value_name = "FILE")]
    pub redis_ca: Option<PathBuf>,
    /// File with the certificate of this service for Redis, in PEM; needs --redis-key
    #[arg(long, value_name = "FILE", requires = "redis_key")]
    pub redis_certificate: Option<PathBuf>,
    /// File with the key of that certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "redis_certificate")]
    pub redis_key: Option<PathBuf>,
    /// Sentinel that is asked which Redis is the primary; the host in --redis-url is the name of the primary then. May be given several times
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT")]
    pub redis_sentinel: Vec<Sentinel>,
    /// File with the password of the sentinels; default: they have none
    #[arg(long, value_name = "FILE", requires = "redis_sentinel")]
    pub redis_sentinel_password_file: Option<PathBuf>,
}

/// Settings cannot work together, or at all.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The URL is none.
    #[error(
        "the Redis URL is wrong: {0}; it is like redis://host:6379/0, rediss://host:6379/0 with TLS, or unix:///path/to/redis.sock"
    )]
    Url(#[source] RedisError),
    /// TLS is meant, and not asked for.
    #[error("{0} is of use with TLS only; begin the Redis URL with rediss:// instead of redis://")]
    NotTls(&'static str),
    /// Sentinels watch servers.
    #[error(
        "--redis-sentinel needs the name of the primary in the Redis URL, such as redis://mymaster/0, and no socket"
    )]
    NoName,
    /// Trust cannot be established.
    #[error("{flag} {}: {source}", .path.display())]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The files cannot be used.
    #[error(
        "the files for TLS cannot be used: {0}; --redis-ca and --redis-certificate name certificates, --redis-key a key, all in PEM"
    )]
    Tls(#[source] RedisError),
}

/// Makes clients.
#[derive(Debug, Clone)]
pub(super) struct Access {
    info: ConnectionInfo,
    files: RedisAccess,
}

impl Access {
    /// Checks settings, by making a client. Errors: they cannot work.
    pub(super) fn new(url: &str, files: &RedisAccess) -> Result<Self, AccessError> {
        let info = url.into_connection_info().map_err(AccessError::Url)?;
        let is_tls = is_tls(info.addr());
        if !files.redis_sentinel.is_empty() && matches!(info.addr(), ConnectionAddr::Unix(_)) {
            return Err(AccessError::NoName);
        }
        let of_tls = [("--redis-ca", &files.redis_ca), ("--redis-certificate", &files.redis_certificate)];
        match of_tls.iter().find(|(_, file)| file.is_some()) {
            Some((flag, _)) if !is_tls => return Err(AccessError::NotTls(flag)),
            _ => {}
        }
        if is_tls {
            // Whoever was first has chosen the same.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let access = Self { info, files: files.clone() };
        access.client()?;
        Ok(access)
    }

    /// Where Redis is, without what is secret.
    pub(super) fn address(&self) -> String {
        match self.files.redis_sentinel.as_slice() {
            [] => named(self.info.addr()),
            sentinels => format!("the primary {} of {}", host(self.info.addr()), listed(sentinels)),
        }
    }

    /// Whether it is reached through TLS.
    pub(super) fn is_tls(&self) -> bool {
        is_tls(self.info.addr())
    }

    /// Where Redis is, with the number of the database, whoever is asked for it.
    pub(super) fn place(&self) -> String {
        format!("{}/{}", named(self.info.addr()), self.info.redis_settings().db())
    }

    /// A client of the Redis that is the primary now.
    pub(super) async fn current(&self) -> RedisResult<Client> {
        if self.files.redis_sentinel.is_empty() {
            return Ok(self.client()?);
        }
        Ok(self.client_of(self.primary().await?, self.identity()?)?)
    }

    /// The address of the primary, by the first sentinel that knows it.
    async fn primary(&self) -> RedisResult<ConnectionAddr> {
        let mut troubles = vec![];
        for sentinel in &self.files.redis_sentinel {
            match self.ask(sentinel).await {
                Ok(Some((host, port))) => return Ok(self.like(host, port)),
                Ok(None) => troubles.push(format!("{sentinel} watches no such primary")),
                Err(error) => troubles.push(format!("{sentinel}: {error}")),
            }
        }
        let (name, troubles) = (host(self.info.addr()), troubles.join("; "));
        let why = format!("no sentinel says where the primary {name} is ({troubles})");
        Err(RedisError::from((ErrorKind::Io, "no primary is known", why)))
    }

    async fn ask(&self, Sentinel { host: name, port }: &Sentinel) -> RedisResult<Option<(String, u16)>> {
        let mut identity = RedisConnectionInfo::default();
        if let Some(path) = &self.files.redis_sentinel_password_file {
            identity = identity.set_password(password("--redis-sentinel-password-file", path)?);
        }
        let client = self.client_of(self.like(name.clone(), *port), identity)?;
        let soon = AsyncConnectionConfig::new();
        let soon = soon.set_connection_timeout(Some(SENTINEL)).set_response_timeout(Some(SENTINEL));
        let mut sentinel = client.get_multiplexed_async_connection_with_config(&soon).await?;
        let mut question = cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(host(self.info.addr()));
        question.query_async(&mut sentinel).await
    }

    /// Another address that is reached in the same way.
    fn like(&self, host: String, port: u16) -> ConnectionAddr {
        match self.info.addr() {
            ConnectionAddr::TcpTls { .. } => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            _ => ConnectionAddr::Tcp(host, port),
        }
    }

    /// A client of the Redis that the URL names, by what the files say now. Errors: one cannot be used.
    pub(super) fn client(&self) -> Result<Client, AccessError> {
        self.client_of(self.info.addr().clone(), self.identity()?)
    }

    fn identity(&self) -> Result<RedisConnectionInfo, AccessError> {
        let files = &self.files;
        let mut identity = self.info.redis_settings().clone();
        if let Some(name) = &files.redis_username {
            identity = identity.set_username(name);
        }
        if let Some(path) = &files.redis_password_file {
            identity = identity.set_password(password("--redis-password-file", path)?);
        }
        Ok(identity)
    }

    fn client_of(&self, address: ConnectionAddr, identity: RedisConnectionInfo) -> Result<Client, AccessError> {
        let (files, info) = (&self.files, self.info.clone().set_addr(address).set_redis_settings(identity));
        if !is_tls(info.addr()) {
            return Client::open(info).map_err(AccessError::Url);
        }
        let client_tls = match (&files.redis_certificate, &files.redis_key) {
            (Some(certificate), Some(key)) => Some(ClientTlsConfig {
                client_cert: read("--redis-certificate", certificate)?,
                client_key: read("--redis-key", key)?,
            }),
            _ => None,
        };
        let root_cert = files.redis_ca.as_ref().map(|path| read("--redis-ca", path)).transpose()?;
        Client::build_with_tls(info, TlsCertificates { client_tls, root_cert }).map_err(AccessError::Tls)
    }
}

fn is_tls(address: &ConnectionAddr) -> bool {
    matches!(address, ConnectionAddr::TcpTls { .. })
}

fn named(address: &ConnectionAddr) -> String {
    match address {
        ConnectionAddr::Unix(path) => path.display().to_string(),
        address => address.to_string(),
    }
}

/// The host of an address: with sentinels the name of the primary.
fn host(address: &ConnectionAddr) -> &str {
    match address {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
        _ => "",
    }
}

fn listed(sentinels: &[Sentinel]) -> String {
    sentinels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The password in a file. Editors and secrets end a file with a line break, passwords do not.
fn password(flag: &'static str, path: &Path) -> Result<String, AccessError> {
    let text = String::from_utf8(read(flag, path)?).map_err(|error| AccessError::File {
        flag,
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()),
    })?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, AccessError> {
    fs::read(path).map_err(|source| AccessError::File { flag, path: path.to_owned(), source })
}

/// While a service runs, a file that cannot be used is what keeps a connection from being made.
impl From<AccessError> for RedisError {
    fn from(error: AccessError) -> Self {
        Self::from((ErrorKind::InvalidClientConfig, "no connection can be made", error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str, files: &RedisAccess) -> String {
        Access::new(url, files).expect_err("it cannot work").to_string()
    }

    #[test]
    fn settings_that_cannot_work_are_refused_with_what_to_do() {
        let none = RedisAccess::default();
        let wrong = refused("http://:secret@redis:6379", &none);
        assert!(
            wrong.contains("the Redis URL is wrong") && wrong.contains("rediss://host") && !wrong.contains("secret"),
            "{wrong}"
        );
        let ca = RedisAccess { redis_ca: Some("/nowhere/ca.pem".into()), ..none.clone() };
        assert!(refused("redis://redis:6379", &ca).contains("--redis-ca is of use with TLS only"));
        assert!(refused("rediss://redis:6379", &ca).starts_with("--redis-ca /nowhere/ca.pem: No such file"));
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        fs::write(&file, "-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n").expect("written");
        let broken = RedisAccess { redis_ca: Some(file.clone()), ..none.clone() };
        assert!(refused("rediss://redis:6379", &broken).contains("the files for TLS cannot be used"));
        let password = RedisAccess { redis_password_file: Some("/nowhere/password".into()), ..none };
        assert!(refused("redis://redis:6379", &password).contains("--redis-password-file /nowhere/password"));
    }

    #[test]
    fn sentinels_have_a_host_and_a_port_and_watch_a_name() {
        let parsed = |text: &str| text.parse::<Sentinel>().map(|sentinel| sentinel.to_string());
        assert_eq!(parsed("redis-0.redis:26379").as_deref(), Ok("redis-0.redis:26379"));
        assert_eq!("[fd00::1]:26379".parse::<Sentinel>().expect("an address").host, "fd00::1");
        for wrong in ["redis", "redis:", ":26379", "redis:x"] {
            assert_eq!(parsed(wrong), Err("must be HOST:PORT".to_owned()), "{wrong}");
        }
        let sentinels = ["a:1", "b:2"].map(|text| text.parse().expect("one")).to_vec();
        let files = RedisAccess { redis_sentinel: sentinels, ..RedisAccess::default() };
        let access = Access::new("redis://mymaster/1", &files).expect("it can work");
        assert_eq!(access.address(), "the primary mymaster of a:1, b:2");
        assert_eq!(access.place(), "mymaster:6379/1");
        assert!(refused("unix:///run/redis.sock", &files).contains("--redis-sentinel needs the name"));
    }

    #[test]
    fn a_place_has_neither_password_nor_user_and_is_the_same_with_and_without_tls() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("password");
        fs::write(&file, "one\n").expect("written");
        let files = RedisAccess {
            redis_username: Some("rustic".to_owned()),
            redis_password_file: Some(file.clone()),
            ..RedisAccess::default()
        };
        let access = Access::new("redis://somebody:else@redis:6379/3", &files).expect("it can work");
        assert_eq!(access.place(), "redis:6379/3");
        let identity = || {
            let client = access.client().expect("it can work");
            let settings = client.get_connection_info().redis_settings();
            (settings.username().map(str::to_owned), settings.password().map(str::to_owned))
        };
        assert_eq!(identity(), (Some("rustic".to_owned()), Some("one".to_owned())));
        fs::write(&file, "two").expect("written");
        assert_eq!(identity().1.as_deref(), Some("two"), "the file is read anew");
    }
}

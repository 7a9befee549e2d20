//! Who this service is to Redis, and whom it trusts to be Redis.
//!
//! What is secret, or may be replaced while a service runs, stands in files. They are read for every new connection, so a password or a
//! certificate is rotated without a restart: Redis accepts both passwords for a while, the file gets the new one, connections that Redis
//! then closes are made anew.

use deadpool_redis::redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError,
    TlsCertificates,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

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
        let is_tls = is_tls(&info);
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
        match self.info.addr() {
            ConnectionAddr::Unix(path) => path.display().to_string(),
            address => address.to_string(),
        }
    }

    /// Whether it is reached through TLS.
    pub(super) fn is_tls(&self) -> bool {
        is_tls(&self.info)
    }

    /// Where Redis is, with the number of the database.
    pub(super) fn place(&self) -> String {
        format!("{}/{}", self.address(), self.info.redis_settings().db())
    }

    /// A client, by what the files say now. Errors: one cannot be used.
    pub(super) fn client(&self) -> Result<Client, AccessError> {
        let files = &self.files;
        let mut identity = self.info.redis_settings().clone();
        if let Some(name) = &files.redis_username {
            identity = identity.set_username(name);
        }
        if let Some(path) = &files.redis_password_file {
            let password = read("--redis-password-file", path)?;
            let password = String::from_utf8(password).map_err(|error| AccessError::File {
                flag: "--redis-password-file",
                path: path.clone(),
                source: io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()),
            })?;
            // Editors and secrets end a file with a line break, passwords do not.
            identity = identity.set_password(password.trim_end_matches(['\n', '\r']));
        }
        let info = self.info.clone().set_redis_settings(identity);
        if !is_tls(&info) {
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

fn is_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
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

//! A Redis with TLS, users and passwords: who is let in, who is trusted, and what changes while a service runs.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustic_registry::{
    Cordon, RedisAccess, RedisRegistry, RedisSettings, Registry as _, RegistryError,
    dev_server::{DevServer, Durability},
};
use std::{fs, net::TcpListener, path::PathBuf};
use tempfile::TempDir;

/// A Redis that speaks TLS on a port of its own, and files for its clients.
struct Secured {
    server: DevServer,
    port: u16,
    dir: TempDir,
}

impl Secured {
    fn start(asks_for_certificates: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = DevServer::start(dir.path(), Durability::None).unwrap();
        for (name, of) in [("ca", "redis"), ("other-ca", "nobody")] {
            let ca = authority();
            fs::write(dir.path().join(format!("{name}.pem")), ca.pem()).unwrap();
            for holder in [of, "client"] {
                let key = KeyPair::generate().unwrap();
                let names = vec!["localhost".to_owned()];
                let mut params = CertificateParams::new(names).unwrap();
                params.distinguished_name.push(DnType::CommonName, format!("{holder} of {name}"));
                let certificate = params.signed_by(&key, &ca).unwrap();
                fs::write(dir.path().join(format!("{name}-{holder}.pem")), certificate.pem()).unwrap();
                fs::write(dir.path().join(format!("{name}-{holder}.key")), key.serialize_pem()).unwrap();
            }
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = |name: &str| dir.path().join(name).display().to_string();
        let mut admin = server.admin();
        let asks = if asks_for_certificates { "yes" } else { "no" };
        for (setting, value) in [
            ("tls-ca-cert-file", file("ca.pem")),
            ("tls-cert-file", file("ca-redis.pem")),
            ("tls-key-file", file("ca-redis.key")),
            ("tls-auth-clients", asks.to_owned()),
            ("tls-port", port.to_string()),
        ] {
            assert_eq!(admin.run(&format!("CONFIG SET {setting} {value}")), "+OK", "{setting}");
        }
        Self { server, port, dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn trusts(&self, ca: &str) -> RedisAccess {
        RedisAccess { redis_ca: Some(self.file(ca)), ..RedisAccess::default() }
    }

    fn registry(&self, host: &str, access: RedisAccess) -> RedisRegistry {
        let url = format!("rediss://{host}:{}/0", self.port);
        RedisRegistry::new(&RedisSettings { access, ..RedisSettings::new(&url) }).unwrap()
    }

    async fn refuses(&self, host: &str, access: RedisAccess) -> String {
        self.registry(host, access).hosts().await.expect_err("it is not let in").to_string()
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test]
async fn redis_is_reached_through_tls_if_it_is_who_it_says_it_is() {
    let redis = Secured::start(false);
    assert!(redis.registry("localhost", redis.trusts("ca.pem")).hosts().await.is_ok());
    for (host, ca) in [("localhost", "other-ca.pem"), ("127.0.0.1", "ca.pem")] {
        let why = redis.refuses(host, redis.trusts(ca)).await;
        assert!(
            why.contains("the certificate of Redis is not trusted; --redis-ca names who vouches"),
            "{host} {ca}: {why}"
        );
    }
    // One side expects TLS, and the other does not.
    let url = format!("redis://localhost:{}/0", redis.port);
    let plain = RedisRegistry::new(&RedisSettings::new(&url)).unwrap().hosts().await;
    assert!(matches!(plain, Err(RegistryError::Unreachable(_))), "{plain:?}");
    let url = redis.server.url().replace("redis://127.0.0.1", "rediss://localhost");
    let settings = RedisSettings { access: redis.trusts("ca.pem"), ..RedisSettings::new(&url) };
    let why = RedisRegistry::new(&settings).unwrap().hosts().await.expect_err("no TLS").to_string();
    assert!(why.contains("that Redis speaks TLS on this port"), "{why}");
}

#[tokio::test]
async fn a_redis_that_asks_for_certificates_gets_the_one_that_the_files_hold_now() {
    let redis = Secured::start(true);
    let why = redis.refuses("localhost", redis.trusts("ca.pem")).await;
    assert!(why.contains("--redis-certificate and --redis-key name it"), "{why}");
    let (certificate, key) = (redis.file("mine.pem"), redis.file("mine.key"));
    let put = |ca: &str| {
        fs::copy(redis.file(&format!("{ca}-client.pem")), &certificate).unwrap();
        fs::copy(redis.file(&format!("{ca}-client.key")), &key).unwrap();
    };
    put("other-ca");
    let shows = RedisAccess {
        redis_certificate: Some(certificate.clone()),
        redis_key: Some(key.clone()),
        ..redis.trusts("ca.pem")
    };
    let registry = redis.registry("localhost", shows);
    assert!(registry.hosts().await.is_err(), "by somebody whom Redis does not trust");
    put("ca");
    registry.hosts().await.expect("by somebody whom it does");
}

#[tokio::test]
async fn a_password_is_rotated_while_a_service_runs() {
    let dir = tempfile::tempdir().unwrap();
    let server = DevServer::start(dir.path(), Durability::None).unwrap();
    let (mut admin, file) = (server.admin(), dir.path().join("password"));
    assert_eq!(admin.run("ACL SETUSER rustic on >old ~* +@all"), "+OK");
    fs::write(&file, "old\n").unwrap();
    let access = RedisAccess {
        redis_username: Some("rustic".to_owned()),
        redis_password_file: Some(file.clone()),
        ..RedisAccess::default()
    };
    let registry = RedisRegistry::new(&RedisSettings { access, ..RedisSettings::new(&server.url()) }).unwrap();
    registry.hosts().await.expect("with the old password");
    admin.run("ACL SETUSER rustic >new");
    fs::write(&file, "new\n").unwrap();
    registry.hosts().await.expect("while both are good");
    admin.run("ACL SETUSER rustic <old");
    admin.run("CLIENT KILL USER rustic");
    // The connection that was cut off is thrown away; the next one is made with the new password.
    let _cut_off = registry.hosts().await;
    registry.hosts().await.expect("with the new password");

    fs::write(&file, "wrong").unwrap();
    admin.run("CLIENT KILL USER rustic");
    let _cut_off = registry.hosts().await;
    let why = registry.hosts().await.expect_err("a wrong one").to_string();
    assert!(
        why.contains("Redis knows no such user with this password") && why.contains("--redis-password-file"),
        "{why}"
    );
    fs::remove_file(&file).unwrap();
    let why = registry.hosts().await.expect_err("none at all").to_string();
    assert!(why.contains("--redis-password-file") && why.contains("No such file"), "{why}");
    fs::write(&file, "new").unwrap();
    registry.hosts().await.expect("when it is put right");
}

#[tokio::test]
async fn a_user_that_may_not_ask_for_info_can_do_all_else_and_one_that_lacks_a_command_is_told_which() {
    let dir = tempfile::tempdir().unwrap();
    let server = DevServer::start(dir.path(), Durability::None).unwrap();
    let rights =
        include_str!("../../docs/redis.md").lines().find(|line| line.starts_with("ACL SETUSER rustic on")).unwrap();
    let mut admin = server.admin();
    assert_eq!(admin.run(&rights.replace(" +info", "")), "+OK");
    let url = server.url().replacen("://", "://rustic:password@", 1);
    let registry = RedisRegistry::new(&RedisSettings::new(&url)).unwrap();
    let host = "h-0".parse().unwrap();
    assert!(!registry.cordon(&host, Cordon::On).await.unwrap(), "a script that writes runs");
    assert_eq!(registry.missing_rights().await.unwrap(), ["INFO"]);
    admin.run("ACL SETUSER rustic -get -zpopmin");
    assert_eq!(registry.missing_rights().await.unwrap(), ["GET", "ZPOPMIN", "INFO"]);
    let why = registry.cordon(&host, Cordon::On).await.expect_err("a command is missing").to_string();
    assert!(why.contains("docs/redis.md"), "{why}");
    // Keys of another prefix are nobody's business.
    let other = RedisSettings { prefix: "other".to_owned(), ..RedisSettings::new(&url) };
    let why = RedisRegistry::new(&other).unwrap().missing_rights().await.expect_err("not its keys").to_string();
    assert!(why.contains("docs/redis.md"), "{why}");
}

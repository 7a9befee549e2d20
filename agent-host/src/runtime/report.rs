//! What a process reports to its host: ready, or why not; later, what it set aside, and why it ends.
//!
//! A Python agent writes one JSON object and a line end to the socket that is its standard input:
//!
//! ```json
//! {"event": "ready", "import_seconds": 0.61, "initialize_seconds": 0.03, "imports": {"own": "my.agents", ...}}
//! {"event": "failed", "stage": "import", "error": "ModuleNotFoundError: ...", "traceback": "..."}
//! {"event": "set_aside", "topic": "guild:topic", "message_id": 9341230011228161}
//! {"event": "ended", "reason": "a handler raised SystemExit: 3"}
//! ```
//!
//! Nothing follows `failed` and `ended`; one of `ready`, `failed` and `ended` comes first, or messages set aside.
//!
//! A command reports nothing and counts as ready once it was executed.

use crate::{agent::poison::Delivery, zygote::Imports};
use serde::Deserialize;
use std::{io, os::unix::net::UnixStream as StdUnixStream, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, pipe},
    },
    task::JoinSet,
};

/// Longest report; a traceback is cut by the runtime before, and so are long lists of modules.
const MAX_REPORT: usize = 8 << 20;
/// Reports that are read of one process.
const MAX_REPORTS: usize = 1000;
/// Longest reason of an end.
const MAX_REASON: usize = 1024;

/// Where a start failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// A document of the launch is not what Rustic AI expects.
    Spec,
    /// The agent's class cannot be imported.
    Import,
    /// The client type is unknown.
    ClientType,
    /// Building or subscribing the agent raised.
    Initialize,
}

/// Why an agent could not start, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InitFailure {
    /// Where.
    pub stage: Stage,
    /// The error in one line.
    pub error: String,
    /// Where it came from.
    #[serde(default)]
    pub traceback: String,
    /// Field of the launch that is wrong, when the stage is [`Stage::Spec`].
    #[serde(default)]
    pub field: String,
}

impl InitFailure {
    /// A process said something that is no report.
    pub fn garbled(what: &str) -> Self {
        let error = format!("the agent runtime sent a report that cannot be read: {what}");
        Self { stage: Stage::Initialize, error, traceback: String::new(), field: String::new() }
    }
}

/// How long the parts of a start took, as the process reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StartTimes {
    /// Interpreter start and imports.
    pub import: Option<Duration>,
    /// Building and subscribing.
    pub initialize: Option<Duration>,
}

/// What a process reports.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// It is ready; also what its class imports, if it was asked.
    Ready(StartTimes, Option<Imports>),
    /// It will not become ready.
    Failed(InitFailure),
    /// It has set a message aside that it was asked to skip.
    SetAside(Delivery),
    /// It ends itself, for this reason.
    Ended(String),
    /// It said something that is no report.
    Garbled(String),
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Wire {
    Ready {
        import_seconds: f64,
        initialize_seconds: f64,
        #[serde(default)]
        imports: Option<Imports>,
    },
    Failed(InitFailure),
    SetAside(Delivery),
    Ended {
        reason: String,
    },
}

/// The parent's end of a process's standard input, before the process exists.
pub(super) enum Feed {
    /// Two-way: document in, report out.
    Socket(StdUnixStream, Vec<u8>),
    /// One-way: document in.
    Pipe(io::PipeWriter, Vec<u8>),
}

impl Feed {
    /// Begins to write the document, in the background: a process that never reads must not hold us up.
    pub(super) fn start(self) -> io::Result<Reports> {
        let mut writers = JoinSet::new();
        match self {
            Self::Socket(socket, document) => {
                socket.set_nonblocking(true)?;
                let (reader, writer) = UnixStream::from_std(socket)?.into_split();
                writers.spawn(write(writer, document));
                Ok(Reports::new(Some(BufReader::new(reader)), writers))
            }
            Self::Pipe(pipe, document) => {
                writers.spawn(write(pipe::Sender::from_owned_fd(pipe.into())?, document));
                Ok(Reports::new(None, writers))
            }
        }
    }
}

/// Writes and closes. A process that ended, or closed its input, does not want the rest.
async fn write(mut to: impl AsyncWrite + Unpin, document: Vec<u8>) {
    if to.write_all(&document).await.is_ok() {
        let _ = to.shutdown().await;
    }
}

/// Waits for the reports of a process.
pub struct Reports {
    socket: Option<BufReader<OwnedReadHalf>>,
    line: Vec<u8>,
    /// How many more are read.
    left: usize,
    _writers: JoinSet<()>,
}

impl Reports {
    fn new(socket: Option<BufReader<OwnedReadHalf>>, writers: JoinSet<()>) -> Self {
        Self { socket, line: Vec::new(), left: MAX_REPORTS, _writers: writers }
    }

    /// The next report; pends for ever after the last one, and for a process that closed its side: its exit comes instead.
    ///
    /// Cancel-safe: what was read of an unfinished line is kept in `self`.
    pub async fn next(&mut self) -> Report {
        if self.left == 0 {
            return std::future::pending().await;
        }
        let report = match &mut self.socket {
            None => Some(Report::Ready(StartTimes::default(), None)),
            Some(socket) => read(socket, &mut self.line).await,
        };
        self.line = Vec::new();
        self.left = match &report {
            Some(Report::Ready(..) | Report::SetAside(_)) if self.socket.is_some() => self.left - 1,
            Some(
                Report::Ready(..) | Report::SetAside(_) | Report::Failed(_) | Report::Ended(_) | Report::Garbled(_),
            )
            | None => 0,
        };
        match report {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }
}

async fn read(socket: &mut BufReader<OwnedReadHalf>, line: &mut Vec<u8>) -> Option<Report> {
    loop {
        let chunk = match socket.fill_buf().await {
            Ok([]) => return None,
            // It has ended, or closed its side, before it had read all of the document. What it wrote before that was read before.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            Ok(chunk) => chunk,
            Err(error) => return Some(Report::Garbled(error.to_string())),
        };
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(chunk.len(), |end| end + 1);
        line.extend_from_slice(&chunk[..taken]);
        socket.consume(taken);
        if end.is_some() {
            return Some(parse(line));
        }
        if line.len() > MAX_REPORT {
            return Some(Report::Garbled(format!("it is longer than {MAX_REPORT} bytes")));
        }
    }
}

fn parse(line: &[u8]) -> Report {
    match serde_json::from_slice(line) {
        Ok(Wire::Ready { import_seconds, initialize_seconds, imports }) => {
            let import = Duration::try_from_secs_f64(import_seconds).ok();
            let initialize = Duration::try_from_secs_f64(initialize_seconds).ok();
            Report::Ready(StartTimes { import, initialize }, imports)
        }
        Ok(Wire::Failed(failure)) => Report::Failed(failure),
        Ok(Wire::SetAside(message)) => Report::SetAside(message),
        Ok(Wire::Ended { mut reason }) => {
            reason.truncate(reason.floor_char_boundary(MAX_REASON));
            Report::Ended(reason)
        }
        Err(error) => Report::Garbled(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn reports_are_read_and_nonsense_is_distinguished() {
        let ready = parse(
            br#"{"event":"ready","import_seconds":0.5,"initialize_seconds":0.25,"imports":{"own":"m","units":[]}}"#,
        );
        let times =
            StartTimes { import: Some(Duration::from_millis(500)), initialize: Some(Duration::from_millis(250)) };
        let imports = Imports { own: "m".to_owned(), units: vec![], reads: BTreeSet::new() };
        assert_eq!(ready, Report::Ready(times, Some(imports)));
        let failed = parse(br#"{"event":"failed","stage":"client_type","error":"unknown"}"#);
        assert!(matches!(failed, Report::Failed(InitFailure { stage: Stage::ClientType, .. })));
        let aside = parse(br#"{"event":"set_aside","topic":"g:t","message_id":18446744073709551615}"#);
        assert_eq!(aside, Report::SetAside(Delivery { topic: "g:t".to_owned(), message_id: u64::MAX }));
        let long = format!(r#"{{"event":"ended","reason":"{}"}}"#, "é".repeat(2000));
        assert!(matches!(parse(long.as_bytes()), Report::Ended(reason) if reason.len() == MAX_REASON));
        assert!(matches!(parse(b"{}"), Report::Garbled(_)));
        assert!(matches!(parse(&[0xff, 0]), Report::Garbled(_)));
    }

    #[tokio::test]
    async fn a_process_that_ends_before_it_has_read_its_document_is_known_by_its_exit_and_not_by_its_reports() {
        let (ours, mut theirs) = StdUnixStream::pair().expect("a pair");
        let mut reports = Feed::Socket(ours, b"{}\n".to_vec()).start().expect("a reactor");
        let ready = br#"{"event":"ready","import_seconds":0.5,"initialize_seconds":0.25}"#;
        io::Write::write_all(&mut theirs, &[&ready[..], b"\n"].concat()).expect("there is room");
        // The document is in its buffer, and it is not read.
        let mut document = [0; 1];
        while rustix::net::recv(
            &theirs,
            &mut document,
            rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT,
        )
        .is_err()
        {
            tokio::task::yield_now().await;
        }
        drop(theirs);
        assert!(matches!(reports.next().await, Report::Ready(..)), "what it wrote is read");
        assert!(tokio::time::timeout(Duration::from_millis(100), reports.next()).await.is_err(), "no report follows");
    }

    #[tokio::test]
    async fn reports_come_one_by_one_and_none_after_the_last() {
        let (ours, theirs) = StdUnixStream::pair().expect("a pair");
        let mut reports = Feed::Socket(ours, b"{}\n".to_vec()).start().expect("a reactor");
        let mut theirs = theirs;
        let ready = r#"{"event":"ready","import_seconds":0.5,"initialize_seconds":0.25}"#;
        let lines = format!("{ready}\n{{\"event\":\"ended\",\"reason\":\"x\"}}\n{ready}\n");
        io::Write::write_all(&mut theirs, lines.as_bytes()).expect("it is read");
        assert!(matches!(reports.next().await, Report::Ready(..)));
        assert_eq!(reports.next().await, Report::Ended("x".to_owned()));
        assert!(futures_util::FutureExt::now_or_never(reports.next()).is_none(), "nothing follows an end");
    }
}

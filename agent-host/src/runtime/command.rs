//! The `command` runtime: any program, which may read the launch from its standard input.

use super::{Order, document::document, report::Feed};
use std::{
    io,
    process::{Command, Stdio},
};

/// The command, and what to feed it.
pub(super) fn command(argv: &[String], order: &Order) -> io::Result<(Command, Feed)> {
    let (reader, writer) = io::pipe()?;
    // A launch with a command has a program: `Launch::check` saw to it.
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).stdin(Stdio::from(reader));
    Ok((command, Feed::Pipe(writer, document(order))))
}

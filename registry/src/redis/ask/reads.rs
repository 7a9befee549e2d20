//! What is asked of the scripts that only read.

use super::Ask;
use crate::{
    ops::{LINES, Queue},
    record::View,
    redis::read,
};
use serde::Serialize;

#[derive(Serialize)]
struct Nothing {}

/// For `hosts.lua`, which takes nothing.
pub(in crate::redis) fn nothing() -> Ask {
    Ask::of(&Nothing {})
}

#[derive(Serialize)]
struct List<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
    fields: &'static [&'static str],
}

/// For `list.lua`: members of the index that begin with `prefix`, and come after one.
pub(in crate::redis) fn list(prefix: &str, after: Option<&str>, limit: usize, view: View) -> Ask {
    Ask::of(&List { prefix, after, limit, fields: read::fields(view) })
}

#[derive(Serialize)]
struct Oldest {
    skip: usize,
    lines: Option<usize>,
    limit: usize,
    fields: &'static [&'static str],
}

/// For `oldest.lua` and `lines.lua`.
pub(in crate::redis) fn oldest(queue: Queue, skip: usize, limit: usize, view: View) -> Ask {
    let lines = (queue == Queue::Lines).then_some(LINES);
    Ask::of(&Oldest { skip, lines, limit, fields: read::fields(view) })
}

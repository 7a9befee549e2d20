//! Keeps what this program knows, above all the password of the registry, from other processes of the same user.
//!
//! | where it could be read | why it cannot be |
//! | --- | --- |
//! | memory, descriptors, `environ` in `/proc` | the process is not dumpable: to whom is not privileged they are root's |
//! | `cmdline` in `/proc`, which everybody can read | a URL with a password is moved into the environment, and the program executed anew |

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::{env, ffi::OsString, io, os::unix::process::CommandExt as _, process::Command};

/// The flag that may hold a password, and its twin in the environment.
const FLAG: &str = "--redis-url";
const VARIABLE: &str = "AGENT_HOST_REDIS_URL";

/// Begins to keep it. Returns only if this process, as it is now, shows nothing. Errors: the program cannot be executed anew.
pub fn begin() -> io::Result<()> {
    let mut arguments = env::args_os();
    let _name = arguments.next();
    if let Some(Moved { url, others }) = moved(arguments.collect()) {
        let mut command = Command::new(env::current_exe()?);
        return Err(command.args(others).env(VARIABLE, url).exec());
    }
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Arguments without the URL.
#[derive(Debug, PartialEq, Eq)]
struct Moved {
    url: OsString,
    others: Vec<OsString>,
}

/// What is left when a URL with a password is taken out; `None`: there is none. The last of several is the one that counts.
fn moved(arguments: Vec<OsString>) -> Option<Moved> {
    let (mut url, mut others) = (None, vec![]);
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        if text == FLAG {
            url = Some(arguments.next()?);
        } else if let Some(value) = text.strip_prefix(FLAG).and_then(|rest| rest.strip_prefix('=')) {
            url = Some(value.into());
        } else {
            others.push(argument);
        }
    }
    let url = url?;
    url.to_string_lossy().contains('@').then_some(Moved { url, others })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_password_leaves_the_arguments_and_nothing_else_does() {
        for line in ["--a 1 --redis-url redis://:secret@r/0 --b", "--a 1 --redis-url=redis://:secret@r/0 --b"] {
            let found = moved(words(line)).expect("there is a password");
            assert_eq!(found, Moved { url: "redis://:secret@r/0".into(), others: words("--a 1 --b") });
        }
        assert_eq!(moved(words("--redis-url redis://r/0")), None, "nothing to hide");
        assert_eq!(moved(words("--redis-url")), None, "the parser says what is wrong");
        assert_eq!(moved(words("watchdog 0000")), None);
    }
}

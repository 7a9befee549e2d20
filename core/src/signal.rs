//! Names of signals, for people.

/// Names by number, from 1, as Linux has them on x86, Arm, RISC-V and POWER: signal(7), "Standard signals".
const NAMES: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];
/// Real-time signals that programs may use; the two before them belong to the C library.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// Name of a signal; `None` when there is no such signal.
pub fn name(signal: i32) -> Option<String> {
    if REAL_TIME.contains(&signal) {
        let above = signal - REAL_TIME.start();
        return Some(if above == 0 { "SIGRTMIN".to_owned() } else { format!("SIGRTMIN+{above}") });
    }
    let index = usize::try_from(signal).ok()?.checked_sub(1)?;
    NAMES.get(index).map(|name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_the_names_that_the_manual_gives_them() {
        let known = [(1, "SIGHUP"), (9, "SIGKILL"), (11, "SIGSEGV"), (15, "SIGTERM"), (31, "SIGSYS")];
        let real_time = [(34, "SIGRTMIN"), (35, "SIGRTMIN+1"), (64, "SIGRTMIN+30")];
        for (signal, expected) in known.into_iter().chain(real_time) {
            assert_eq!(name(signal).as_deref(), Some(expected));
        }
        for signal in [i32::MIN, -1, 0, 32, 33, 65, i32::MAX] {
            assert_eq!(name(signal), None);
        }
    }
}

//! Looks at the process table.

use std::fs;

/// State letter of a process, as in `ps`; `None` when there is no such process.
pub fn state(pid: u32) -> Option<char> {
    stat(pid, 3)
}

/// Whether a process exists and is no zombie.
pub fn lives(pid: u32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

/// Children of a process, zombies included.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return vec![] };
    let lists = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|l| l.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Short name of a process.
pub fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// Children of a host that are neither its zygotes nor its watchdog.
pub fn agents(host: u32) -> Vec<u32> {
    let own = ["rustic-zygote", "rustic-watchdog"];
    children(host).into_iter().filter(|pid| !own.contains(&name(*pid).as_str())).collect()
}

/// The watchdog of a host.
pub fn watchdog(host: u32) -> Option<u32> {
    children(host).into_iter().find(|pid| name(*pid) == "rustic-watchdog")
}

/// Parent and session of a process.
pub fn parent_and_session(pid: u32) -> Option<(u32, u32)> {
    Some((stat(pid, 4)?, stat(pid, 6)?))
}

/// Processes that live and have `word` in their command line.
pub fn with_word(word: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("there is a process table").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has_word = |pid: &u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(word)
    };
    pids.filter(has_word).filter(|pid| lives(*pid)).collect()
}

/// The mark by which a host knows whose a process is.
pub fn mark(pid: u32) -> Option<String> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
    line.split_whitespace().nth(1).map(str::to_owned)
}

/// Niceness of a process.
pub fn niceness(pid: u32) -> Option<i32> {
    stat(pid, 19)
}

/// Field `number` of a process, as proc_pid_stat(5) counts them.
fn stat<T: std::str::FromStr>(pid: u32, number: usize) -> Option<T> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands second and may contain anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(number - 3)?.parse().ok()
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

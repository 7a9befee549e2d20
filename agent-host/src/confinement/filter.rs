//! The system calls that an agent has no use for, or that would reach beyond what Landlock sees: they fail with EPERM.
//!
//! Those by which one process changes another one of the same user (its priority, its processors, its limits) know no
//! domains, so an agent may use them on itself only. Objects of System V and POSIX message queues have names for the whole
//! machine. `io_uring` and the x32 way to call would go past the filter. `clone3` hides its flags from it, and is said to be missing, whereupon
//! the C library uses `clone`.

use libc::c_long;
use rustic_registry::ConfinementLevel;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};
use std::{collections::BTreeMap, io, sync::LazyLock};

/// A program of seccomp.
#[derive(Debug, Clone)]
pub struct Filter(BpfProgram);

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

static STANDARD: LazyLock<Filter> = LazyLock::new(|| Filter::new(standard()));
static STRICT: LazyLock<Filter> = LazyLock::new(|| Filter::new(strict()));

/// The filter of a level.
pub(super) fn of(level: ConfinementLevel) -> Option<&'static Filter> {
    match level {
        ConfinementLevel::Off => None,
        ConfinementLevel::Standard => Some(&STANDARD),
        ConfinementLevel::Strict => Some(&STRICT),
    }
}

impl Filter {
    /// What is said to be missing comes before the rules: one program, because the kernel compiles each anew for every process.
    fn new(rules: Rules) -> Self {
        let arch = std::env::consts::ARCH.try_into().expect("seccompiler knows the machines that this is built for");
        let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch).expect("two different actions");
        let denying: BpfProgram = filter.try_into().expect("it has fewer than 4096 instructions");
        Self([missing().to_vec(), denying].concat())
    }

    /// Puts it on the calling process, for good. Async-signal-safe.
    pub(super) fn put_on_self(&self) -> io::Result<()> {
        seccompiler::apply_filter(&self.0).map_err(|_| io::Error::from(io::ErrorKind::PermissionDenied))
    }

    /// Its instructions as the kernel has them in memory, in hexadecimal digits.
    pub fn to_hex(&self) -> String {
        let bytes = self.0.iter().flat_map(|one| {
            let [a, b] = one.code.to_ne_bytes();
            let [c, d, e, f] = one.k.to_ne_bytes();
            [a, b, one.jt, one.jf, c, d, e, f]
        });
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Says of `clone3`, and of every call by the numbers of x32, that it is missing; what comes after it has the others.
fn missing() -> [sock_filter; 4] {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let one = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let no_such_call = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    [
        // The number of the call is the first field.
        one(LOAD, 0, 0, 0),
        one(EQUAL, 1, 0, u32::try_from(libc::SYS_clone3).expect("a small number")),
        one(AT_LEAST, 0, 1, X32),
        one(RETURN, 0, 0, no_such_call),
    ]
}

/// From this number on, calls are those of x32.
const X32: u32 = 0x4000_0000;

/// Calls that are denied whatever they are given.
const DENIED: &[c_long] = &[
    // The system: mounts, modules, clocks, names, swap, the kernel's log.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    // The kernel's own insides.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fanotify_init,
    libc::SYS_open_by_handle_at,
    // Keys of the user.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Objects with names for the whole machine.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
];

#[cfg(target_arch = "x86_64")]
const OF_MACHINE: &[c_long] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_kexec_file_load];
#[cfg(not(target_arch = "x86_64"))]
const OF_MACHINE: &[c_long] = &[];

/// Flags of `clone` and `unshare` that ask for name spaces.
const NAME_SPACES: [i32; 8] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    0x80, // CLONE_NEWTIME, by `unshare` only
];
/// Which processes `ioprio_set` means: those of a user.
const IOPRIO_WHO_USER: u64 = 3;

fn standard() -> Rules {
    let mut rules: Rules = DENIED.iter().chain(OF_MACHINE).map(|call| (*call, vec![])).collect();
    let mut deny = |call: c_long, when: Vec<SeccompRule>| rules.insert(call, when);
    let name_space = |flag: &i32| {
        let flag = u64::from(flag.unsigned_abs());
        all(vec![condition(0, Length::Qword, Is::MaskedEq(flag), flag)])
    };
    deny(libc::SYS_clone, NAME_SPACES.iter().take(7).map(name_space).collect());
    deny(libc::SYS_unshare, NAME_SPACES.iter().map(name_space).collect());
    // Characters that are put into a terminal as if they had been typed.
    let command = |number| all(vec![condition(1, Length::Dword, Is::Eq, number)]);
    deny(libc::SYS_ioctl, vec![command(0x5412), command(0x541C)]);
    // Of others: a process that means itself says 0.
    let of_others = |arg| all(vec![condition(arg, Length::Dword, Is::Ne, 0)]);
    for call in
        [libc::SYS_sched_setaffinity, libc::SYS_sched_setscheduler, libc::SYS_sched_setparam, libc::SYS_sched_setattr]
    {
        deny(call, vec![of_others(0)]);
    }
    let of_user = |who| all(vec![condition(0, Length::Dword, Is::Eq, who)]);
    deny(libc::SYS_setpriority, vec![of_others(1), of_user(u64::from(libc::PRIO_USER))]);
    deny(libc::SYS_ioprio_set, vec![of_others(1), of_user(IOPRIO_WHO_USER)]);
    // Limits of others can be read.
    let sets = condition(2, Length::Qword, Is::Ne, 0);
    deny(libc::SYS_prlimit64, vec![all(vec![condition(0, Length::Dword, Is::Ne, 0), sets])]);
    deny(libc::SYS_socket, sockets());
    rules
}

fn strict() -> Rules {
    let mut rules = standard();
    // No server, and no program that is no file.
    rules.extend([libc::SYS_listen, libc::SYS_memfd_create, libc::SYS_memfd_secret].map(|call| (call, vec![])));
    let with = |arg, flag: i32| {
        let flag = u64::from(flag.unsigned_abs());
        vec![all(vec![condition(arg, Length::Dword, Is::MaskedEq(flag), flag)])]
    };
    rules.insert(libc::SYS_execveat, with(4, libc::AT_EMPTY_PATH));
    // A connection that begins with its first data is one that Landlock does not see.
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        rules.insert(call, with(flags, libc::MSG_FASTOPEN));
    }
    // Nor one by another protocol than TCP; datagrams are not connections.
    let mut sockets = sockets();
    sockets.extend([libc::AF_INET, libc::AF_INET6].map(|family| {
        let others = [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP];
        let family = condition(0, Length::Dword, Is::Eq, u64::from(family.unsigned_abs()));
        let protocols = others.map(|known| condition(2, Length::Dword, Is::Ne, u64::from(known.unsigned_abs())));
        all([vec![family], protocols.to_vec()].concat())
    }));
    rules.insert(libc::SYS_socket, sockets);
    rules
}

/// Sockets that nobody gets: of other families, and of routing sockets all that show more than routes and devices.
fn sockets() -> Vec<SeccompRule> {
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let is_none = |arg, known: &[i32]| {
        let each = known.iter().map(|one| condition(arg, Length::Dword, Is::Ne, u64::from(one.unsigned_abs())));
        each.collect::<Vec<_>>()
    };
    let netlink = condition(0, Length::Dword, Is::Eq, u64::from(libc::AF_NETLINK.unsigned_abs()));
    let others = is_none(2, &[libc::NETLINK_ROUTE, libc::NETLINK_KOBJECT_UEVENT]);
    vec![all(is_none(0, &families)), all([vec![netlink], others].concat())]
}

fn condition(arg: u8, length: Length, is: Is, value: u64) -> SeccompCondition {
    SeccompCondition::new(arg, length, is, value).expect("a call has six arguments")
}

fn all(conditions: Vec<SeccompCondition>) -> SeccompRule {
    SeccompRule::new(conditions).expect("it has conditions")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_fit_into_the_kernel_and_are_written_down_as_it_has_them() {
        for level in [ConfinementLevel::Standard, ConfinementLevel::Strict] {
            let filter = of(level).expect("it has one");
            assert!(filter.0.len() < 4096);
            assert_eq!(filter.to_hex().len(), filter.0.len() * 16);
        }
        assert!(of(ConfinementLevel::Off).is_none());
    }
}

//! What the reactor needs of the kernel, and a plain answer when it is not there.
//!
//! Owns: the list of needed operations and flags, `DriverError`, the set-up of a ring.
//! Not: the operations themselves.
//! E1  a refused start names what is missing, the setting behind it, and the remedy.
#![allow(unsafe_code)]

use io_uring::{IoUring, Probe, opcode};
use std::io;

/// Oldest kernel with everything below (`DEFER_TASKRUN`).
const KERNEL_MIN: &str = "6.1";
const DISABLED_PATH: &str = "/proc/sys/kernel/io_uring_disabled";
/// Locked memory that a ring may be charged for.
const MEMLOCK_BYTES: u64 = 1 << 20;
/// Kernel worker threads per ring: bounded (files), unbounded (sockets).
const WORKERS_MAX: [u32; 2] = [2, 2];
/// Completions that fit beside each submission before the kernel keeps a backlog.
const CQ_PER_SQ: u32 = 8;

/// Every operation the driver submits.
const OPCODES: [(u8, &str); 7] = [
    (opcode::AcceptMulti::CODE, "IORING_OP_ACCEPT"),
    (opcode::RecvMulti::CODE, "IORING_OP_RECV"),
    (opcode::Send::CODE, "IORING_OP_SEND"),
    (opcode::Read::CODE, "IORING_OP_READ"),
    (opcode::Write::CODE, "IORING_OP_WRITE"),
    (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD"),
    (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL"),
];

/// Why a reactor could not start. Nothing is left behind when it could not.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The administrator turned io_uring off.
    #[error(
        "io_uring is disabled on this host: kernel.io_uring_disabled is {value}, needed: 0. \
         Run `sysctl -w kernel.io_uring_disabled=0`; both settings of shards.runtime, uring and \
         glommio, need it"
    )]
    Disabled {
        /// 1: only for privileged processes; 2: for all.
        value: u32,
    },
    /// Refused although it is not disabled.
    #[error(
        "io_uring_setup is refused (errno {errno}) though kernel.io_uring_disabled is not set: \
         a seccomp filter or security module blocks it. Allow io_uring_setup, io_uring_enter and \
         io_uring_register (in a container: --security-opt seccomp=...)"
    )]
    Blocked {
        /// As the kernel gave it.
        errno: i32,
    },
    /// The kernel lacks something.
    #[error("this kernel ({release}) lacks {what}; Linux {KERNEL_MIN} or newer has it")]
    Lacks {
        /// The operation, flag or feature.
        what: &'static str,
        /// `uname -r`.
        release: String,
    },
    /// Too little memory may be locked.
    #[error(
        "locked memory is limited to {limit_bytes} bytes (ulimit -l), {needed_bytes} are needed \
         per shard. Raise it: `ulimit -l unlimited`, or LimitMEMLOCK= in the systemd unit"
    )]
    Memlock {
        /// `RLIMIT_MEMLOCK`.
        limit_bytes: u64,
        /// What one shard needs.
        needed_bytes: u64,
    },
    /// No file descriptor was left.
    #[error("no file descriptor left for the ring (errno {errno}); raise `ulimit -n`")]
    Descriptors {
        /// As the kernel gave it.
        errno: i32,
    },
    /// The doorbells do not match the shard.
    #[error("shard {shard} has no doorbell; {count} were given, one per shard is needed")]
    Doorbell {
        /// The shard.
        shard: u16,
        /// How many there are.
        count: usize,
    },
    /// Another step of the set-up failed.
    #[error("{step} failed: {source}")]
    Setup {
        /// Which.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// What a ring is to be like.
pub(super) struct RingPlan {
    pub(super) entries: u32,
    pub(super) spin: bool,
    pub(super) cpu: Option<usize>,
}

/// Checks that io_uring may be used at all. For runtimes that panic when it may not.
pub fn check() -> Result<(), DriverError> {
    let uring = IoUring::new(2).map_err(explain)?;
    probe(&uring)
}

/// A ring with every flag and operation the driver needs.
pub(super) fn ring(plan: &RingPlan) -> Result<IoUring, DriverError> {
    let mut builder = IoUring::builder();
    builder
        .dontfork()
        .setup_clamp()
        .setup_cqsize(plan.entries.saturating_mul(CQ_PER_SQ))
        .setup_submit_all()
        .setup_single_issuer()
        .setup_taskrun_flag();
    // Deferred task work runs when we wait, in one batch. A spinning loop does not wait: there it
    // runs on the way out of any system call, and the flag says when to make one.
    if plan.spin {
        builder.setup_coop_taskrun();
    } else {
        builder.setup_defer_taskrun();
    }
    let uring = builder.build(plan.entries).map_err(explain)?;
    probe(&uring)?;
    let params = uring.params();
    let lacks = |what| Err(DriverError::Lacks { what, release: kernel_release() });
    if !params.is_feature_ext_arg() {
        return lacks("IORING_FEAT_EXT_ARG (waits with a time limit)");
    }
    if !params.is_feature_nodrop() {
        return lacks("IORING_FEAT_NODROP (no completion is lost)");
    }
    if !params.is_feature_skip_cqe_on_success() {
        return lacks("IORING_FEAT_CQE_SKIP");
    }
    bound_workers(&uring, plan.cpu)?;
    Ok(uring)
}

fn probe(uring: &IoUring) -> Result<(), DriverError> {
    let mut probe = Probe::new();
    uring
        .submitter()
        .register_probe(&mut probe)
        .map_err(|source| DriverError::Setup { step: "IORING_REGISTER_PROBE", source })?;
    match OPCODES.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, what)) => Err(DriverError::Lacks { what, release: kernel_release() }),
        None => Ok(()),
    }
}

/// Few workers, on the shard's core: one running elsewhere would bring TLB flushes there.
fn bound_workers(uring: &IoUring, cpu: Option<usize>) -> Result<(), DriverError> {
    let mut workers_max = WORKERS_MAX;
    uring.submitter().register_iowq_max_workers(&mut workers_max).map_err(|source| {
        DriverError::Setup { step: "IORING_REGISTER_IOWQ_MAX_WORKERS", source }
    })?;
    let Some(cpu) = cpu.filter(|cpu| *cpu < libc::CPU_SETSIZE as usize) else {
        return Ok(());
    };
    // SAFETY: a cpu_set_t is an array of integers; all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is below CPU_SETSIZE, so the bit lies inside the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    uring
        .submitter()
        .register_iowq_aff(&set)
        .map_err(|source| DriverError::Setup { step: "IORING_REGISTER_IOWQ_AFF", source })
}

/// Turns the errno of `io_uring_setup` into what an operator can act on (E1).
fn explain(error: io::Error) -> DriverError {
    let disabled = std::fs::read_to_string(DISABLED_PATH).ok();
    explain_with(error, disabled.as_deref(), memlock_limit_bytes())
}

fn explain_with(error: io::Error, disabled: Option<&str>, memlock_bytes: u64) -> DriverError {
    let errno = error.raw_os_error().unwrap_or(0);
    match errno {
        libc::EPERM | libc::EACCES => {
            match disabled.and_then(|value| value.trim().parse::<u32>().ok()) {
                Some(value) if value > 0 => DriverError::Disabled { value },
                _ => DriverError::Blocked { errno },
            }
        }
        // The setting exists where io_uring is compiled in: then a filter answers ENOSYS.
        libc::ENOSYS if disabled.is_some() => DriverError::Blocked { errno },
        libc::ENOSYS => DriverError::Lacks { what: "io_uring", release: kernel_release() },
        libc::EINVAL => DriverError::Lacks {
            what: "IORING_SETUP_DEFER_TASKRUN or another flag of a shard's ring",
            release: kernel_release(),
        },
        libc::ENOMEM => {
            DriverError::Memlock { limit_bytes: memlock_bytes, needed_bytes: MEMLOCK_BYTES }
        }
        libc::EMFILE | libc::ENFILE => DriverError::Descriptors { errno },
        _ => DriverError::Setup { step: "io_uring_setup", source: error },
    }
}

/// `RLIMIT_MEMLOCK` of this process in bytes; `u64::MAX` is unlimited.
pub(crate) fn memlock_limit_bytes() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the struct the pointer names.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    if result == 0 { limit.rlim_cur } else { 0 }
}

fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".into(), |release| release.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(errno: i32, disabled: Option<&str>) -> String {
        explain_with(io::Error::from_raw_os_error(errno), disabled, 65_536).to_string()
    }

    #[test]
    fn e1_each_refusal_names_the_setting_and_the_remedy() {
        for (errno, disabled, parts) in [
            (libc::EPERM, Some("2\n"), ["io_uring_disabled is 2", "sysctl -w"]),
            (libc::EPERM, Some("0\n"), ["seccomp", "io_uring_enter"]),
            (libc::EPERM, None, ["seccomp", "io_uring_enter"]),
            (libc::ENOSYS, Some("0"), ["seccomp", "errno 38"]),
            (libc::ENOSYS, None, ["lacks io_uring", "6.1"]),
            (libc::EINVAL, Some("0"), ["DEFER_TASKRUN", "6.1"]),
            (libc::ENOMEM, Some("0"), ["65536 bytes", "ulimit -l"]),
            (libc::EMFILE, Some("0"), ["file descriptor", "ulimit -n"]),
            (libc::EIO, Some("0"), ["io_uring_setup", "os error 5"]),
        ] {
            let text = text(errno, disabled);
            for part in parts {
                assert!(text.contains(part), "{text:?} does not say {part:?}");
            }
        }
    }
}

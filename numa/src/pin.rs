//! Pinning the current thread to one CPU, and undoing it.
//!
//! Owns: the check that the kernel did it.  Not: which CPU (`topology.rs` plans that).
//! N1  after `pin` the affinity mask holds exactly the asked CPU and the thread runs on it.
//! N2  after `unpin` the mask is what it was before `pin`.

use crate::sys;
use core_affinity::CoreId;

/// Why a thread could not be pinned; its mask is as before.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Not among the CPUs that this thread may use.
    #[error("CPU {cpu} is not allowed here (allowed: {allowed:?}); see taskset -p and the cpuset")]
    NotAllowed {
        /// The CPU asked for.
        cpu: u32,
        /// The mask.
        allowed: Vec<u32>,
    },
    /// The kernel took the mask and the thread is elsewhere all the same.
    #[error("pinned to CPU {cpu}, but the kernel reports mask {mask:?}, running on {on:?}")]
    NotDone {
        /// The CPU asked for.
        cpu: u32,
        /// The mask after the call.
        mask: Vec<u32>,
        /// Where the thread runs.
        on: Option<u32>,
    },
    /// The mask could not be read or written.
    #[error("the affinity mask of this thread cannot be used: {0}")]
    Mask(#[from] std::io::Error),
}

/// A pinned thread: remembers what to go back to. Dropping it does not unpin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pinned {
    cpu: u32,
    before: Vec<u32>,
}

/// Pins the current thread (N1).
pub fn pin(cpu: u32) -> Result<Pinned, PinError> {
    let before = sys::affinity()?;
    if !before.contains(&cpu) {
        return Err(PinError::NotAllowed { cpu, allowed: before });
    }
    let taken = core_affinity::set_for_current(CoreId { id: cpu as usize });
    let (mask, on) = (sys::affinity()?, sys::current_cpu());
    if taken && mask == [cpu] && on == Some(cpu) {
        Ok(Pinned { cpu, before })
    } else {
        sys::set_affinity(&before)?;
        Err(PinError::NotDone { cpu, mask, on })
    }
}

impl Pinned {
    /// The CPU.
    pub fn cpu(&self) -> u32 {
        self.cpu
    }

    /// Gives the current thread back the mask it had before (N2).
    pub fn unpin(self) -> Result<(), PinError> {
        sys::set_affinity(&self.before).map_err(PinError::Mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n1_n2_every_allowed_cpu_can_be_pinned_and_left() {
        let allowed = sys::affinity().expect("a mask");
        for cpu in &allowed {
            let pinned = pin(*cpu).expect("an allowed CPU");
            assert_eq!(pinned.cpu(), *cpu);
            assert_eq!(sys::affinity().expect("a mask"), [*cpu]);
            assert_eq!(sys::current_cpu(), Some(*cpu));
            pinned.unpin().expect("the mask of before");
            assert_eq!(sys::affinity().expect("a mask"), allowed);
        }
    }

    #[test]
    fn n1_a_foreign_cpu_is_refused_by_name() {
        for cpu in [sys::CPU_COUNT_MAX as u32 - 1, u32::MAX] {
            let before = sys::affinity().expect("a mask");
            match pin(cpu) {
                Err(PinError::NotAllowed { cpu: named, allowed }) => {
                    assert_eq!((named, &allowed), (cpu, &before));
                }
                other => assert!(before.contains(&cpu), "{other:?}"),
            }
            assert_eq!(sys::affinity().expect("a mask"), before);
        }
    }
}

//! What every scenario gets: how long, how often, how loud, and whether someone pressed Ctrl-C.
//!
//! Owns: the interrupt flag and the progress bar.  Not: arguments of single scenarios.
//! C1  nothing but the report goes to standard output; progress goes to a terminal's error stream
//!     or nowhere.

use crate::machine::Cores;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Whether Ctrl-C was pressed. Loops ask this and end early; scenarios then fail with a clear text.
pub fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Fails when Ctrl-C was pressed.
pub fn check_interrupt() -> anyhow::Result<()> {
    anyhow::ensure!(!interrupted(), "interrupted; what was started has been stopped");
    Ok(())
}

/// Makes Ctrl-C and SIGTERM set the flag; a second one ends the process at once.
pub fn catch_interrupts() -> std::io::Result<()> {
    let flag = Arc::clone(INTERRUPTED.get_or_init(Arc::default));
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // Registered first, so it sees the flag as the first signal left it.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))?;
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(())
}

/// Settings shared by all scenarios.
#[derive(Clone, Debug)]
pub struct Context {
    /// Seconds per figure.
    pub seconds: f64,
    /// Repeats per figure.
    pub repeat: usize,
    /// The binary that is started as a node.
    pub node_exe: PathBuf,
    /// Which CPU is for whom.
    pub cores: Cores,
    /// No progress.
    pub quiet: bool,
}

impl Context {
    /// A bar of `steps`, drawn on a terminal only (C1).
    pub fn progress(&self, what: &str, steps: u64) -> ProgressBar {
        if self.quiet || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr_with_hz(5));
        if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// The remark that says what was pinned where.
    pub fn pinning(&self) -> String {
        if self.cores.apart() {
            format!(
                "pinned: server on CPU {}, client on CPU {}",
                self.cores.server, self.cores.client
            )
        } else {
            "only one CPU is allowed here: server and client share it".into()
        }
    }
}

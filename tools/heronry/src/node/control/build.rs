//! A build of a template, in a process of its own.
//!
//! Owns: how the process is started, how long it may take, what its words are.  Not: what it does
//! (`template_build.rs`).
//! B1  a build ends with its time, with whoever waits for it, and with the control thread: it is a
//!     process group of its own, and dies with its parent.

use crate::config;
use crate::template_build::{BUILD_VARIABLE, COMMAND};
use heronry_engine::config::Config;
use heronry_engine::verb::Language;
use heronry_shards::sandbox::build::{Needs, check_needs};
use heronry_shards::sandbox::cache::ModuleCache;
use heronry_shards::sandbox::seen::Seen;
use heronry_shards::sandbox::template::TemplateHeader;
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a build may take.
const BUILD_WAIT_MAX: Duration = Duration::from_secs(60);
/// Most bytes of a failed build's words that are kept: the last ones, where a traceback says what.
const WORDS_BYTES_MAX: usize = 8 << 10;

/// Starts builds.
pub(super) struct Builder {
    program: PathBuf,
    wait_max: Duration,
    guests_dir: PathBuf,
    cache_dir: PathBuf,
    memory_bytes_max: u64,
    /// What need not be read again to be checked.
    seen: Seen,
}

/// One build's files.
pub(super) struct Site<'a> {
    /// What the source is.
    pub(super) language: Language,
    /// The agent's file; none for the interpreter alone.
    pub(super) source: Option<&'a Path>,
    /// The warm-up, if there is one.
    pub(super) warm: Option<&'a Path>,
    /// What is to be written.
    pub(super) out: &'a Path,
}

impl Builder {
    /// Builds as `config` says.
    pub(super) fn new(config: &Config) -> Builder {
        let cache_dir = config::cache_dir(config);
        // Without a folder nothing was seen; whether it is needed, and why it is refused, is told
        // where a module is loaded.
        let seen = ModuleCache::attach(&cache_dir).map_or_else(|_| Seen::nothing(), |c| c.seen());
        Builder {
            seen,
            program: PathBuf::from("/proc/self/exe"),
            wait_max: BUILD_WAIT_MAX,
            guests_dir: config::guests_dir(config),
            cache_dir,
            memory_bytes_max: config.sandbox.memory_bytes_max,
        }
    }

    /// What a built template needs beside its file. Error: why it cannot run here any more, though
    /// its file is whole.
    pub(super) fn check(&self, template: &TemplateHeader) -> Result<Needs, String> {
        check_needs(template, &self.cache_dir, &self.seen).map_err(|error| error.to_string())
    }

    /// What need not be read again to be checked.
    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Where the interpreters are.
    pub(super) fn guests_dir(&self) -> &Path {
        &self.guests_dir
    }

    /// Builds one template. Error: the build's own words, or why there was none.
    pub(super) async fn build(&self, site: &Site<'_>) -> Result<(), String> {
        self.run(self.arguments(site)).await
    }

    /// Compiles the module of a stored template again, if it is the same as then.
    pub(super) async fn compile(&self, site: &Site<'_>, module: [u8; 32]) -> Result<(), String> {
        let mut arguments = self.arguments(site);
        let module = blake3::Hash::from_bytes(module).to_hex();
        arguments.extend(["--only-module".into(), module.as_str().into()]);
        self.run(arguments).await
    }

    async fn run(&self, arguments: Vec<OsString>) -> Result<(), String> {
        let mut command = Command::new(&self.program);
        command.arg0("heronry-build").args(arguments);
        command.env(BUILD_VARIABLE, std::process::id().to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let mut child =
            command.spawn().map_err(|error| format!("no build was started: {error}"))?;
        let group = Group(child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())));
        let ended = timeout(self.wait_max, end_of(&mut child)).await;
        drop(group);
        let Ok((status, words)) = ended else {
            return Err(format!(
                "its code ran for longer than {} s and was ended",
                self.wait_max.as_secs_f32()
            ));
        };
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(_) if !words.trim().is_empty() => Err(words.trim_end().to_owned()),
            Ok(status) => Err(format!("its build ended without a word: {status}")),
            Err(error) => Err(format!("its build was lost: {error}")),
        }
    }

    fn arguments(&self, site: &Site<'_>) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![COMMAND.into()];
        let mut option = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        option("--language", site.language.name().into());
        option("--guests", self.guests_dir.clone().into());
        option("--cache", self.cache_dir.clone().into());
        option("--memory-bytes-max", self.memory_bytes_max.to_string().into());
        option("--out", site.out.into());
        if let Some(source) = site.source {
            option("--source", source.into());
        }
        if let Some(warm) = site.warm {
            option("--warm", warm.into());
        }
        arguments
    }
}

/// A build's process group; ended when dropped (B1).
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone already is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn end_of(child: &mut Child) -> (std::io::Result<std::process::ExitStatus>, String) {
    let words = match child.stderr.take() {
        Some(stderr) => last_words(stderr).await,
        None => String::new(),
    };
    (child.wait().await, words)
}

/// Reads to the end and keeps the last bytes, from the start of a line if any was cut.
async fn last_words(mut stderr: impl AsyncRead + Unpin) -> String {
    let (mut kept, mut cut) = (Vec::new(), false);
    let mut chunk = [0; 4096];
    loop {
        match stderr.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(count) => kept.extend_from_slice(&chunk[..count]),
        }
        if kept.len() > WORDS_BYTES_MAX {
            cut = true;
            kept.drain(..kept.len() - WORDS_BYTES_MAX);
        }
    }
    if cut && let Some(end) = kept.iter().position(|byte| *byte == b'\n') {
        kept.drain(..=end);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A builder whose program is this shell script; `$OUT` is what to write, `$ONLY` the module,
    /// if that alone is wanted.
    pub(in super::super) fn builder(folder: &Path, script: &str) -> Builder {
        let program = folder.join("build.sh");
        let find = "[ \"$1\" = --out ] && OUT=$2; [ \"$1\" = --only-module ] && ONLY=$2";
        let find = format!("while [ $# -gt 0 ]; do {find}; shift; done");
        std::fs::write(&program, format!("#!/bin/sh\n{find}\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut builder = Builder::new(&Config::default());
        builder.guests_dir = folder.join("no-guests");
        Builder { program, wait_max: Duration::from_secs(30), ..builder }
    }

    fn outcome(builder: &Builder, out: &Path) -> Result<(), String> {
        let site = Site { language: Language::Python, source: None, warm: None, out };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(builder.build(&site))
    }

    #[test]
    fn a_build_writes_its_file_or_says_why_not() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let good = builder(folder.path(), "echo built > \"$OUT\"");
        assert_eq!(outcome(&good, &out), Ok(()));
        assert_eq!(std::fs::read(&out).unwrap(), b"built\n");
        let bad = builder(folder.path(), "printf 'Traceback\\nValueError: x\\n' >&2; exit 1");
        assert_eq!(outcome(&bad, &out), Err("Traceback\nValueError: x".to_owned()));
        let mute = builder(folder.path(), "exit 3");
        assert!(outcome(&mute, &out).unwrap_err().contains("exit status: 3"));
        let loud = builder(folder.path(), "seq 100000 >&2; exit 1");
        let words = outcome(&loud, &out).unwrap_err();
        assert!(words.ends_with("\n100000") && words.len() <= WORDS_BYTES_MAX);
        assert!(words.lines().all(|line| line.len() >= 5), "whole lines");
    }

    #[test]
    fn b1_a_build_without_end_is_ended_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let mut endless = builder(folder.path(), "sleep 1000 & echo $! > \"$OUT\"; wait");
        // Long enough that the script has written its file, on any machine that runs tests at all.
        endless.wait_max = Duration::from_secs(2);
        let out = folder.path().join("out");
        assert!(outcome(&endless, &out).unwrap_err().contains("longer than 2 s"));
        let pid: u32 = std::fs::read_to_string(&out).unwrap().trim().parse().unwrap();
        let ended = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        while !ended() {
            std::thread::yield_now();
        }
    }
}

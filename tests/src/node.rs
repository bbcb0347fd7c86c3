//! A real node for a test: its own process, data folder, port and socket, all gone at the end.
//!
//! Owns: the child process and its folder.  Not: what the test asks of it.
//! N1  a node that a test started ends with the test, also when the test fails.

use heronry_net::client::Client;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest wait for anything that must happen; a test that meets it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Set, it makes `test-node` give up its right to io_uring before it starts.
pub const NO_URING: &str = "HERONRY_TEST_NO_URING";

/// A running node.
pub struct Node {
    child: Option<Child>,
    binary: PathBuf,
    folder: TempDir,
    /// TCP port.
    pub port: u16,
    log: mpsc::Receiver<String>,
    /// Lines of the log that were looked at.
    pub seen: Vec<String>,
}

impl Node {
    /// Starts `binary up` with two shards, small arenas and `options`; waits until it is ready.
    pub fn start(binary: &str, options: &[&str]) -> Node {
        let folder = tempfile::tempdir().expect("a folder for the node");
        let mut child = command(binary, folder.path(), options).spawn().expect("the node starts");
        let log = lines(child.stderr.take().expect("piped"));
        let ready = first_line(&mut child);
        let mut node =
            Node { child: Some(child), binary: binary.into(), folder, port: 0, log, seen: vec![] };
        let port = ready.split_whitespace().nth(2).and_then(|place| place.rsplit(':').next());
        node.port = match port.and_then(|port| port.parse().ok()) {
            Some(port) => port,
            None => panic!("no ready line but {ready:?}; log: {:?}", node.all_log()),
        };
        node
    }

    /// Runs `binary up` that is expected to end by itself.
    pub fn fail(binary: &str, options: &[&str]) -> Output {
        let folder = tempfile::tempdir().expect("a folder for the node");
        let child = command(binary, folder.path(), options).spawn().expect("the node starts");
        child.wait_with_output().expect("the node ends")
    }

    /// As [`Node::fail`], where the kernel refuses io_uring to the node.
    pub fn fail_without_io_uring(binary: &str, runtime: &str) -> Output {
        let folder = tempfile::tempdir().expect("a folder for the node");
        let runtime = format!("shards.runtime={runtime}");
        let mut command = command(binary, folder.path(), &["--set", &runtime]);
        command.env(NO_URING, "1");
        command.output().expect("the node ends")
    }

    /// A new connection over TCP.
    pub fn client(&self) -> Client {
        let mut client = Client::tcp(&format!("127.0.0.1:{}", self.port), PATIENCE)
            .unwrap_or_else(|error| panic!("cannot connect: {error}"));
        client.hello(None).expect("HELLO 3 is understood");
        client
    }

    /// The Unix socket.
    pub fn unix_socket(&self) -> PathBuf {
        self.folder.path().join("data.sock")
    }

    /// The data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The node's process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// The command line of the same binary, connected to this node.
    pub fn cli(&self, args: &[&str]) -> Output {
        Command::new(&self.binary)
            .args(args)
            .env("HERONRY_ADDR", self.unix_socket())
            .output()
            .expect("the command line runs")
    }

    /// Another program, with `-p PORT` after its name.
    pub fn with_port(&self, program: &str, args: &[&str]) -> Output {
        let port = self.port.to_string();
        Command::new(program).args(["-p", &port]).args(args).output().expect("it runs")
    }

    /// Sends a signal to the supervisor.
    pub fn signal(&self, signal: rustix::process::Signal) {
        send_signal(self.pid(), signal);
    }

    /// Waits until the node has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("waited for once");
        wait_until("the node ends", || child.try_wait().expect("a child of ours"))
    }

    /// Waits for a line of the log that contains `text`.
    pub fn await_log(&mut self, text: &str) -> String {
        self.await_logs(&[text])
    }

    /// Waits for lines of the log that contain each of `texts`, in any order. The last one.
    pub fn await_logs(&mut self, texts: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut missing = texts.to_vec();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.log.recv_timeout(left) else {
                panic!("the log never said {missing:?}, only {:#?}", self.seen);
            };
            self.seen.push(line.clone());
            missing.retain(|text| !line.contains(text));
            if missing.is_empty() {
                return line;
            }
        }
    }

    fn all_log(&mut self) -> Vec<String> {
        let rest: Vec<String> = self.log.iter().collect();
        self.seen.extend(rest);
        self.seen.clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // N1: its shards end with it, by the kernel.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Signals a process that this test started, directly or through its node.
pub fn send_signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("the process lives");
}

/// Asks again until there is an answer; panics when there is none for too long.
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "it never happened that {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a program is there; says so when not, as a skipped test must.
pub fn have(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

fn command(binary: &str, folder: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command.args(["up", "--set", "shards.arena_bytes=64MiB"]).args(options);
    let data = folder.join("data");
    for (name, value) in [("--port", "0".as_ref()), ("--shards", "2".as_ref()), ("--data", &*data)]
    {
        if !options.contains(&name) {
            command.arg(name).arg(value);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    let out = child.stdout.as_mut().expect("piped");
    BufReader::new(out).read_line(&mut line).expect("text");
    line
}

/// Reads lines on a thread, so that the node never waits for its reader.
fn lines(from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}

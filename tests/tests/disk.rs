//! A disk that is full, on a real file system: what is durable is refused, all else goes on, and it
//! clears by itself.
//!
//! Owns: a file system of its own, gone at the end.  Not: errors of writes, which the simulation
//! has.  Skips where no file system can be mounted.

use heronry_engine::Ack;
use heronry_net::client::{Client, SendOptions};
use heronry_tests::node::{Node, wait_until};
use std::path::Path;
use std::process::{Command, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_test-node");
const DURABLE: SendOptions<'_> =
    SendOptions { ack: Ack::Durable, request_id: None, timeout_ms: None };

/// A small file system in memory.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mebibytes: u32) -> Option<SmallDisk> {
        let disk = SmallDisk(tempfile::tempdir().expect("a folder"));
        let mounted = disk.run(&["-t", "tmpfs", "-o", &format!("size={mebibytes}M"), "tmpfs"]);
        if !mounted {
            println!("skipped: this user cannot mount a file system");
        }
        mounted.then_some(disk)
    }

    fn grow(&self, mebibytes: u32) {
        assert!(self.run(&["-o", &format!("remount,size={mebibytes}M")]), "it grows");
    }

    fn run(&self, options: &[&str]) -> bool {
        let mut mount = Command::new("mount");
        mount.args(options).arg(self.path()).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // One that was never mounted is as good.
        let _ = Command::new("umount").arg(self.path()).stderr(Stdio::null()).status();
    }
}

/// Agents of 1 MiB each, of bytes that differ from agent to agent.
fn fill(client: &mut Client, count: u32) {
    let mut noise = 1u64;
    for n in 0..count {
        let mut bytes = vec![0; 1 << 20];
        bytes.chunks_exact_mut(8).for_each(|chunk| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            chunk.copy_from_slice(&noise.to_le_bytes());
        });
        client.create(&format!("notebook/{n}"), 0).expect("made");
        client.write(&format!("notebook/{n}"), 0, &bytes).expect("sealed");
    }
}

#[test]
fn a_full_disk_refuses_what_is_durable_and_clears_by_itself() {
    let Some(disk) = SmallDisk::mount(14) else { return };
    let data = disk.path().join("data");
    let data = data.to_str().expect("text");
    let set = ["--set", "log.segment_bytes=4MiB"];
    // Templates are on the same disk and take more room than there is.
    let no_guests = ["--set", "sandbox.guests_dir=/nonexistent"];
    let small = [&["--shards", "1", "--data", data][..], &set, &no_guests].concat();
    let mut node = Node::start(BINARY, &small);
    let mut client = node.client();
    client.send_with("counter/a", b"1", DURABLE).expect("there is room");
    // More than there is room for.
    fill(&mut client, 18);
    node.await_log("the log gets no room on disk");
    let refused = client.send_with("counter/a", b"1", DURABLE).expect_err("there is no room");
    assert_eq!(refused.code(), Some("DISKFULL"), "{refused}");
    assert_eq!(client.send("counter/a", b"2").expect("sealed work goes on"), Some("3".into()));
    assert_eq!(client.send("counter/a", b"get").expect("reads go on"), Some("3".into()));

    disk.grow(64);
    let reply = wait_until("room", || client.send_with("counter/a", b"4", DURABLE).ok());
    assert_eq!(reply, Some("7".into()));
    drop(node);
    // What was sealed while the disk was full is there, too.
    let node = Node::start(BINARY, &small);
    let mut client = node.client();
    assert_eq!(client.send("counter/a", b"get").expect("it is back"), Some("7".into()));
    assert_eq!(client.info("notebook/17").expect("it is back").image_bytes, 1 << 20);
}

/// Moving to another number of shards needs room for a copy: without it nothing has changed.
#[test]
fn a_move_to_more_shards_that_finds_no_room_changes_nothing() {
    let Some(disk) = SmallDisk::mount(30) else { return };
    let data = disk.path().join("data");
    let data = data.to_str().expect("text");
    let set = ["--set", "log.segment_bytes=4MiB", "--set", "sandbox.guests_dir=/nonexistent"];
    let with = |shards| [&["--shards", shards, "--data", data][..], &set].concat();
    let node = Node::start(BINARY, &with("1"));
    fill(&mut node.client(), 16);
    node.client().send_with("counter/a", b"1", DURABLE).expect("there is room");
    drop(node);
    let failed = Node::fail(BINARY, &with("2"));
    let text = String::from_utf8_lossy(&failed.stderr);
    assert!(!failed.status.success() && text.contains("nothing is changed"), "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    let node = Node::start(BINARY, &with("1"));
    assert_eq!(node.client().info("notebook/15").expect("it is back").image_bytes, 1 << 20);
    drop(node);
    disk.grow(100);
    let node = Node::start(BINARY, &with("2"));
    assert_eq!(node.client().info("notebook/15").expect("it is back").image_bytes, 1 << 20);
    assert_eq!(node.client().send("counter/a", b"get").expect("it is back"), Some("1".into()));
}

//! Unsafe code: only in the files named here, each use with its proof.
//!
//! Owns: the list of files that may be unsafe.  Not: whether a proof is right; clippy checks that
//! it stands directly above the block and that a block has one operation.
//! U1  `unsafe` outside the list fails; so does a listed file that has none.
//! U2  a SAFETY comment stands within a few lines above each use.

use super::Finding;
use crate::scan::Source;

/// Files that may hold unsafe code, and what they need it for.
const ALLOWED: &[(&str, &str)] = &[
    ("bench/src/sys.rs", "affinity, signals and limits of the processes a scenario starts"),
    ("numa/src/doctor/dirty.rs", "userfaultfd and PAGEMAP_SCAN, tried on a page of its own"),
    ("numa/src/doctor/ring.rs", "io_uring operations, tried on a ring of its own"),
    ("numa/src/sys.rs", "mbind, madvise, affinity, the TSC"),
    ("shards/benches/slot.rs", "single bytes written as a guest writes them"),
    ("shards/src/region.rs", "typed views of shared memory"),
    ("shards/src/sandbox/instance/memory.rs", "the runtime's traits for lent memories"),
    ("shards/src/sandbox/instance/stack.rs", "stacks of calls, and their guard pages"),
    ("shards/src/sandbox/instance/tick.rs", "a timer's signal on the shard's own thread"),
    ("shards/src/sandbox/slot.rs", "pages of a mapped memory, between the guest's turns"),
    ("shards/src/sandbox/slot/base.rs", "the mapping of a sealed base"),
    ("shards/src/sandbox/slot/kernel.rs", "reservations, userfaultfd, PAGEMAP_SCAN"),
    ("shards/src/sandbox/cache.rs", "loading compiled code that the node's key has signed"),
    ("shards/src/sandbox/mapped.rs", "mappings of files that only this user or root can change"),
    ("shards/src/seat.rs", "file descriptors inherited at fixed numbers"),
    ("shards/src/uring.rs", "submitting operations whose buffers the driver owns"),
    ("shards/src/uring/buffers.rs", "provided buffers that the kernel fills"),
    ("shards/src/uring/completion.rs", "taking over descriptors that completions bring"),
    ("shards/src/uring/descriptor.rs", "file descriptors and socket options"),
    ("shards/src/uring/probe.rs", "asking the kernel which operations it has"),
    ("shards/tests/conformance.rs", "an eventfd for the drivers under test"),
    ("shards/tests/descriptors.rs", "an eventfd and a limit for the driver under test"),
    ("shards/tests/sandbox_memory.rs", "loading the module that the test itself compiled"),
    ("tools/heronry/src/map.rs", "the mapping of a compiled config"),
];
/// How far above a use its proof may start: the comment and a statement broken over lines.
const PROOF_LINES_MAX: usize = 10;

/// What breaks U1 or U2.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    check_against(sources, ALLOWED)
}

fn check_against(sources: &[Source], allowed: &[(&str, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let listed = allowed.iter().any(|(path, _)| *path == source.path);
        let mut used = false;
        for line in source.lines_with("unsafe") {
            used = true;
            let above = &source.lines[line.saturating_sub(PROOF_LINES_MAX)..=line];
            let proof = |text: &String| text.contains("SAFETY:") || text.contains("# Safety");
            if !listed {
                let what = "unsafe code outside the files of tidy/safety.rs";
                findings.push(Finding::line(&source.path, line, what));
            } else if !above.iter().any(proof) {
                findings.push(Finding::line(&source.path, line, "unsafe without SAFETY above it"));
            }
        }
        if listed && !used {
            let what = "has no unsafe code any more; take it off the list of tidy/safety.rs";
            findings.push(Finding::file(&source.path, what));
        }
    }
    for (path, _) in allowed.iter().filter(|(path, _)| sources.iter().all(|s| s.path != *path)) {
        findings
            .push(Finding::file(path, "does not exist; take it off the list of tidy/safety.rs"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        let source = Source::new(text.to_owned(), path.to_owned());
        check_against(&[source], &[("a/src/sys.rs", "the kernel")]).len()
    }

    #[test]
    fn u1_unsafe_stays_in_listed_files() {
        let proven = "// SAFETY: f has no conditions.\nunsafe { f() };\n";
        assert_eq!(count("a/src/sys.rs", proven), 0);
        assert_eq!(count("a/src/page.rs", proven), 2, "outside the list, and sys.rs is missing");
        assert_eq!(count("a/src/sys.rs", "#![allow(unsafe_code)]\nfn f() {}\n"), 1);
        assert_eq!(count("a/src/sys.rs", "// unsafe\n"), 1);
    }

    #[test]
    fn u2_unsafe_needs_a_proof() {
        assert_eq!(count("a/src/sys.rs", "unsafe { f() };\n"), 1);
        let far = format!("// SAFETY: x\n{}unsafe {{ f() }};\n", "g();\n".repeat(10));
        assert_eq!(count("a/src/sys.rs", &far), 1);
    }
}

//! CPython's own test modules inside a sandbox: once through, and once with the agent evicted,
//! forked and rolled back between the tests.
//!
//! Owns: which modules, and the tests that cannot pass there, by name and with the reason.
//! Not: what the tests check. Skips where no guests were built.

#[allow(dead_code, reason = "other tests use other parts of it")]
#[path = "sandbox/world.rs"]
mod world;

use heronry_engine::verb::Language;
use heronry_engine::*;
use std::time::Duration;
use world::*;

const MODULES: [&str; 6] =
    ["test_json", "test_re", "test_dict", "test_generators", "test_coroutines", "test_dataclasses"];

/// Tests that cannot pass in a sandbox: what their ids begin with, and why.
const EXCLUDED: [(&str, &str); 1] =
    [("test_coroutines.CAPITest.", "needs _testcapi, an extension for testing CPython's C API")];

/// Tests that CPython itself skips there, all of them, and why.
const SKIPPED: [(&str, &[&str]); 7] = [
    (
        "needs 2 GiB",
        &["test_json.test_encode_basestring_ascii.TestCEncodeBasestringAscii.test_overflow"],
    ),
    (
        "runs Python in another process",
        &[
            "test_json.test_tool.TestTool.test_broken_pipe_error",
            "test_json.test_tool.TestTool.test_compact",
            "test_json.test_tool.TestTool.test_ensure_ascii_default",
            "test_json.test_tool.TestTool.test_help_flag",
            "test_json.test_tool.TestTool.test_indent",
            "test_json.test_tool.TestTool.test_infile_outfile",
            "test_json.test_tool.TestTool.test_infile_stdout",
            "test_json.test_tool.TestTool.test_jsonlines",
            "test_json.test_tool.TestTool.test_no_ensure_ascii_flag",
            "test_json.test_tool.TestTool.test_no_indent",
            "test_json.test_tool.TestTool.test_non_ascii_infile",
            "test_json.test_tool.TestTool.test_sort_keys_flag",
            "test_json.test_tool.TestTool.test_stdin_stdout",
            "test_json.test_tool.TestTool.test_tab",
            "test_json.test_tool.TestTool.test_writing_in_place",
            "test_coroutines.UnawaitedWarningDuringShutdownTest.\
             test_unawaited_warning_during_shutdown",
        ],
    ),
    (
        "WASI has no locales",
        &["test_re.ReTests.test_locale_caching", "test_re.ReTests.test_locale_compiled"],
    ),
    ("uses multiprocessing", &["test_re.ReTests.test_regression_gh94675"]),
    ("needs _testcapi", &["test_dict.CAPITest.test_getitem_knownhash"]),
    (
        "needs _testcapi to raise a signal",
        &["test_generators.SignalAndYieldFromTest.test_raise_and_yield_from"],
    ),
    (
        "starts a loop of its own, which no CPython does on WASI",
        &["test_coroutines.CoroAsyncIOCompatTest.test_asyncio_1"],
    ),
];

/// Defines how tests are listed and run; `tests` stays in the agent's memory.
const RUNNER: &str = r#"
import sys, unittest

def flat(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flat(item)
        else:
            yield item

def collect(name, excluded):
    suite = unittest.defaultTestLoader.loadTestsFromName("test." + name)
    return [t for t in flat(suite) if not t.id().startswith(tuple(excluded))]

def run(some):
    """What did not pass, or how many did; then the ids of those skipped, one a line."""
    result = unittest.TestResult()
    unittest.TestSuite(some).run(result)
    bad = result.failures + result.errors
    lines = [f"FAILED {test.id()}: {text}" for test, text in bad]
    lines += [f"UNEXPECTED {test.id()}" for test in result.unexpectedSuccesses]
    lines = lines or [f"{result.testsRun} ran"]
    return "\n".join(lines + [test.id() for test, reason in result.skipped])
"#;

/// A world whose Python has the tests in its file tree.
fn world(live_max: u32) -> Option<(World, tempfile::TempDir)> {
    if !has_guests() {
        return None;
    }
    let guests = cache_dir().join("guests/current").canonicalize().expect("there");
    let tests = guests.join("python-tests.tar");
    if !tests.is_file() {
        println!("skipped: no {}; tools/guests/build makes it", tests.display());
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(guests.join("python.wasm"), folder.path().join("python.wasm")).expect("copied");
    std::fs::copy(&tests, folder.path().join("python.tar")).expect("copied");
    let mut world = World::with(Settings {
        live_max,
        frame_count: 1 << 16,
        memory_bytes_max: 256 << 20,
        turn_cpu_max: Duration::from_secs(300),
        guests_dir: folder.path().to_owned(),
        ..Settings::default()
    });
    world.deploy("python", Language::Python, None);
    Some((world, folder))
}

/// Lets an agent collect a module's tests into `tests`: how many there are.
fn collect(world: &mut World, key: &str, module: &str) -> usize {
    assert_eq!(world.exec(key, RUNNER), "");
    let excluded: Vec<String> = EXCLUDED.iter().map(|(part, _)| format!("test.{part}")).collect();
    let code = format!("tests = collect({module:?}, {excluded:?}); len(tests)");
    let said = world.exec(key, &code);
    said.parse().unwrap_or_else(|_| panic!("{module}: {said}"))
}

/// Takes the result of `print(run(...))`, which must be without failures: the tests skipped.
fn passed(module: &str, said: &str) -> Vec<String> {
    let (ran, skipped) = said.split_once('\n').unwrap_or((said, ""));
    assert!(ran.ends_with(" ran"), "{module}: {said}");
    let name = |line: &str| line.trim_start_matches("test.").to_owned();
    skipped.lines().map(name).collect()
}

/// Holds the tests that were skipped to those that are listed.
fn check_skipped(mut skipped: Vec<String>) {
    let mut listed: Vec<&str> = SKIPPED.iter().flat_map(|(_, names)| *names).copied().collect();
    skipped.sort_unstable();
    listed.sort_unstable();
    assert_eq!(skipped, listed);
}

#[test]
fn t1_cpythons_own_tests_pass_in_a_sandbox() {
    let Some((mut world, _folder)) = world(8) else { return };
    let mut skipped = Vec::new();
    for module in MODULES {
        let key = format!("python/{module}");
        let count = collect(&mut world, &key, module);
        skipped.extend(passed(module, &world.exec(&key, "print(run(tests))")));
        println!("{module}: {count} tests");
    }
    check_skipped(skipped);
    world.end();
}

/// Goes on with the agent's state in another way: as it is, in a branch that is committed, or back
/// from a rollback to the present. The other agent's turn takes the only slot each time.
fn churn(world: &mut World, key: &str, round: usize) {
    assert_eq!(world.exec("python/other", "x = 1"), "");
    match round % 3 {
        0 => {
            let branch = world.fork(key, 1, false).remove(0);
            world.exec(&branch, "branched = True");
            world.does(&branch, Verb::Commit).expect("committed");
        }
        1 => {
            let present = VersionRef::Id(world.info(key).head);
            assert_eq!(world.exec(key, "tests = None"), "");
            world.does(key, Verb::Rollback { to: Some(present) }).expect("rolled back");
        }
        _ => {}
    }
}

#[test]
fn t2_cpythons_own_tests_pass_when_the_agent_is_evicted_forked_and_rolled_back_between_them() {
    let Some((mut world, _folder)) = world(1) else { return };
    let mut skipped = Vec::new();
    for module in MODULES {
        let key = format!("python/{module}");
        let count = collect(&mut world, &key, module);
        for index in 0..count {
            churn(&mut world, &key, index);
            let said = world.exec(&key, &format!("print(run([tests[{index}]]))"));
            skipped.extend(passed(module, &said));
        }
        println!("{module}: {count} tests, one at a time");
        world.does(&key, Verb::Terminate).expect("ended");
    }
    println!("{:?}", world.live());
    check_skipped(skipped);
    world.end();
}

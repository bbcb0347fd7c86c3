//! The example agents of `tools/guests/examples`, each doing its work on a whole node.
//!
//! Owns: what each example promises.  Not: the node's own promises (`sandbox.rs`).
//! Skips where no interpreters were built; the customer service also where `HERONRY_TAU_BENCH` does
//! not name a file of recorded tau-bench conversations.

use heronry_net::client::{Client, ForkOptions};
use heronry_tests::guests::{deploy_example, has_guests, say};
use heronry_tests::node::Node;
use serde_json::{Map, Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_test-node");
/// Path of the recorded conversations.
const RECORDED: &str = "HERONRY_TAU_BENCH";

fn ask(client: &mut Client, key: &str, message: &Value) -> Value {
    let reply = say(client, key, &message.to_string());
    serde_json::from_str(&reply).unwrap_or_else(|error| panic!("{key}: {error}: {reply}"))
}

#[test]
fn the_code_interpreter_keeps_the_variables_of_each_conversation() {
    if !has_guests() {
        return;
    }
    let node = Node::start(BINARY, &["--set", "sandbox.turn_ms_max=1000"]);
    let mut client = node.client();
    deploy_example(&mut client, "tool", "interpreter.py");
    let run = |client: &mut Client, conversation: &str, code: &str| {
        ask(client, "tool/a", &json!({"conversation": conversation, "code": code}))
    };
    let first =
        run(&mut client, "one", "import statistics\nn = [1, 2, 6]\nprint('sum', sum(n))\nn");
    assert_eq!(first, json!({"output": "sum 9\n", "value": "[1, 2, 6]", "error": null}));
    assert_eq!(run(&mut client, "one", "statistics.mean(n)")["value"], "3");
    let other = run(&mut client, "two", "n");
    assert!(other["error"].as_str().is_some_and(|error| error.ends_with("'n' is not defined\n")));
    let raised = run(&mut client, "one", "print('before')\nm = 7\nn[9]");
    assert_eq!(raised["output"], "before\n");
    let error = raised["error"].as_str().expect("a traceback");
    assert!(error.starts_with("Traceback") && error.contains("line 3"), "{error}");
    assert!(error.ends_with("IndexError: list index out of range\n"), "{error}");
    assert_eq!(run(&mut client, "one", "m")["value"], "7");
    let endless = json!({"conversation": "one", "code": "m = 8\nwhile True: m += 1"}).to_string();
    let error = client.send("tool/a", endless.as_bytes()).expect_err("it is ended");
    assert_eq!(error.code(), Some("FAULT"), "{error}");
    assert_eq!(run(&mut client, "one", "m")["value"], "7", "that turn never was");
    // What a model tries in a branch, the conversation need not keep.
    client.fork("tool/a", ForkOptions::default()).expect("a branch");
    let branch = json!({"conversation": "one", "code": "n.clear(); len(n)"});
    assert_eq!(ask(&mut client, "tool/a~1", &branch)["value"], "0");
    assert_eq!(run(&mut client, "one", "len(n)")["value"], "3");
    let forget = ask(&mut client, "tool/a", &json!({"conversation": "one", "forget": true}));
    assert_eq!(forget, json!({"forgotten": true}));
    assert!(run(&mut client, "one", "n")["error"].is_string());
}

/// What is left of numbers after steps such as `25 + 50 = 75`, each checked.
fn walk(numbers: &[i64], plan: &Value) -> Vec<i64> {
    let mut left = numbers.to_vec();
    for step in plan.as_array().expect("a list of steps") {
        let words: Vec<&str> = step.as_str().expect("text").split(' ').collect();
        let [a, b, result] = [0, 2, 4].map(|at| words[at].parse::<i64>().expect("a number"));
        let really = match words[1] {
            "+" => a + b,
            "-" => a - b,
            "*" => a * b,
            "/" if a % b == 0 => a / b,
            other => panic!("{other}"),
        };
        assert_eq!(result, really, "{step}");
        for used in [a, b] {
            let at = left.iter().position(|n| *n == used).expect("only numbers that are there");
            left.swap_remove(at);
        }
        left.push(result);
    }
    left
}

#[test]
fn the_solver_forks_itself_and_its_best_branch_is_committed() {
    if !has_guests() {
        return;
    }
    let node = Node::start(BINARY, &["--set", "shards.arena_bytes=256MiB"]);
    let mut client = node.client();
    deploy_example(&mut client, "solver", "solver.py");
    for (agent, numbers, target) in [("a", [25, 50, 3, 7, 6], 552), ("b", [2, 3, 5, 7, 1], 211)] {
        let key = format!("solver/{agent}");
        let words: Vec<String> = numbers.iter().map(i64::to_string).collect();
        let reply = say(&mut client, &key, &format!("solve {target} {}", words.join(" ")));
        let reply: Value = serde_json::from_str(&reply).expect("JSON");
        assert_eq!(reply["distance"], 0, "{reply}");
        let branches = reply["branches"].as_u64().expect("a count");
        assert_eq!(client.info(&key).expect("it lives").branch_count as u64, branches);
        assert_eq!(say(&mut client, &key, "plan"), "[]", "the parent searched nothing");
        client.commit(reply["best"].as_str().expect("a key")).expect("committed");
        let plan: Value = serde_json::from_str(&say(&mut client, &key, "plan")).expect("JSON");
        assert!(walk(&numbers, &plan).contains(&target), "{plan}");
        let pattern = format!("{key}*");
        let (mut keys, mut cursor) = (Vec::new(), "0".to_owned());
        loop {
            let page = client.list(&cursor, 1000, Some(&pattern), false).expect("a page");
            keys.extend(page.keys.iter().map(|key| key.as_str().to_owned()));
            cursor = page.cursor;
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(keys, [key], "the branches ended with the commit");
    }
}

/// What the model and the tools of one conversation answer: by place in it, tools also by the call.
fn recordings(conversation: &[Value]) -> (Map<String, Value>, Map<String, Value>) {
    let (mut model, mut tools) = (Map::new(), Map::new());
    for (place, message) in conversation.iter().enumerate() {
        match message["role"].as_str() {
            Some("assistant") => {
                model.insert(place.to_string(), json!(message.to_string()));
            }
            Some("tool") => {
                let call = &conversation[place - 1]["tool_calls"][0]["function"];
                let [name, arguments] =
                    ["name", "arguments"].map(|field| call[field].as_str().expect("text"));
                tools.insert(format!("{place} {name} {arguments}"), message["content"].clone());
            }
            _ => {}
        }
    }
    (model, tools)
}

/// A conversation on its way: the service, forked, rolled back and evicted between messages.
fn replay(client: &mut Client, n: usize, conversation: &[Value]) {
    let key = format!("service/{n}");
    let [model, tools] = ["model", "tools"].map(|who| format!("recorded/{who}-{n}"));
    let (said, done) = recordings(conversation);
    say(client, &model, &json!({"record": said}).to_string());
    say(client, &tools, &json!({"record": done}).to_string());
    let system = &conversation[0]["content"];
    let begin = json!({"system": system, "model": model, "tools": tools});
    // The agent knows its first message by how it starts.
    say(client, &key, &format!("{{\"begin\": {begin}}}"));
    let users = conversation.iter().enumerate().filter(|(_, message)| message["role"] == "user");
    for (count, (place, message)) in users.enumerate() {
        let text = message["content"].as_str().expect("text");
        match count % 3 {
            // Another reality, in which the customer says something else, and which never was.
            0 => {
                client.checkpoint(&key, Some("before")).expect("a version");
                say(client, &key, &format!("{text} Or perhaps not."));
                client.rollback(&key, Some("@before")).expect("rolled back");
                say(client, &key, text);
            }
            // The conversation goes on in a branch, which then takes the agent's place.
            1 => {
                let branches = client.fork(&key, ForkOptions::default()).expect("a branch");
                let branch = branches[0].as_str();
                say(client, branch, text);
                assert_eq!(transcript(client, &key), conversation[..place], "the parent waits");
                client.commit(branch).expect("committed");
            }
            _ => drop(say(client, &key, text)),
        }
    }
    assert_eq!(transcript(client, &key), conversation, "conversation {n}");
    for key in [&key, &model, &tools] {
        client.terminate(key).expect("ended");
    }
}

fn transcript(client: &mut Client, key: &str) -> Vec<Value> {
    serde_json::from_str(&say(client, key, "transcript")).expect("a list of messages")
}

#[test]
fn the_customer_service_ends_with_the_recorded_transcript_also_when_forked_and_evicted() {
    let Some(path) = std::env::var_os(RECORDED) else {
        println!("skipped: {RECORDED} names no recorded conversations");
        return;
    };
    if !has_guests() {
        return;
    }
    // One live agent per shard: every message finds its agent evicted by the one before.
    let node = Node::start(BINARY, &["--set", "sandbox.live_max=1"]);
    let mut client = node.client();
    deploy_example(&mut client, "service", "service.py");
    deploy_example(&mut client, "recorded", "recorded.py");
    let records = std::fs::read(path).expect("the recorded conversations");
    let records: Vec<Value> = serde_json::from_slice(&records).expect("JSON");
    for (n, record) in records.iter().enumerate() {
        replay(&mut client, n, record["traj"].as_array().expect("a conversation"));
    }
}

//! Agents in Python and JavaScript for tests of real nodes.
//!
//! Owns: finding the interpreters and the examples, deploying, asking as text.
//! Not: what agents do, building interpreters (`tools/guests/build`, which `tools/test` calls).

use heronry_engine::verb::Language;
use heronry_net::Value;
use heronry_net::client::{Client, Deployment};
use std::path::{Path, PathBuf};

/// Heronry's folder in the user's cache folder, as nodes find it.
pub fn cache_dir() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("heronry")
}

/// Whether the interpreters are there; says so when not, as a skipped test must.
pub fn has_guests() -> bool {
    let folder = cache_dir().join("guests/current");
    let all = ["python.wasm", "python.tar", "javascript.wasm"];
    let has = all.iter().all(|name| folder.join(name).is_file());
    if !has {
        println!("skipped: no guests at {}; tools/guests/build makes them", folder.display());
    }
    has
}

/// The path of an example agent.
pub fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/guests/examples").join(file)
}

/// Deploys source text and makes new agents use it; the template's number.
pub fn deploy(client: &mut Client, name: &str, language: Language, source: &str) -> u32 {
    let source = source.as_bytes();
    let wanted = Deployment { name, language, source, warm: None, activate: true };
    client.deploy(wanted).unwrap_or_else(|error| panic!("{name} is not deployed: {error}"))
}

/// Deploys the example in `file`, an agent in Python.
pub fn deploy_example(client: &mut Client, name: &str, file: &str) {
    let source = std::fs::read_to_string(example(file)).expect("an example");
    deploy(client, name, Language::Python, &source);
}

/// Sends a message; the reply as text, empty if there is none.
pub fn say(client: &mut Client, key: &str, message: &str) -> String {
    let reply = client.send(key, message.as_bytes());
    let reply = reply.unwrap_or_else(|error| panic!("{key} refused {message:?}: {error}"));
    String::from_utf8(reply.unwrap_or_default().to_vec()).expect("text")
}

/// Runs code in an agent; what it printed and its value.
pub fn exec(client: &mut Client, key: &str, code: &str) -> String {
    let reply = client.exec(key, code.as_bytes());
    let reply = reply.unwrap_or_else(|error| panic!("{key} refused {code:?}: {error}"));
    String::from_utf8(reply.to_vec()).expect("text")
}

/// The code and text that running code is refused with.
pub fn exec_refused(client: &mut Client, key: &str, code: &str) -> (String, String) {
    let command = [b"AGENT.EXEC", key.as_bytes(), code.as_bytes()];
    match client.call(&command).expect("the connection lasts") {
        Value::Error { code, text } => (code, text),
        other => panic!("{code:?} was not refused: {other:?}"),
    }
}

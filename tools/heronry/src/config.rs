//! Config files: reading either form, layering options over them, `heronry config ...`.
//!
//! Owns: files, and the order in which values win: option, `--set`, file, default.
//! Not: keys, ranges, forms (`heronry_engine::config`).
//! F1  every error of a text is named with file, line, value and allowed range.
//! F2  a compiled file is replaced in one step: written beside it, synced, renamed.

use crate::address::{DEFAULT_DATA_DIR, socket_beside};
use crate::cli::{ConfigCommand, UpOptions};
use crate::dispatch::AnswerIsNo;
use crate::map::map;
use crate::output::{Output, table};
use anyhow::{Context, Result, bail};
use heronry_engine::config::{self, Config, ConfigError, ConfigErrors, KEYS, Kind};
use serde_json::json;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// What a compiled file begins with.
const MAGIC: &[u8] = b"HERONCFG";
/// Longest text that is read; the parser refuses it as too long by one byte.
const TEXT_BYTES_MAX: u64 = config::parse::TEXT_BYTES_MAX as u64;

/// The config of a node: its file or the defaults, `--set`, then the options of their own.
pub fn of_node(options: &UpOptions) -> Result<Config> {
    let base = match &options.config {
        Some(file) => read(file)?,
        None => Config::default(),
    };
    let mut changes = Vec::new();
    for pair in &options.set {
        let Some((key, value)) = pair.split_once('=') else {
            bail!("--set {pair}: expected KEY=VALUE, such as shards.spin_us=50");
        };
        changes.push((key.trim().to_owned(), value.trim().to_owned()));
    }
    let mut option = |key: &str, value: Option<String>| {
        changes.extend(value.map(|value| (key.to_owned(), value)));
    };
    option("node.bind", options.bind.map(|bind| bind.to_string()));
    option("node.port", options.port.map(|port| port.to_string()));
    option("node.data_dir", options.data.as_ref().map(|dir| dir.display().to_string()));
    option("shards.count", options.shards.map(|count| count.to_string()));
    layer(&base, &changes)
}

/// The data folder, chosen here when the config leaves it open.
pub fn data_dir(config: &Config) -> PathBuf {
    let given = &config.node.data_dir;
    PathBuf::from(if given.is_empty() { DEFAULT_DATA_DIR } else { given })
}

/// The folder of one shard's log.
pub fn log_dir(config: &Config, shard: u16) -> PathBuf {
    data_dir(config).join("log").join(format!("{shard:04}"))
}

/// The Unix socket: beside the data folder unless the config says another place.
pub fn unix_socket(config: &Config) -> PathBuf {
    match config.node.unix_socket.as_str() {
        "" => socket_beside(&data_dir(config)),
        given => PathBuf::from(given),
    }
}

/// Where the interpreters are.
pub fn guests_dir(config: &Config) -> PathBuf {
    given_or_cached(&config.sandbox.guests_dir, "guests/current")
}

/// Where compiled modules are.
pub fn cache_dir(config: &Config) -> PathBuf {
    given_or_cached(&config.sandbox.cache_dir, "modules")
}

/// The file of secrets for agents' HTTP requests, if there is one.
pub fn secrets_file(config: &Config) -> Option<PathBuf> {
    let given = &config.http.secrets_file;
    (!given.is_empty()).then(|| PathBuf::from(given))
}

/// A folder as given, or in the user's cache folder.
fn given_or_cached(given: &str, name: &str) -> PathBuf {
    if !given.is_empty() {
        return PathBuf::from(given);
    }
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    let cache = cache.or_else(|| set("HOME").map(|home| home.join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("heronry").join(name)
}

/// `base` with some keys changed; the last change of a key wins. Errors name `--set KEY=VALUE`.
fn layer(base: &Config, changes: &[(String, String)]) -> Result<Config> {
    if changes.is_empty() {
        return Ok(base.clone());
    }
    let mut text = String::new();
    for key in KEYS {
        let changed = changes.iter().rfind(|(path, _)| path == key.path);
        let value = match changed {
            Some((_, value)) => as_toml(&key.kind, value),
            None => (key.get)(base).to_string(),
        };
        text.push_str(&format!("{} = {value}\n", key.path));
    }
    let known = |path: &String| KEYS.iter().any(|key| key.path == path);
    for (path, value) in changes.iter().filter(|(path, _)| !known(path)) {
        text.push_str(&format!("{path} = {}\n", quoted(value)));
    }
    config::parse(&text).map_err(|errors| {
        let line = |error: &ConfigError| match changes.iter().rfind(|(key, _)| *key == error.key) {
            Some((key, value)) => format!("--set {key}={value}: {key} {}", error.problem),
            None => format!("{} {}", error.key, error.problem),
        };
        anyhow::anyhow!(errors.0.iter().map(line).collect::<Vec<_>>().join("\n"))
    })
}

/// A value as it stands behind `--set KEY=`, as TOML.
fn as_toml(kind: &Kind, value: &str) -> String {
    match kind {
        Kind::Text { .. } | Kind::Choice(_) => quoted(value),
        _ if value == "true" || value == "false" => value.to_owned(),
        _ if value.parse::<i128>().is_ok() => value.to_owned(),
        // Numbers with a suffix are texts.
        _ => quoted(value),
    }
}

/// A TOML string; JSON escapes the same bytes in the same way.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A config from either form.
pub fn read(path: &Path) -> Result<Config> {
    match read_text_or_compiled(path)? {
        Ok(config) => Ok(config),
        Err(errors) => bail!("{}", in_file(path, &errors).join("\n")),
    }
}

fn read_text_or_compiled(path: &Path) -> Result<Result<Config, ConfigErrors>> {
    let shown = path.display();
    let unread = || format!("cannot read {shown}");
    let file = File::open(path).with_context(unread)?;
    let mut start = Vec::new();
    (&file).take(MAGIC.len() as u64).read_to_end(&mut start).with_context(unread)?;
    if start == MAGIC {
        let bytes = map(&file).with_context(unread)?;
        let again = || format!("{shown}: run `heronry config compile` again on its TOML");
        return Ok(Ok(Config::from_bytes(&bytes).with_context(again)?));
    }
    file.take(TEXT_BYTES_MAX + 1).read_to_end(&mut start).with_context(unread)?;
    let text = String::from_utf8(start)
        .with_context(|| format!("{shown} is neither TOML nor a compiled config"))?;
    Ok(config::parse(&text))
}

/// Errors as `file:line:column: text` (F1).
fn in_file(path: &Path, errors: &ConfigErrors) -> Vec<String> {
    let line = |error: &ConfigError| {
        let place = error.place.map_or(String::new(), |p| format!(":{}:{}", p.line, p.column));
        let key = if error.key.is_empty() { String::new() } else { format!("{} ", error.key) };
        format!("{}{place}: {key}{}", path.display(), error.problem)
    };
    errors.0.iter().map(line).collect()
}

/// Runs one verb.
pub fn run(command: &ConfigCommand, output: Output) -> Result<()> {
    match command {
        ConfigCommand::Compile { input, output: file } => compile(input, file, output),
        ConfigCommand::Show { file } => {
            let config = file.as_deref().map_or_else(|| Ok(Config::default()), read)?;
            show(&config, output)
        }
        ConfigCommand::Diff { left, right } => diff(&read(left)?, &read(right)?, output),
        ConfigCommand::Check { file } => check(file, output),
    }
}

fn compile(input: &Path, file: &Path, output: Output) -> Result<()> {
    let hash = compile_file(input, file)?;
    if output.json {
        return Ok(output.json(&json!({"file": file, "hash": hash}))?);
    }
    Ok(output.text(&format!("{}: hash {hash}", file.display()))?)
}

/// Compiles one file into another; gives the config's hash as hex digits.
fn compile_file(input: &Path, file: &Path) -> Result<String> {
    let config = read(input)?;
    replace(file, &config.to_bytes())?;
    Ok(hex(&config.hash()))
}

/// Writes `bytes` to `path` in one step (F2). Failure: the old file is as it was.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let context = || format!("cannot write {}", path.display());
    let mut scratch = tempfile::NamedTempFile::new_in(dir).with_context(context)?;
    scratch.write_all(bytes).with_context(context)?;
    scratch.as_file().sync_all().with_context(context)?;
    scratch.persist(path).map_err(|error| error.error).with_context(context)?;
    File::open(dir).and_then(|dir| dir.sync_all()).with_context(context)
}

fn show(config: &Config, output: Output) -> Result<()> {
    let mut rows = config::show(config);
    for row in &mut rows {
        match row.key {
            "node.data_dir" if config.node.data_dir.is_empty() => {
                row.humane = data_dir(config).display().to_string();
            }
            "node.unix_socket" if config.node.unix_socket.is_empty() => {
                row.humane = unix_socket(config).display().to_string();
            }
            _ => {}
        }
    }
    if output.json {
        return Ok(output.json(&serde_json::to_value(&rows)?)?);
    }
    let head = ["key", "value", "", "allowed"].map(str::to_owned);
    let row = |row: &config::Row| {
        let value = if row.humane.is_empty() { &row.value } else { &row.humane };
        let from = if row.is_default { "" } else { "set" };
        vec![row.key.to_owned(), value.clone(), from.to_owned(), row.allowed.clone()]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
    Ok(output.text(&format!("{}\nhash {}", table(&head, &rows), hex(&config.hash())))?)
}

fn diff(left: &Config, right: &Config, output: Output) -> Result<()> {
    let differences = config::diff(left, right);
    if output.json {
        return Ok(output.json(&serde_json::to_value(&differences)?)?);
    }
    if differences.is_empty() {
        return Ok(output.text("no differences")?);
    }
    let head = ["key", "left", "right"].map(str::to_owned);
    let row = |d: &config::Difference| vec![d.key.to_owned(), d.from.clone(), d.to.clone()];
    Ok(output.text(&table(&head, &differences.iter().map(row).collect::<Vec<_>>()))?)
}

fn check(file: &Path, output: Output) -> Result<()> {
    match read_text_or_compiled(file)? {
        Ok(config) => {
            let hash = hex(&config.hash());
            if output.json {
                return Ok(output.json(&json!({"ok": true, "hash": hash, "errors": []}))?);
            }
            Ok(output.text(&format!("{}: ok, hash {hash}", file.display()))?)
        }
        Err(errors) => {
            let lines = in_file(file, &errors);
            if output.json {
                output.json(&json!({"ok": false, "errors": lines}))?;
            } else {
                output.text(&lines.join("\n"))?;
            }
            Err(AnswerIsNo.into())
        }
    }
}

/// Bytes as hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn options(set: &[&str]) -> UpOptions {
        UpOptions { set: set.iter().map(|s| (*s).to_owned()).collect(), ..UpOptions::default() }
    }

    #[test]
    fn an_option_wins_over_set_and_set_over_the_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a.toml");
        fs::write(&file, "[node]\nport = 1000\n[shards]\ncount = 2\nspin_us = 7\n")
            .expect("written");
        let mut options = options(&["shards.count=3", "node.port=1001", "node.password=1234"]);
        options.config = Some(file);
        options.port = Some(1002);
        options.data = Some(PathBuf::from("/x/y"));
        let config = of_node(&options).expect("a good config");
        assert_eq!((config.node.port, config.shards.count, config.shards.spin_us), (1002, 3, 7));
        assert_eq!((&*config.node.password, &*config.node.data_dir), ("1234", "/x/y"));
    }

    #[test]
    fn f1_errors_name_the_option_or_the_line() {
        for (set, words) in [
            ("node.port=99999", vec!["--set node.port=99999", "allowed"]),
            ("node.prot=1", vec!["--set node.prot=1", "node.port"]),
            ("shards.count", vec!["KEY=VALUE"]),
        ] {
            let error = of_node(&options(&[set])).expect_err(set).to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("bad.toml");
        fs::write(&file, "[node]\nport = 99999\nbnid = \"x\"\n").expect("written");
        let error = read(&file).expect_err("two errors").to_string();
        assert!(error.contains("bad.toml:2:") && error.contains("bad.toml:3:"), "{error}");
    }

    #[test]
    fn f2_a_compiled_file_reads_back_and_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let (text, binary) = (dir.path().join("a.toml"), dir.path().join("a.bin"));
        fs::write(&text, "[agents]\nhistory = 9\n").expect("written");
        compile_file(&text, &binary).expect("compiled");
        assert_eq!(read(&binary).expect("read back"), read(&text).expect("read"));
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 2, "nothing is left over");
        let mut bytes = fs::read(&binary).expect("read");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&binary, bytes).expect("written");
        let error = format!("{:#}", read(&binary).expect_err("damaged"));
        assert!(error.contains("heronry config compile"), "{error}");
    }
}

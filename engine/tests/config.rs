//! The config as an operator and an attacker meet it: texts, compiled files, damaged ones.
//!
//! Owns: the golden file of the compiled form, the check of docs/config.md, the bounded fuzzing.
//! Not: rules between keys (`check.rs` tests them), the command line.
//! Longer fuzzing: `HERONRY_FUZZ_COUNT=1000000 cargo test -p heronry-engine --test config fuzz`.

use heronry_engine::config::{
    self, BinaryError, Config, ConfigErrors, KEYS, Kind, Problem, Value, binary,
};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use std::path::Path;

fn errors_of(text: &str) -> ConfigErrors {
    config::parse(text).expect_err("a bad config")
}

/// The only error of a text, as a user sees it.
fn error_of(text: &str) -> String {
    let errors = errors_of(text);
    assert_eq!(errors.0.len(), 1, "{errors}");
    errors.to_string()
}

fn assert_says(text: &str, parts: &[&str]) {
    let error = error_of(text);
    for part in parts {
        assert!(error.contains(part), "{text:?}:\n{error}\nshould contain {part:?}");
    }
}

#[test]
fn f2_the_empty_text_is_the_default() {
    let parsed = config::parse("").expect("an empty config");
    assert_eq!(parsed, Config::default());
    assert_eq!(parsed.node.port, 7373);
    assert_eq!(parsed.shards.ring_bytes, 1 << 20);
    assert!(parsed.agents.create_on_send);
    assert_eq!(config::parse("# nothing\n\n[node]\n[shards]\n").as_ref(), Ok(&parsed));
}

#[test]
fn e1_e2_every_key_has_an_allowed_default_and_its_own_field() {
    let mut paths: Vec<_> = KEYS.iter().map(|key| key.path).collect();
    paths.dedup();
    assert_eq!(paths.len(), KEYS.len());
    for key in KEYS {
        assert!(key.kind.allows(&key.default), "{}", key.path);
        assert!(key.doc.ends_with('.'), "{}: a sentence", key.path);
        let other = another(key.kind, &key.default);
        let mut config = Config::default();
        (key.set)(&mut config, &other);
        assert_eq!((key.get)(&config), other, "{} is kept whole", key.path);
        let changed: Vec<_> =
            config::diff(&Config::default(), &config).iter().map(|d| d.key).collect();
        assert_eq!(changed, [key.path]);
        // The largest number must fit the field's type.
        if let Kind::Integer { least, most, .. } = key.kind {
            for number in [least, most] {
                (key.set)(&mut config, &Value::Integer(number));
                assert_eq!((key.get)(&config), Value::Integer(number), "{}", key.path);
            }
        }
    }
    // Each line of the debug form with a value is a field; none is without a row.
    let debug = format!("{:#?}", Config::default());
    let fields = debug.lines().filter(|line| line.starts_with("        ") && line.contains(':'));
    assert_eq!(fields.count(), KEYS.len());
}

/// An allowed value that is not `value`.
fn another(kind: Kind, value: &Value) -> Value {
    match (kind, value) {
        (Kind::Integer { most, .. }, Value::Integer(number)) if *number != most => {
            Value::Integer(most)
        }
        (Kind::Integer { least, .. }, _) => Value::Integer(least),
        (Kind::Bool, value) => Value::Bool(*value == Value::Bool(false)),
        (Kind::Choice(names), value) => {
            let other = names.iter().find(|name| Value::Text((**name).into()) != *value);
            Value::Text((*other.expect("a second choice")).into())
        }
        (Kind::Text { .. }, _) => Value::Text("::1".into()),
    }
}

#[test]
fn values_are_read_with_units_and_without() {
    let text = "
        [node]
        port = 0
        data_dir = '/var/lib/heronry'
        [shards]
        count = 4
        isolation = \"thread\"
        runtime = \"glommio\"
        spin_us = \"0.25ms\"
        arena_bytes = \"1.5 GiB\"
        ring_bytes = 0x40000
        stall_ms = \"1s\"
        [net]
        payload_bytes_max = \"1_024KiB\"
        output_bytes_max = \"20MB\"
        [agents]
        call_timeout_ms = \"1min\"
        quarantine_window_ms = \"250\"
        image_bytes_max = \"4GiB\"
    ";
    let config = config::parse(text).expect("a good config");
    assert_eq!(config.node.data_dir, "/var/lib/heronry");
    assert_eq!((config.node.port, config.shards.count, config.shards.spin_us), (0, 4, 250));
    assert_eq!(config.shards.isolation, config::Isolation::Thread);
    assert_eq!(config.shards.runtime, config::Runtime::Glommio);
    assert_eq!(config.shards.arena_bytes, 3 << 29);
    assert_eq!((config.shards.ring_bytes, config.shards.stall_ms), (1 << 18, 1000));
    assert_eq!((config.net.payload_bytes_max, config.net.output_bytes_max), (1 << 20, 20_000_000));
    assert_eq!(config.agents.call_timeout_ms, 60_000);
    assert_eq!(config.agents.quarantine_window_ms, 250);
    assert_eq!(config.agents.image_bytes_max, 4 << 30);
    let dotted = config::parse("shards.count = 4\nnode = { port = 1 }\n").expect("dotted keys");
    assert_eq!((dotted.shards.count, dotted.node.port), (4, 1));
}

#[test]
fn o1_an_error_names_place_key_value_range_and_unit() {
    assert_says(
        "[shards]\nring_bytes = 12\n",
        &[
            "line 2, column 14: shards.ring_bytes is 12",
            "65536 to 67108864 bytes",
            "(64KiB to 64MiB)",
        ],
    );
    assert_says("[node]\nport = 65536", &["node.port is 65536", "0 (any free port) or 1 to 65535"]);
    assert_says("[shards]\nstall_ms = -5", &["is -5", "1 to 60000 ms"]);
    assert_says("[node]\nbind = \"localhost\"", &["\"localhost\"", "an IP address"]);
    assert_says("[shards]\nruntime = \"tokio\"", &["\"tokio\"", "\"uring\" or \"glommio\""]);
    assert_says("[shards]\npin = 1", &["shards.pin is 1, a number", "true or false"]);
    assert_says("[shards]\ncount = 2.5", &["2.5, a number with a point", "1 to 1024"]);
    assert_says("[shards]\ncount = \"2\"", &["\"2\", text"]);
    assert_says("[net]\npipeline_max = [1]", &["[1], a list"]);
    assert_says("shards = 3", &["line 1, column 10: shards is 3", "[shards]"]);
    assert_says("[[shards]]\ncount = 1", &["shards", "[shards]"]);
    assert_says("[node.port]\nx = 1", &["node.port is", "a table"]);
    let odd = [
        ("64mib", "suffix is none of B, KiB"),
        ("64 64", "suffix"),
        ("", "begin with a number"),
        ("MiB", "begin with a number"),
        ("1.0000000001MiB", "9 digits"),
        ("0.3B", "no whole number of bytes"),
        ("1.2.3MiB", "begin with a number"),
        ("99999999999999999999999999999999999999999MiB", "too large"),
        ("99999999999999999999999TiB", "too large"),
    ];
    for (text, why) in odd {
        let text = format!("[shards]\nring_bytes = \"{text}\"");
        assert_says(&text, &["shards.ring_bytes is", why, "such as \"1MiB\""]);
    }
    assert_says("[shards]\nstall_ms = \"250us\"", &["no whole number of milliseconds", "\"25ms\""]);
}

#[test]
fn o1_a_mistyped_key_is_named_with_its_nearest() {
    let cases = [
        ("[shards]\nring_byte = 1", "shards.ring_byte ", "did you mean shards.ring_bytes?"),
        ("[shard]\ncount = 1", "shard.count ", "did you mean shards.count?"),
        ("port = 1", "port ", "did you mean node.port?"),
        ("[agents]\nseal = \"manual\"", "agents.seal ", "did you mean agents.seal_every?"),
        ("[agents]\nqurantine_failures = 1", "", "did you mean agents.quarantine_failures?"),
        ("[sharts]", "sharts ", "did you mean shards?"),
        ("[node]\nfrobnicate = 1", "node.frobnicate ", "lists all keys"),
    ];
    for (text, key, hint) in cases {
        assert_says(text, &[key, "is no key", hint]);
    }
}

#[test]
fn a2_every_error_of_a_text_is_reported_in_order() {
    let text = "\
[node]
port = 99999
pasword = \"x\"
[shards]
count = 5000
count = 6
stall_ms = \"fast\"
pin = maybe
[net]
pipeline_max = 0
";
    let errors = errors_of(text);
    let lines: Vec<_> = errors.0.iter().map(|e| e.place.expect("a place").line).collect();
    assert_eq!(lines, [2, 3, 5, 6, 7, 8, 10], "{errors}");
    assert!(matches!(errors.0[3].problem, Problem::Duplicate { first_line: Some(5) }));
    assert_eq!(errors.0[3].key, "shards.count");
    assert!(matches!(errors.0[5].problem, Problem::Syntax { .. }));
}

#[test]
fn a2_a_broken_or_repeated_table_is_reported_where_it_is() {
    assert_says("[node]\nport = 1\n[shards\ncount = 1\n", &["line 3", "not TOML"]);
    let error = error_of("[node]\nport = 1\n[shards]\n[node]\nbind = 3\n");
    assert!(error.starts_with("line 4"), "{error}");
    assert_says(
        "[node]\nport = 1\nport = 2\n",
        &["line 3", "node.port is set twice, first on line 2"],
    );
}

#[test]
fn values_that_do_not_fit_together_name_both_keys() {
    assert_says(
        "[shards]\nring_bytes = \"64KiB\"\n",
        &["line 2", "net.payload_bytes_max is 8388608", "shards.ring_bytes (65536)"],
    );
    assert_says(
        "[shards]\nring_bytes = \"100KiB\"\n[net]\npayload_bytes_max = 4096",
        &["shards.ring_bytes is 102400", "power of two, such as 65536 or 131072"],
    );
    assert_says("[node]\nbind = \"0.0.0.0\"", &["node.bind is \"0.0.0.0\"", "node.password"]);
    assert!(config::parse("[node]\nbind = \"::\"\npassword = \"p\"").is_ok());
}

#[test]
fn o2_a_secret_is_shown_nowhere() {
    let bad = errors_of("[node]\npassword = \"hunter2\\u0007\"\n").to_string();
    assert!(bad.contains("node.password") && !bad.contains("hunter2"), "{bad}");
    let config = config::parse("[node]\npassword = \"hunter2\"\n").expect("a good config");
    for row in config::show(&config) {
        assert!(!row.value.contains("hunter2") && !row.humane.contains("hunter2"));
    }
    let shown = config::diff(&Config::default(), &config);
    assert_eq!((shown.len(), shown[0].to.as_str()), (1, "(set, not shown)"));
}

#[test]
fn w1_a_config_written_as_toml_reads_back() {
    let mut config = Config::default();
    assert_eq!(config::parse(&config::to_toml(&config)).as_ref(), Ok(&config));
    config.node.data_dir = "a \"quoted\"\n\\ path # [x]".into();
    config.node.password = "pass'word\"".into();
    config.shards.ring_bytes = 64 << 20;
    config.agents.create_on_send = false;
    config.shards.isolation = config::Isolation::Thread;
    let text = config::to_toml(&config);
    assert_eq!(config::parse(&text).as_ref(), Ok(&config), "{text}");
    let changed = config::diff(&Config::default(), &config);
    assert_eq!(changed.len(), 5);
    assert!(text.contains("ring_bytes = 67108864  # 64MiB\n"), "{text}");
}

#[test]
fn show_says_value_default_unit_and_meaning() {
    let config = config::parse("[shards]\nring_bytes = \"4MiB\"").expect("a good config");
    let rows = config::show(&config);
    assert_eq!(rows.len(), KEYS.len());
    let row = rows.iter().find(|row| row.key == "shards.ring_bytes").expect("the row");
    assert_eq!((row.value.as_str(), row.humane.as_str(), row.unit), ("4194304", "4MiB", "bytes"));
    assert_eq!((row.is_default, row.default.as_str()), (false, "1048576"));
    assert_eq!(rows.iter().filter(|row| !row.is_default).count(), 1);
}

fn sample() -> Config {
    let mut config = Config::default();
    config.node.data_dir = "/var/lib/heronry/node-a".into();
    config.node.password = "correct horse".into();
    config.shards.count = 12;
    config
}

fn golden_path() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/config-1.bin"))
}

/// After a wanted change of keys or layout: raise `FORMAT` if the layout changed, then
/// `HERONRY_GOLDEN=write cargo test -p heronry-engine --test config golden`.
#[test]
fn golden_the_compiled_form_does_not_change_unseen() {
    let bytes = sample().to_bytes();
    if std::env::var_os("HERONRY_GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::write(golden_path(), &bytes).expect("the golden file can be written");
    }
    let golden = std::fs::read(golden_path()).expect("the golden file");
    assert_eq!(Config::from_bytes(&golden).as_ref(), Ok(&sample()), "the old file must read");
    assert!(golden == bytes, "the compiled form changed; see this test's comment");
}

#[test]
fn b2_equal_configs_have_equal_hashes() {
    assert_eq!(sample().hash(), sample().hash());
    assert_ne!(sample().hash(), Config::default().hash());
    let again = Config::from_bytes(&sample().to_bytes()).expect("our own bytes");
    assert_eq!(again, sample());
}

#[test]
fn b1_a_cut_at_any_byte_is_named_truncated() {
    let bytes = sample().to_bytes();
    for len in 0..bytes.len() {
        match Config::from_bytes(&bytes[..len]) {
            Err(BinaryError::Truncated { len_bytes, expected_bytes }) => {
                assert!(len_bytes == len as u64 && expected_bytes > len_bytes);
            }
            other => panic!("cut at {len}: {other:?}"),
        }
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(Config::from_bytes(&longer), Err(BinaryError::TooLong { .. })));
}

#[test]
fn b1_every_flipped_bit_is_refused_by_the_right_name() {
    let bytes = sample().to_bytes();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = Config::from_bytes(&flipped).expect_err("a flipped bit");
        let expected = match bit / 8 {
            0..8 => matches!(error, BinaryError::Magic { .. }),
            8..12 => matches!(error, BinaryError::Format { .. }),
            16..48 => matches!(error, BinaryError::Schema { .. }),
            12..16 | 56..64 => matches!(error, BinaryError::Reserved { .. }),
            48..56 => matches!(
                error,
                BinaryError::Length { .. }
                    | BinaryError::TooLong { .. }
                    | BinaryError::Truncated { .. }
            ),
            _ => matches!(error, BinaryError::Hash { .. }),
        };
        assert!(expected, "bit {bit}: {error}");
    }
}

/// The same archive under a right hash: what someone could make on purpose.
fn forged(mut bytes: Vec<u8>) -> Vec<u8> {
    let hash = *blake3::hash(&bytes[binary::HEADER_BYTES..]).as_bytes();
    bytes[64..96].copy_from_slice(&hash);
    bytes
}

#[test]
fn b1_a_right_hash_does_not_excuse_wrong_values() {
    let mut config = sample();
    config.shards.stall_ms = 0;
    let error = Config::from_bytes(&config.to_bytes()).expect_err("out of range");
    assert!(matches!(error, BinaryError::Value { key: "shards.stall_ms", .. }), "{error}");
    let mut config = sample();
    config.net.output_bytes_max = config.net.payload_bytes_max;
    let error = Config::from_bytes(&config.to_bytes()).expect_err("do not fit together");
    assert!(error.to_string().contains("one reply must fit"), "{error}");
    let good = sample().to_bytes();
    for at in binary::HEADER_BYTES..good.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            if let Ok(config) = Config::from_bytes(&forged(bytes)) {
                assert!(Config::from_bytes(&config.to_bytes()).is_ok(), "F1: byte {at}");
            }
        }
    }
}

#[test]
fn a_view_reads_in_place_what_from_bytes_reads() {
    let bytes = sample().to_bytes();
    // A mapped file begins at a page; here the same with a vector that is long enough to choose.
    let mut room = vec![0u8; bytes.len() + binary::ALIGN_BYTES];
    let start = room.as_ptr().align_offset(binary::ALIGN_BYTES);
    room[start..start + bytes.len()].copy_from_slice(&bytes);
    let viewed = config::view(&room[start..start + bytes.len()]).expect("aligned bytes");
    assert_eq!(viewed.shards.count.to_native(), 12);
    assert_eq!(viewed.node.data_dir.as_str(), "/var/lib/heronry/node-a");
    assert_eq!(viewed.agents.seal_every.to_native(), 1);
    let mut room = vec![0u8; bytes.len() + binary::ALIGN_BYTES + 1];
    let start = room.as_ptr().align_offset(binary::ALIGN_BYTES) + 1;
    room[start..start + bytes.len()].copy_from_slice(&bytes);
    let odd = &room[start..start + bytes.len()];
    assert!(matches!(config::view(odd), Err(BinaryError::Misaligned)));
    assert_eq!(Config::from_bytes(odd).as_ref(), Ok(&sample()));
}

#[test]
fn docs_config_md_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md");
    let there = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        there == config::markdown(),
        "docs/config.md differs from the table of keys; regenerate it:\n\
         cargo run -q -p heronry-engine --example config_md > docs/config.md"
    );
}

/// How many inputs each fuzz test tries.
fn fuzz_count() -> u64 {
    match std::env::var("HERONRY_FUZZ_COUNT").map(|count| count.parse()) {
        Ok(Ok(count)) => count,
        _ => 3_000,
    }
}

fn fuzz_rng(seed: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

fn below(rng: &mut TestRng, bound: usize) -> usize {
    (rng.next_u64() % bound.max(1) as u64) as usize
}

#[test]
fn fuzz_a1_no_text_makes_the_parser_panic() {
    const PIECES: &[&str] = &[
        "[node]",
        "[shards]",
        "[net]\n",
        "[[agents]]",
        "\n",
        "=",
        " = ",
        "port",
        "count",
        ".",
        "\"",
        "'''",
        "\"\"\"",
        "\\u00e9",
        "ä",
        "1",
        "-1",
        "64MiB",
        "\"10s\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        "#",
        "true",
        "1.5",
        "0x",
        "_",
        "\r\n",
        "\0",
        "1979-05-27",
        "ring_bytes = \"",
        "a.b.c.d = 1\n",
        "\u{feff}",
        "inf",
        "99999999999999999999",
    ];
    let whole = config::to_toml(&sample());
    for seed in 0..fuzz_count() {
        let mut rng = fuzz_rng(seed);
        let mut text = if below(&mut rng, 2) == 0 { whole.clone() } else { String::new() };
        for _ in 0..1 + below(&mut rng, 12) {
            let piece = PIECES[below(&mut rng, PIECES.len())];
            let mut at = below(&mut rng, text.len() + 1);
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            if below(&mut rng, 4) == 0 {
                text.truncate(at);
            } else {
                text.insert_str(at, piece);
            }
        }
        match config::parse(&text) {
            Ok(config) => {
                let again = config::parse(&config::to_toml(&config));
                assert_eq!(again, Ok(config), "seed {seed}: {text:?}");
            }
            Err(errors) => {
                assert!(!errors.0.is_empty() && !errors.to_string().is_empty(), "seed {seed}");
            }
        }
    }
}

#[test]
fn fuzz_a1_deep_and_long_texts_end() {
    for text in [
        "[".repeat(100_000),
        "{".repeat(100_000),
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}", "{a=".repeat(50_000)),
        format!("{}x = 1", "a.".repeat(100_000)),
        format!("[{}x]", "a.".repeat(100_000)),
        "a".repeat(1 << 20),
        "a = 1\n".repeat(100_000),
        "\n".repeat(1 << 20),
        "x".repeat((1 << 20) + 1),
    ] {
        let end = text.len().min(20);
        let result = config::parse(&text);
        assert_eq!(result.is_ok(), text.trim().is_empty(), "{:?}", &text[..end]);
    }
}

#[test]
fn fuzz_b1_no_bytes_make_from_bytes_panic() {
    let good = sample().to_bytes();
    for seed in 0..fuzz_count() {
        let mut rng = fuzz_rng(seed);
        let mut bytes = good.clone();
        for _ in 0..1 + below(&mut rng, 8) {
            match below(&mut rng, 4) {
                0 => bytes.truncate(below(&mut rng, bytes.len() + 1)),
                1 => bytes.insert(below(&mut rng, bytes.len() + 1), rng.next_u32() as u8),
                _ if bytes.is_empty() => {}
                _ => {
                    let at = below(&mut rng, bytes.len());
                    bytes[at] = rng.next_u32() as u8;
                }
            }
        }
        if bytes.len() > binary::HEADER_BYTES && below(&mut rng, 2) == 0 {
            let len = (bytes.len() - binary::HEADER_BYTES) as u64;
            bytes[..64].copy_from_slice(&good[..64]);
            bytes[48..56].copy_from_slice(&len.to_le_bytes());
            bytes = forged(bytes);
        }
        if let Ok(config) = Config::from_bytes(&bytes) {
            assert_eq!(Config::from_bytes(&config.to_bytes()), Ok(config), "seed {seed}");
        }
    }
}

//! Rules between keys: values that are each allowed and together are not.
//!
//! Owns: the rules.  Not: ranges of single keys (`keys.rs`), places in a text (`parse.rs`).
//! H1  the defaults break no rule.
//! H2  a rule names both keys and their values, and what would satisfy it.

use super::Config;

/// Rings move a long message in parts; at more parts than this a message would hold a ring for
/// milliseconds.
const RING_PARTS_MAX: u64 = 64;
/// Room for the protocol's frame around the longest payload.
const FRAME_BYTES: u64 = 64 << 10;
/// Most shared memory that rings may take. They are touched only as far as they are used.
const RINGS_BYTES_MAX: u64 = 64 << 30;

/// A broken rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Broken {
    /// The key to complain about.
    pub(crate) path: &'static str,
    /// The other keys of the rule.
    pub(crate) others: &'static [&'static str],
    /// The rule in words (H2).
    pub(crate) rule: String,
}

/// Every broken rule.
pub(crate) fn check(config: &Config) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut demand = |holds: bool, path, others, rule: &dyn Fn() -> String| {
        if !holds {
            broken.push(Broken { path, others, rule: rule() });
        }
    };
    let (shards, net) = (&config.shards, &config.net);
    let (ring, payload) = (shards.ring_bytes, net.payload_bytes_max);
    demand(ring.is_power_of_two(), "shards.ring_bytes", &[], &|| {
        let above = ring.checked_next_power_of_two().unwrap_or(u64::MAX);
        format!("it must be a power of two, such as {} or {above}", above / 2)
    });
    demand(
        payload <= ring.saturating_mul(RING_PARTS_MAX),
        "net.payload_bytes_max",
        &["shards.ring_bytes"],
        &|| {
            format!(
                "it may be at most {RING_PARTS_MAX} times shards.ring_bytes ({ring}); \
                 lower it to {} or raise shards.ring_bytes",
                ring.saturating_mul(RING_PARTS_MAX)
            )
        },
    );
    demand(
        net.output_bytes_max >= payload.saturating_add(FRAME_BYTES),
        "net.output_bytes_max",
        &["net.payload_bytes_max"],
        &|| {
            format!(
                "one reply must fit: at least net.payload_bytes_max ({payload}) plus {FRAME_BYTES}"
            )
        },
    );
    demand(
        shards.arena_bytes == 0 || shards.arena_bytes >= payload.saturating_mul(2),
        "shards.arena_bytes",
        &["net.payload_bytes_max"],
        &|| {
            format!(
                "one WRITE and the version before it must fit: at least twice \
                 net.payload_bytes_max ({payload})"
            )
        },
    );
    let count = u64::from(shards.count);
    demand(
        count.saturating_mul(count).saturating_mul(ring) <= RINGS_BYTES_MAX,
        "shards.ring_bytes",
        &["shards.count"],
        &|| {
            format!(
                "shards.count ({count}) squared times it may be at most {RINGS_BYTES_MAX} bytes"
            )
        },
    );
    let is_loopback =
        config.node.bind.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    demand(
        is_loopback || !config.node.password.is_empty(),
        "node.bind",
        &["node.password"],
        &|| "others can reach that address: set node.password, or bind to 127.0.0.1".to_owned(),
    );
    demand(
        config.node.data_dir.is_empty() || config.node.data_dir != config.node.unix_socket,
        "node.unix_socket",
        &["node.data_dir"],
        &|| "it must differ from node.data_dir".to_owned(),
    );
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h1_the_defaults_break_no_rule() {
        assert_eq!(check(&Config::default()), []);
    }

    #[test]
    fn h2_each_rule_is_found_and_names_its_keys() {
        type Change = fn(&mut Config);
        let change: [(&str, Change); 7] = [
            ("shards.ring_bytes", |c| c.shards.ring_bytes = (1 << 20) + 1),
            ("net.payload_bytes_max", |c| {
                c.shards.ring_bytes = 64 << 10;
                c.net.payload_bytes_max = (4 << 20) + 1;
            }),
            ("net.output_bytes_max", |c| c.net.output_bytes_max = 8 << 20),
            ("shards.arena_bytes", |c| c.shards.arena_bytes = (16 << 20) - 1),
            ("shards.ring_bytes", |c| {
                c.shards.count = 1024;
                c.shards.ring_bytes = 64 << 20;
            }),
            ("node.bind", |c| c.node.bind = "0.0.0.0".into()),
            ("node.unix_socket", |c| {
                c.node.data_dir = "/d".into();
                c.node.unix_socket = "/d".into();
            }),
        ];
        for (path, change) in change {
            let mut config = Config::default();
            change(&mut config);
            let broken = check(&config);
            assert_eq!(broken.len(), 1, "{path}: {broken:?}");
            assert_eq!(broken[0].path, path);
            for known in broken[0].others.iter().chain([&path]) {
                assert!(super::super::keys::key(known).is_some(), "{known}");
            }
        }
    }
}

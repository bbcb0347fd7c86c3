//! What SHARD.LIST says, column by column, for tests that follow a shard's process, its state or
//! its counters.
//!
//! Owns: finding a field in each shard's row.  Not: asking for anything else.

use heronry_net::Value;
use heronry_net::client::Client;

/// Value of `name` in each shard's row, in the order of the shards.
pub fn shard_column(client: &mut Client, name: &str) -> Vec<String> {
    column(&client.ask(&[b"SHARD.LIST"]).expect("SHARD.LIST answers"), name)
}

/// Value of `name` in each of the rows that SHARD.LIST gave.
pub fn column(rows: &Value, name: &str) -> Vec<String> {
    let Value::Array(rows) = rows else { panic!("rows, not {rows:?}") };
    rows.iter()
        .map(|row| {
            let Value::Map(fields) = row else { panic!("a row is a map, not {row:?}") };
            let named = fields.iter().find(|(key, _)| show(key) == name);
            show(&named.unwrap_or_else(|| panic!("no {name} in {row:?}")).1)
        })
        .collect()
}

/// The shards' process ids.
pub fn shard_pids(client: &mut Client) -> Vec<u32> {
    shard_column(client, "pid").iter().map(|pid| pid.parse().expect("a number")).collect()
}

fn show(value: &Value) -> String {
    match value {
        Value::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Simple(text) => text.to_string(),
        Value::Integer(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

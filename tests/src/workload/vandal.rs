//! A client that breaks the protocol, and leaves in the middle of things.
//!
//! Owns: bytes that no client library sends.  Not: any agent; nobody else may notice.
//! V1  what cannot be decoded is refused with a word, and its connection closed.

use super::hub::Hub;
use super::link::{Got, Link};
use crate::oracle::answer::code_of;
use fastrand::Rng;
use heronry_engine::{Nanos, ShardId};
use std::rc::Rc;

/// Connects, does harm, and goes away, `count` times.
pub async fn run(hub: Rc<Hub>, mut rng: Rng, count: usize) {
    for _ in 0..count {
        let mut link = Link::connect(&hub, ShardId(rng.u16(..hub.shard_count)));
        let (bytes, ends) = harm(&mut rng);
        link.send_bytes(&bytes);
        if ends && !hub.faults {
            expect_end(&hub, &mut link).await;
        }
        hub.sleep(Nanos::from_us(rng.u64(..2_000))).await;
        link.close();
    }
}

/// Bytes, and whether a shard must refuse them and close the connection.
fn harm(rng: &mut Rng) -> (Vec<u8>, bool) {
    let whole = b"*4\r\n$10\r\nAGENT.READ\r\n$12\r\nnotebook/c0-0\r\n$1\r\n0\r\n$1\r\n1\r\n";
    match rng.u8(..7) {
        0 => (whole[..rng.usize(..whole.len())].to_vec(), false),
        1 => (b"*3\r\n$10\r\nAGENT.SEND\r\n$6\r\necho/v\r\n$60000\r\nhalf of it".to_vec(), false),
        2 => (b"*-7\r\n*1\r\n:5\r\n".to_vec(), true),
        3 => (b"*2\r\n$10\r\nAGENT.INFO\r\n$99999999999\r\n".to_vec(), true),
        4 => (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), true),
        5 => (b"PING \"no end\r\n".to_vec(), true),
        _ => {
            let noise = (0..rng.usize(..300)).map(|_| rng.u8(..)).filter(|byte| *byte != b'\n');
            (noise.collect(), false)
        }
    }
}

async fn expect_end(hub: &Hub, link: &mut Link) {
    let until = hub.world.now().after(Nanos::from_ms(1_000));
    let mut refused = false;
    loop {
        match link.reply(until).await {
            Got::Reply(value) => refused |= code_of(&value) == Some("ERR"),
            Got::Closed => break,
            Got::Late => panic!("a broken connection was left open"),
        }
    }
    assert!(refused, "a broken connection was closed without a word");
}

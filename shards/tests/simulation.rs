//! The simulated world itself: replay by seed, deaths and restarts, faults.
//!
//! The driver's promises are in `conformance.rs`; here are S1 and S2 of `sim.rs`.

// Set-up that fails ends the test.
#![allow(clippy::unwrap_used)]

use heronry_engine::{Nanos, ShardId};
use heronry_shards::driver::{Done, Driver, Handle, Op, Token};
use heronry_shards::sim::{ShardFuture, SimClient, SimDriver, Step, World, WorldConfig};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

const ME: ShardId = ShardId(0);
const OTHER: ShardId = ShardId(1);

type Diary = Rc<RefCell<Vec<String>>>;

/// Echoes every connection, and wakes its neighbour whenever it did.
async fn echo(mut driver: SimDriver, listener: Handle, neighbour: ShardId, diary: Diary) {
    const ACCEPT: Token = Token(0);
    let mut outputs: BTreeMap<Handle, (Vec<u8>, bool)> = BTreeMap::new();
    driver.submit(ACCEPT, Op::Accept(listener));
    loop {
        let mut accepted = Vec::new();
        let mut ended = Vec::new();
        let now = driver.now();
        driver.poll(&mut |completion| {
            let Token(token) = completion.token;
            diary.borrow_mut().push(format!("{now:?} {token} {:?}", completion.done));
            let socket = Handle((token >> 1) as u32);
            match completion.done {
                Done::Accepted(socket) => accepted.push(socket),
                Done::Received(bytes) => {
                    outputs.entry(socket).or_default().0.extend_from_slice(bytes);
                }
                Done::Sent(_) => outputs.entry(socket).or_default().1 = false,
                Done::EndOfStream | Done::Failed { .. } => ended.push(socket),
                _ => {}
            }
        });
        for socket in accepted {
            driver.submit(Token(u64::from(socket.0) << 1), Op::Receive(socket));
        }
        for socket in ended {
            driver.submit(Token(0), Op::Close(socket));
            outputs.remove(&socket);
        }
        for (socket, (output, sending)) in &mut outputs {
            if !output.is_empty() && !*sending {
                *sending = true;
                let token = Token((u64::from(socket.0) << 1) | 1);
                driver.submit(token, Op::Send(*socket, std::mem::take(output)));
                driver.doorbell(neighbour);
            }
        }
        let until = driver.now().after(Nanos::from_ms(5));
        driver.park(until).await;
    }
}

/// Two echoing shards and a few clients for 3,000 steps. Returns all that was seen.
fn run(config: WorldConfig) -> (Vec<String>, Vec<Vec<u8>>) {
    let world = World::with(config, 2);
    let diary = Diary::default();
    let mut shards: Vec<ShardFuture<'_>> = Vec::new();
    for (shard, neighbour) in [(ME, OTHER), (OTHER, ME)] {
        let listener = world.listen(shard);
        let diary = diary.clone();
        shards.push(Some(Box::pin(echo(world.driver(shard), listener, neighbour, diary))));
    }
    let clients: Vec<SimClient> =
        (0..10).map(|client| world.connect(ShardId(client % 2))).collect();
    let mut answers = vec![Vec::new(); clients.len()];
    for step in 0..3_000u32 {
        let chosen = world.random(clients.len() as u64) as usize;
        if step % 20 == 0 && step < 2_000 {
            clients[chosen].send(&step.to_le_bytes());
        }
        answers[chosen].extend(clients[chosen].recv());
        world.step(&mut shards);
    }
    let diary = diary.take();
    (diary, answers)
}

#[test]
fn s1_a_run_is_a_function_of_its_seed() {
    for seed in 0..20 {
        for config in [WorldConfig::calm(seed), WorldConfig::rough(seed)] {
            assert!(run(config.clone()) == run(config), "seed {seed} ran in two ways");
        }
    }
    assert!(run(WorldConfig::calm(1)).0 != run(WorldConfig::calm(2)).0, "the seed decides nothing");
}

fn steps(world: &World, shards: &mut [ShardFuture<'_>], done: impl FnMut() -> bool) {
    assert!(world.run_until(shards, 100_000, done), "it does not happen");
}

#[test]
fn s2_a_killed_shard_drops_its_connections_and_comes_back() {
    for seed in 0..50 {
        let world = World::new(seed, 1);
        let listener = world.listen(ME);
        let diary = Diary::default();
        let life = echo(world.driver(ME), listener, ME, diary.clone());
        let mut shards: Vec<ShardFuture<'_>> = vec![Some(Box::pin(life))];
        let client = world.connect(ME);
        client.send(b"one");
        let mut answer = Vec::new();
        steps(&world, &mut shards, || {
            answer.extend(client.recv());
            answer == b"one"
        });
        client.send(b"two");
        world.kill(ME);
        shards[0] = None;
        steps(&world, &mut shards, || {
            client.recv();
            client.is_closed()
        });
        assert!(world.connect(ME).is_closed(), "nobody listens");

        let listener = world.listen(ME);
        shards[0] = Some(Box::pin(echo(world.driver(ME), listener, ME, diary.clone())));
        let client = world.connect(ME);
        client.send(b"three");
        let mut answer = Vec::new();
        steps(&world, &mut shards, || {
            answer.extend(client.recv());
            answer == b"three"
        });
    }
}

#[test]
fn s2_resets_reach_both_ends() {
    let config = WorldConfig { resets_per_million: 1_000_000, ..WorldConfig::calm(3) };
    let world = World::with(config, 1);
    let listener = world.listen(ME);
    let diary = Diary::default();
    let life = echo(world.driver(ME), listener, ME, diary.clone());
    let mut shards: Vec<ShardFuture<'_>> = vec![Some(Box::pin(life))];
    let clients: Vec<SimClient> = (0..20).map(|_| world.connect(ME)).collect();
    steps(&world, &mut shards, || {
        clients.iter().all(|client| {
            client.recv();
            client.is_closed()
        })
    });
    steps(&world, &mut shards, || {
        let failed = format!("Failed {{ errno: {} }}", libc::ECONNRESET);
        diary.borrow().iter().filter(|line| line.contains(&failed)).count() == 20
    });
}

#[test]
fn s2_accepting_past_the_handles_fails_and_goes_on_later() {
    let config = WorldConfig { handles_max: 4, ..WorldConfig::calm(5) };
    let world = World::with(config, 1);
    let listener = world.listen(ME);
    let clients: Vec<SimClient> = (0..6).map(|_| world.connect(ME)).collect();
    let log: Diary = Diary::default();
    let seen = log.clone();
    let mut driver = world.driver(ME);
    let body = async move {
        driver.submit(Token(1), Op::Accept(listener));
        let mut accepted = Vec::new();
        let mut failed = 0;
        while accepted.len() < 6 {
            let mut full = false;
            driver.poll(&mut |completion| match completion.done {
                Done::Accepted(handle) => accepted.push(handle),
                Done::Failed { errno } => {
                    assert_eq!(errno, libc::EMFILE);
                    full = true;
                }
                other => panic!("{other:?}"),
            });
            if full {
                failed += 1;
                // Three connections and the listener: one goes, the loop accepts again.
                driver.submit(Token(0), Op::Close(accepted[failed - 1]));
                driver.submit(Token(1), Op::Accept(listener));
            }
            driver.park(driver.now().after(Nanos::from_ms(1))).await;
        }
        seen.borrow_mut().push(format!("{failed}"));
    };
    let mut shards: Vec<ShardFuture<'_>> = vec![Some(Box::pin(body))];
    while world.step(&mut shards) != Step::Ended(ME) {}
    assert_eq!(log.take(), ["3"]);
    drop(clients);
}

#[test]
fn s2_acknowledged_writes_survive_every_loss_of_power() {
    for seed in 0..200 {
        let config = WorldConfig { disk_errors_per_million: 100_000, ..WorldConfig::calm(seed) };
        let world = World::with(config, 1);
        let file = world.open_file(ME, "log");
        let acknowledged: Rc<RefCell<Vec<u64>>> = Rc::default();
        let told = acknowledged.clone();
        let mut driver = world.driver(ME);
        let body = async move {
            for block in 0u64.. {
                let bytes = vec![block as u8 + 1; 1024];
                driver.submit(Token(block), Op::WriteDurable { file, offset: block * 1024, bytes });
                driver.poll(&mut |completion| match completion.done {
                    Done::Written(_) => told.borrow_mut().push(completion.token.0),
                    Done::Failed { errno } => {
                        assert!([libc::ENOSPC, libc::EIO].contains(&errno));
                    }
                    other => panic!("{other:?}"),
                });
                driver.park(driver.now().after(Nanos::from_us(50))).await;
            }
        };
        let mut shards: Vec<ShardFuture<'_>> = vec![Some(Box::pin(body))];
        for _ in 0..100 + world.random(100) {
            world.step(&mut shards);
        }
        world.power_loss();
        let durable = world.durable_bytes("log");
        for block in acknowledged.take() {
            let at = block as usize * 1024;
            assert_eq!(durable[at..at + 1024], [block as u8 + 1; 1024], "seed {seed}");
        }
    }
}

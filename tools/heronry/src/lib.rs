//! The `heronry` binary as a library: server and command line.
//!
//! Owns: how a node is put together (`node`), and what each command of the command line does.
//! Not: anything a node does once it runs; that is `shards`, `engine` and `net`.
//! R1  exit status: 0 done, 1 refused or failed, 2 wrong usage.

pub mod address;
pub mod agent;
pub mod backup;
mod bench;
pub mod cli;
pub mod config;
pub mod demo;
pub mod dispatch;
pub mod doctor;
pub mod link;
pub mod log;
pub mod manual;
mod map;
pub mod node;
pub mod output;
pub mod shard;
pub mod template;
pub mod template_build;
pub mod top;

pub use dispatch::run;

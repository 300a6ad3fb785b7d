//! What the Rust programs have in common: where Redis is, and how an outcome is printed.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

pub fn port() -> u16 {
    std::env::var("REDIS_PORT").unwrap().parse().unwrap()
}

pub fn password() -> String {
    std::env::var("REDIS_PASSWORD").unwrap()
}

pub fn index() -> u8 {
    std::env::var("REDIS_INDEX").unwrap().parse().unwrap()
}

pub fn url(password: &str, index: u8) -> String {
    format!("redis://:{password}@127.0.0.1:{}/{index}", port())
}

pub fn show(name: &str, outcome: &str) {
    println!("{name}: {}", outcome.split_whitespace().collect::<Vec<_>>().join(" "));
}

/// The version of a package in Cargo.lock.
pub fn version(name: &str) {
    let lock = include_str!("../Cargo.lock");
    let begin = lock.find(&format!("name = \"{name}\"\nversion = \"")).unwrap();
    let found = lock[begin..].split('"').nth(3).unwrap();
    show("version", found);
}

/// Runs a step, and prints what it returns, or its error.
pub async fn step<T: Debug, E: ToString>(name: &str, body: impl Future<Output = Result<T, E>>) {
    match tokio::time::timeout(Duration::from_secs(60), body).await {
        Ok(Ok(outcome)) => show(name, &format!("{outcome:?}")),
        Ok(Err(error)) => show(name, &error.to_string()),
        Err(_) => show(name, "it did not end"),
    }
}

pub async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

/// A text that no server knows.
pub fn unknown_script() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("-- {now}\nredis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])")
}

//! A session of redis-rs: multiplexed connections, and the connection manager.

use std::collections::{BTreeMap, HashSet};

use futures::StreamExt;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::{cmd, AsyncCommands, AsyncConnectionConfig, Client, RedisResult, Script, Value};
use sessions::{index, password, pause, step, unknown_script, url, version};

/// Time-outs that a busy machine does not reach. By default a reply may take half a second.
fn settings() -> AsyncConnectionConfig {
    let limit = Some(std::time::Duration::from_secs(20));
    AsyncConnectionConfig::new().set_connection_timeout(limit).set_response_timeout(limit)
}

async fn connect() -> RedisResult<MultiplexedConnection> {
    Client::open(url(&password(), index()))?.get_multiplexed_async_connection_with_config(&settings()).await
}

#[tokio::main]
async fn main() {
    version("redis");
    let mut c = connect().await.unwrap();
    cmd("FLUSHDB").exec_async(&mut c).await.unwrap();

    step("types", async {
        let mut c = c.clone();
        c.hset_multiple::<_, _, _, ()>("hash", &[("one", 1), ("two", 2)]).await?;
        c.zadd::<_, _, _, ()>("sorted", "low", 1.5).await?;
        c.set_ex::<_, _, ()>("key", "value", 100).await?;
        let hash: BTreeMap<String, i64> = c.hgetall("hash").await?;
        let none: Option<String> = c.get("none").await?;
        RedisResult::Ok((c.get::<_, String>("key").await?, none, hash, c.zscore::<_, _, f64>("sorted", "low").await?))
    })
    .await;
    step("an error of a type", async { c.clone().lpush::<_, _, i64>("key", "x").await }).await;
    step("a value of 20 MiB", async {
        let mut c = c.clone();
        let large = vec![b'x'; 20 << 20];
        c.set::<_, _, ()>("large", &large).await?;
        let got: Vec<u8> = c.get("large").await?;
        c.del::<_, ()>("large").await?;
        RedisResult::Ok(got == large)
    })
    .await;
    step("a pipeline of 2,000 commands", async {
        let mut pipe = redis::pipe();
        for number in 0..1000 {
            pipe.set(format!("key:{number}"), number).ignore().incr("sum", 1);
        }
        let replies: Vec<i64> = pipe.query_async(&mut c.clone()).await?;
        RedisResult::Ok((replies.len(), replies[999]))
    })
    .await;
    step("a pipeline with an error", async {
        redis::pipe().set("a", 1).lpush("a", 1).get("a").query_async::<Vec<Value>>(&mut c.clone()).await
    })
    .await;
    step("commands at once share a connection", async {
        let all = (0..200).map(|_| {
            let mut c = c.clone();
            async move { c.incr::<_, _, i64>("n", 1).await.unwrap() }
        });
        RedisResult::Ok(futures::future::join_all(all).await.into_iter().max())
    })
    .await;
    step("MULTI", async {
        redis::pipe().atomic().set("a", 1).incr("a", 1).get("a").query_async::<(String, i64, i64)>(&mut c.clone()).await
    })
    .await;
    step("WATCH, changed meanwhile", async {
        let mut own = connect().await?;
        cmd("WATCH").arg("a").exec_async(&mut own).await?;
        c.clone().set::<_, _, ()>("a", "changed").await?;
        redis::pipe().atomic().set("a", "never").query_async::<Option<Vec<String>>>(&mut own).await
    })
    .await;
    step("a script by EVALSHA, unknown at first", async {
        let script = Script::new(&unknown_script());
        let first: String = script.key("key").arg("one").invoke_async(&mut c.clone()).await?;
        let second: String = script.key("key").arg("two").invoke_async(&mut c.clone()).await?;
        RedisResult::Ok((first, second))
    })
    .await;
    step("BLPOP that waits, and one that waits in vain", async {
        let mut own = connect().await?;
        let mut other = c.clone();
        tokio::spawn(async move {
            pause(100).await;
            other.rpush::<_, _, i64>("queue", "job").await
        });
        let got: (String, String) = own.blpop("queue", 10.0).await?;
        let none: Option<(String, String)> = own.blpop("queue", 0.2).await?;
        RedisResult::Ok((got, none))
    })
    .await;
    step("a stream with a group", async {
        let mut c = c.clone();
        cmd("XGROUP").arg(&["CREATE", "stream", "group", "0", "MKSTREAM"]).exec_async(&mut c).await?;
        let id: String = c.xadd("stream", "*", &[("field", "value")]).await?;
        let options = redis::streams::StreamReadOptions::default().group("group", "me").count(10);
        let read: redis::streams::StreamReadReply = c.xread_options(&["stream"], &[">"], &options).await?;
        let value: Option<String> = read.keys[0].ids[0].get("field");
        RedisResult::Ok((value, c.xack::<_, _, _, i64>("stream", "group", &[id]).await?))
    })
    .await;
    for (name, pattern) in [("pub/sub with patterns", "n?ws".to_string()), ("__keyevent@INDEX__ expired", format!("__keyevent@{}__:expired", index()))] {
        step(name, async {
            let mut listener = Client::open(url(&password(), index()))?.get_async_pubsub().await?;
            listener.psubscribe(&pattern).await?;
            let mut c = c.clone();
            let counted: Value = if pattern == "n?ws" {
                c.publish("news", "hello").await?
            } else {
                cmd("SET").arg(&["gone", "1", "PX", "20"]).exec_async(&mut c).await?;
                pause(100).await;
                c.exists("gone").await?
            };
            let message = listener.on_message().next().await.unwrap();
            RedisResult::Ok((counted, message.get_payload::<String>()?))
        })
        .await;
    }
    step("SCAN", async {
        let mut c = c.clone();
        let mut found = HashSet::new();
        let mut keys = c.scan_match::<_, String>("key:*").await?;
        while let Some(key) = keys.next_item().await {
            found.insert(key?);
        }
        RedisResult::Ok(found.len())
    })
    .await;
    step("the connection manager comes back", async {
        let mut manager = ConnectionManager::new_with_config(
            Client::open(url(&password(), index()))?,
            ConnectionManagerConfig::new().set_connection_timeout(Some(std::time::Duration::from_secs(20))),
        )
        .await?;
        manager.set::<_, _, ()>("key", "kept").await?;
        let _ = cmd("QUIT").exec_async(&mut manager).await;
        let mut got: RedisResult<String> = manager.get("key").await;
        for _ in 0..100 {
            if got.is_ok() {
                break;
            }
            pause(50).await;
            got = manager.get("key").await;
        }
        got
    })
    .await;
    step("RESP3", async {
        let client = Client::open(format!("{}?protocol=resp3", url(&password(), index())))?;
        let mut c = client.get_multiplexed_async_connection_with_config(&settings()).await?;
        c.hgetall::<_, BTreeMap<String, i64>>("hash").await
    })
    .await;
    step("INFO", async { cmd("INFO").query_async::<String>(&mut c.clone()).await.map(|text| text.contains("redis_version:")) }).await;
    step("CONFIG GET maxmemory", async { cmd("CONFIG").arg(&["GET", "maxmemory"]).query_async::<Vec<String>>(&mut c.clone()).await }).await;
    step("CLIENT LIST", async { cmd("CLIENT").arg("LIST").query_async::<String>(&mut c.clone()).await.map(|text| text.contains("id=")) }).await;
    step("another database", async {
        Client::open(url(&password(), index() + 1))?.get_multiplexed_async_connection_with_config(&settings()).await.map(|_| "connected")
    })
    .await;
    step("log in with a wrong password", async {
        Client::open(url("not-this-one", index()))?.get_multiplexed_async_connection_with_config(&settings()).await.map(|_| "connected")
    })
    .await;
}

//! A session of fred.

use std::collections::{BTreeMap, HashSet};

use fred::clients::SubscriberClient;
use fred::prelude::*;
use fred::types::scan::Scanner;
use fred::types::Value;
use futures::TryStreamExt;
use sessions::{index, password, pause, step, unknown_script, url, version};

fn builder(password: &str, index: u8) -> Builder {
    let mut builder = Builder::from_config(Config { fail_fast: true, ..Config::from_url(&url(password, index)).unwrap() });
    builder.with_connection_config(|config| config.connection_timeout = std::time::Duration::from_secs(10));
    builder
}

async fn connect(password: &str, index: u8) -> Result<Client, Error> {
    let client = builder(password, index).build()?;
    client.init().await?;
    Ok(client)
}

#[tokio::main]
async fn main() {
    version("fred");
    let c = connect(&password(), index()).await.unwrap();
    c.flushall::<()>(false).await.unwrap();

    step("types", async {
        c.hset::<(), _, _>("hash", vec![("one", 1), ("two", 2)]).await?;
        c.zadd::<(), _, _>("sorted", None, None, false, false, (1.5, "low")).await?;
        c.set::<(), _, _>("key", "value", Some(Expiration::EX(100)), None, false).await?;
        let hash: BTreeMap<String, i64> = c.hgetall("hash").await?;
        let none: Option<String> = c.get("none").await?;
        Ok::<_, Error>((c.get::<String, _>("key").await?, none, hash, c.zscore::<f64, _, _>("sorted", "low").await?))
    })
    .await;
    step("an error of a type", async { c.lpush::<i64, _, _>("key", "x").await }).await;
    step("a value of 20 MiB", async {
        let large = "x".repeat(20 << 20);
        c.set::<(), _, _>("large", large.clone(), None, None, false).await?;
        let got: String = c.get("large").await?;
        c.del::<(), _>("large").await?;
        Ok::<_, Error>(got == large)
    })
    .await;
    step("a pipeline of 2,000 commands", async {
        let pipeline = c.pipeline();
        for number in 0..1000 {
            pipeline.set::<(), _, _>(format!("key:{number}"), number, None, None, false).await?;
            pipeline.incr::<(), _>("sum").await?;
        }
        let replies: Vec<Value> = pipeline.all().await?;
        Ok::<_, Error>((replies.len(), replies[1999].clone()))
    })
    .await;
    step("MULTI", async {
        let transaction = c.multi();
        transaction.set::<(), _, _>("a", 1, None, None, false).await?;
        transaction.incr::<(), _>("a").await?;
        transaction.exec::<Vec<Value>>(true).await
    })
    .await;
    step("a script by EVALSHA", async {
        let sha: String = c.script_load(unknown_script()).await?;
        c.evalsha::<String, _, _, _>(sha, vec!["key"], vec!["one"]).await
    })
    .await;
    step("BLPOP that waits", async {
        let own = connect(&password(), index()).await?;
        let other = c.clone();
        tokio::spawn(async move {
            pause(100).await;
            other.rpush::<i64, _, _>("queue", "job").await
        });
        own.blpop::<(String, String), _>("queue", 10.0).await
    })
    .await;
    step("a stream with a group", async {
        c.xgroup_create::<(), _, _, _>("stream", "group", "0", true).await?;
        let id: String = c.xadd("stream", false, None, "*", vec![("field", "value")]).await?;
        let read: Value = c.xreadgroup("group", "me", Some(10), None, false, "stream", ">").await?;
        let found = format!("{read:?}").contains("value");
        Ok::<_, Error>((found, c.xack::<i64, _, _, _>("stream", "group", id).await?))
    })
    .await;
    for (name, pattern) in [("pub/sub with patterns", "n?ws".to_string()), ("__keyevent@INDEX__ expired", format!("__keyevent@{}__:expired", index()))] {
        step(name, async {
            let listener: SubscriberClient = builder(&password(), index()).build_subscriber_client()?;
            listener.init().await?;
            let before: i64 = c.pubsub_numpat().await?;
            let mut heard = listener.message_rx();
            // fred has a channel of its own for key events.
            let mut events = listener.keyspace_event_rx();
            listener.psubscribe(pattern.clone()).await?;
            // fred does not wait for the confirmation in RESP2.
            while c.pubsub_numpat::<i64>().await? == before {
                pause(10).await;
            }
            if pattern == "n?ws" {
                c.publish::<(), _, _>("news", "hello").await?;
                Ok::<_, Error>(heard.recv().await.unwrap().value.into_string())
            } else {
                c.set::<(), _, _>("gone", 1, Some(Expiration::PX(20)), None, false).await?;
                pause(100).await;
                c.exists::<(), _>("gone").await?;
                Ok(Some(events.recv().await.unwrap().operation))
            }
        })
        .await;
    }
    step("SCAN", async {
        let mut pages = c.scan("key:*", Some(50), None);
        let mut found = HashSet::new();
        while let Some(mut page) = pages.try_next().await? {
            found.extend(page.take_results().unwrap_or_default().into_iter().map(|key| key.into_string()));
            page.next();
        }
        Ok::<_, Error>(found.len())
    })
    .await;
    step("a pool", async {
        let pool = builder(&password(), index()).build_pool(4)?;
        pool.init().await?;
        let all = (0..200).map(|_| pool.incr::<i64, _>("n"));
        Ok::<_, Error>(futures::future::join_all(all).await.into_iter().map(Result::unwrap).max())
    })
    .await;
    step("RESP3", async {
        let mut builder = builder(&password(), index());
        builder.with_config(|config| config.version = fred::types::RespVersion::RESP3);
        let client = builder.build()?;
        client.init().await?;
        client.hgetall::<BTreeMap<String, i64>, _>("hash").await
    })
    .await;
    step("INFO", async { c.info::<String>(None).await.map(|text| text.contains("redis_version:")) }).await;
    step("CONFIG GET maxmemory", async { c.config_get::<Value, _>("maxmemory").await }).await;
    step("CLIENT LIST", async {
        c.client_list::<String, String>(None, None).await.map(|text| text.contains("id="))
    })
    .await;
    step("another database", async { connect(&password(), index() + 1).await.map(|_| "connected") }).await;
    step("log in with a wrong password", async { connect("not-this-one", index()).await.map(|_| "connected") }).await;
}

//! A document of another version, against a real Redis.

use super::*;
use crate::{
    Registry as _,
    dev_server::{DevServer, Durability},
    ids::{HostLife, Stops, StoreLife},
    ops::{AdvanceOutcome, ClaimOutcome},
    record::{Documents, FirstStart, HostState, OnDisconnect, Phase, SpecDigest, View},
    redis::{RedisRegistry, RedisSettings, ask, read},
};
use serde_json::json;
use std::time::Duration;

fn first_claim(key: &AgentKey, store_life: &StoreLife) -> ops::Claim {
    ops::Claim {
        key: key.clone(),
        name: "an agent".to_owned(),
        request_id: "r".parse().expect("valid"),
        digest: SpecDigest("d".to_owned()),
        demand: Resources::one_slot(),
        on_disconnect: OnDisconnect::Stop,
        documents: Documents { spec: "{}".to_owned(), launch: (0..=255).collect::<Vec<u8>>().into() },
        candidates: vec!["h-0".parse().expect("valid")].into(),
        if_full: IfFull::Refuse,
        waits: None,
        if_namesakes: IfNamesakes::Ignore,
        first_start: FirstStart::FollowsPolicy,
        store_life: Some(store_life.clone()),
        asked: Stops(0),
    }
}

fn host() -> ops::Announce {
    ops::Announce {
        host: "h-0".parse().expect("valid"),
        incarnation: "i".parse().expect("valid"),
        address: String::new(),
        dns_name: String::new(),
        capacity: Resources::one_slot(),
        labels: [].into(),
        version: String::new(),
        state: HostState::Ready,
        cordoned: false,
        ttl: Duration::from_secs(10),
        lasts: Duration::from_secs(13),
        highest_epoch: Epoch(0),
        highest_life: HostLife(0),
        succeeds: None,
        store_life: None,
        reported: None,
    }
}

#[tokio::test]
async fn a_script_ignores_the_fields_that_it_does_not_know() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = DevServer::start(dir.path(), Durability::None).expect("a Redis");
    let registry = RedisRegistry::new(&RedisSettings::new(&server.url())).expect("a registry");
    let store = registry.announce(&host()).await.expect("announced").store_life;
    assert!(registry.settle(&store, true).await.expect("settled"));
    let key = AgentKey::parse("o", "g", "a").expect("valid");
    let request = first_claim(&key, &store);

    let mut newer = serde_json::to_value(Claim::from(&request)).expect("a map");
    newer["shape"] = json!({"sides": [3, null, {"of": 1.5}], "round": false});
    newer["agent"]["colour"] = json!("green");
    let ask = Ask::of(&newer).with(LAUNCH, &request.documents.launch).with("photo", &[0, 255, 128]);
    let answer: Vec<String> = registry.run(&registry.scripts.claim, &ask).await.expect("an answer");
    let ClaimOutcome::Claimed(claimed) = read::claim(&answer).expect("an outcome") else { panic!("{answer:?}") };
    let record = registry.get(&key, View::Launch).await.expect("it reads").expect("it is there");
    assert_eq!((record.name, record.documents), (request.name, Some(request.documents)));
    for unknown in ["colour", "shape", "photo"] {
        assert_eq!(server.admin().run(&format!("HEXISTS {{rustic}}:agent:g:a {unknown}")), ":0");
    }

    let write = ops::Advance {
        key,
        epoch: claimed.epoch,
        phase: Phase::Running,
        pid: Some(1),
        restarts: 0,
        condition: None,
        last_lines: vec![],
        exit: None,
        store_life: None,
        sequence: 1,
    };
    let ask = ask::advance(&write).with("photo", &[255]);
    let answer: Vec<String> = registry.run(&registry.scripts.advance, &ask).await.expect("an answer");
    assert_eq!(read::advance(&answer).expect("an outcome"), AdvanceOutcome::Done);
}

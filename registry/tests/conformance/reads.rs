//! What every registry must answer when it is read.

use crate::requests::*;
use rustic_registry::{Index, ReleaseGuard, Scope, View};

promises!(
    lists_are_paged_and_filtered_by_index,
    documents_come_back_byte_for_byte,
    ids_with_separators_do_not_collide,
    organizations_are_apart,
);

async fn lists_are_paged_and_filtered_by_index(store: Store) {
    arrive(&store, &announce("h-0", "i", 10.0)).await;
    arrive(&store, &announce("h-1", "i", 10.0)).await;
    for n in 0..5 {
        let on = if n % 2 == 0 { "h-0" } else { "h-1" };
        claimed(&store, &key("g", &format!("a{n}")), "r", &[on]).await;
    }
    claimed(&store, &key("h", "a0"), "r", &["h-1"]).await;
    let mut seen = vec![];
    let mut after = None;
    loop {
        let page = store.list(&Index::Within(Scope::All), after.as_ref(), 2, View::Basic).await.unwrap();
        assert!(page.agents.len() <= 2);
        seen.extend(page.agents.into_iter().map(|r| r.key.to_string()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["o/g/a0", "o/g/a1", "o/g/a2", "o/g/a3", "o/g/a4", "o/h/a0"]);
    let count = async |index| store.list(&index, None, 100, View::Basic).await.unwrap().agents.len();
    assert_eq!(count(within("o/g")).await, 5);
    assert_eq!(count(Index::Host(host("h-1"))).await, 3);
    assert_eq!(count(within("o/none")).await, 0);
}

async fn documents_come_back_byte_for_byte(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let a = key("g", "a");
    let request = claim(&a, "r", "d", &["h-0"]);
    store.claim(&request).await.unwrap();
    assert_eq!(store.get(&a, View::Launch).await.unwrap().unwrap().documents, Some(request.documents.clone()));
    assert_eq!(store.get(&a, View::Basic).await.unwrap().unwrap().documents, None);
    let spec_only = store.get(&a, View::Full).await.unwrap().unwrap().documents.unwrap();
    assert_eq!((spec_only.spec, spec_only.launch.len()), (request.documents.spec, 0));
}

async fn ids_with_separators_do_not_collide(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let (a, b) = (key("g:a", "b"), key("g", "a:b"));
    claimed(&store, &a, "r", &["h-0"]).await;
    assert_eq!(store.get(&b, View::Basic).await.unwrap(), None);
    claimed(&store, &b, "r", &["h-0"]).await;
    let page = store.list(&within("o/g"), None, 10, View::Basic).await.unwrap();
    assert_eq!(page.agents.len(), 1);
    assert_eq!(page.agents[0].key, b);
}

async fn organizations_are_apart(store: Store) {
    arrive(&store, &announce("h-0", "i", 9.0)).await;
    // One that begins like another is another.
    let names = ["o/g", "o/gg", "oo/g", "p/g"];
    for guild in names {
        for agent in ["a", "b"] {
            let claimed = claimed(&store, &key(guild, agent), "r", &["h-0"]).await;
            assert_eq!(claimed.machine_id, machine(if agent == "a" { 1 } else { 2 }), "{guild}/{agent}");
        }
    }
    let listed = async |index: Index| {
        let (mut found, mut after) = (vec![], None);
        loop {
            let page = store.list(&index, after.as_ref(), 1, View::Basic).await.unwrap();
            found.extend(page.agents.into_iter().map(|r| r.key.to_string()));
            after = page.next;
            if after.is_none() {
                return found;
            }
        }
    };
    for guild in names {
        assert_eq!(listed(within(guild)).await, [format!("{guild}/a"), format!("{guild}/b")]);
    }
    assert_eq!(listed(within("o")).await, ["o/g/a", "o/g/b", "o/gg/a", "o/gg/b"]);
    assert_eq!(listed(within("none")).await, Vec::<String>::new());
    // A token of another list leads nowhere else.
    let after = Some(key("a/g", "z"));
    let page = store.list(&within("o/gg"), after.as_ref(), 10, View::Basic).await.unwrap();
    assert_eq!(page.agents.len(), 2);
    let gone = key("p/g", "a");
    let epoch = store.get(&gone, View::Basic).await.unwrap().unwrap().epoch;
    store.release(&gone, epoch, ReleaseGuard::Reaped).await.unwrap();
    assert_eq!(listed(within("p")).await, ["p/g/b"]);
    assert_eq!(listed(within("o/g")).await.len(), 2);
}

//! What every registry must answer when it is read.

use crate::requests::*;
use rustic_registry::{Index, View};

promises!(
    lists_are_paged_and_filtered_by_index,
    documents_come_back_byte_for_byte,
    ids_with_separators_do_not_collide,
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
        let page = store.list(&Index::All, after.as_ref(), 2, View::Basic).await.unwrap();
        assert!(page.agents.len() <= 2);
        seen.extend(page.agents.into_iter().map(|r| r.key.to_string()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["g/a0", "g/a1", "g/a2", "g/a3", "g/a4", "h/a0"]);
    let count = async |index| store.list(&index, None, 100, View::Basic).await.unwrap().agents.len();
    assert_eq!(count(Index::Guild("g".parse().unwrap())).await, 5);
    assert_eq!(count(Index::Host(host("h-1"))).await, 3);
    assert_eq!(count(Index::Guild("none".parse().unwrap())).await, 0);
}

async fn documents_come_back_byte_for_byte(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let a = key("g", "a");
    let request = claim(&a, "r", "d", &["h-0"]);
    store.claim(&request).await.unwrap();
    assert_eq!(store.get(&a, View::Full).await.unwrap().unwrap().documents, Some(request.documents.clone()));
    assert_eq!(store.get(&a, View::Basic).await.unwrap().unwrap().documents, None);
    let spec_only = store.get(&a, View::Spec).await.unwrap().unwrap().documents.unwrap();
    assert_eq!((spec_only.spec, spec_only.launch.len()), (request.documents.spec, 0));
}

async fn ids_with_separators_do_not_collide(store: Store) {
    arrive(&store, &announce("h-0", "i", 5.0)).await;
    let (a, b) = (key("g:a", "b"), key("g", "a:b"));
    claimed(&store, &a, "r", &["h-0"]).await;
    assert_eq!(store.get(&b, View::Basic).await.unwrap(), None);
    claimed(&store, &b, "r", &["h-0"]).await;
    let page = store.list(&Index::Guild("g".parse().unwrap()), None, 10, View::Basic).await.unwrap();
    assert_eq!(page.agents.len(), 1);
    assert_eq!(page.agents[0].key, b);
}

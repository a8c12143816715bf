use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[test]
fn a_chunk_is_given_back_with_its_last_entry() {
    let mut slab = NodeArena::new();
    let ids: Vec<u32> = (0..1000u32).map(|number| slab.insert(number)).collect();
    assert_eq!(slab.chunks.len(), 4);
    for &id in &ids[..CHUNK] {
        slab.remove(id);
    }
    assert_eq!(slab.chunks[0].slots.capacity(), 0);
    assert_eq!(slab.len(), 1000 - CHUNK);
    for number in 0..600u32 {
        slab.insert(number);
    }
    assert_eq!(slab.chunks.len(), 6);
    assert_eq!(*slab.get(ids[999]), 999);
}

#[test]
fn chunks_are_allocated_whole_and_never_copied() {
    let mut slab = NodeArena::new();
    let first = slab.insert(7u64);
    let address = std::ptr::from_ref(slab.get(first));
    (1..10_000).for_each(|number| assert_eq!(slab.insert(number), number as u32));
    assert_eq!(address, std::ptr::from_ref(slab.get(first)));
    assert!(slab.chunks.iter().all(|chunk| chunk.slots.capacity() == CHUNK));
}

#[test]
#[should_panic(expected = "twice")]
fn removing_twice_is_our_own_mistake() {
    let mut slab = NodeArena::new();
    let (id, _) = (slab.insert(1), slab.insert(2));
    slab.remove(id);
    slab.remove(id);
}

proptest! {
    #[test]
    fn a_slab_is_a_map_from_the_numbers_it_gave(
        steps in prop::collection::vec(0..100u32, 0..3000),
    ) {
        let (mut slab, mut model) = (NodeArena::new(), HashMap::new());
        let mut ids: Vec<u32> = Vec::new();
        for (at, step) in steps.into_iter().enumerate() {
            if step < 60 || ids.is_empty() {
                let id = slab.insert(at);
                prop_assert!(model.insert(id, at).is_none());
                ids.push(id);
            } else {
                let id = ids.swap_remove(step as usize * 31 % ids.len());
                prop_assert_eq!(Some(slab.remove(id)), model.remove(&id));
            }
            prop_assert_eq!(slab.len(), model.len());
        }
        for (id, entry) in model {
            prop_assert_eq!(*slab.get(id), entry);
            *slab.get_mut(id) += 1;
            prop_assert_eq!(*slab.get(id), entry + 1);
        }
    }
}

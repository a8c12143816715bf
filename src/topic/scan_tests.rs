use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        3 => Just(b'/'), 2 => Just(b'.'), 2 => Just(b'0'), 1 => Just(0xaf), 1 => Just(0x2e),
        3 => any::<u8>(),
    ];
    prop::collection::vec(byte, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn slashes_are_where_they_are(text in text()) {
        let expected: Vec<usize> = (0..text.len()).filter(|&at| text[at] == b'/').collect();
        prop_assert_eq!(Slashes::new(&text).collect::<Vec<_>>(), expected.clone());
        prop_assert_eq!(level_length(&text), expected.first().copied().unwrap_or(text.len()));
    }

    #[test]
    fn a_common_prefix_is_common_and_longest(
        start in text(), one in text(), two in text(),
    ) {
        let one = [&start[..], &one[..]].concat();
        let two = [&start[..], &two[..]].concat();
        let at = common_prefix(&one, &two);
        prop_assert_eq!(&one[..at], &two[..at]);
        prop_assert_eq!(same(&one, &two), one == two);
        prop_assert!(same(&one, &one.clone()));
        prop_assert!(at == one.len() || at == two.len() || one[at] != two[at]);
    }
}

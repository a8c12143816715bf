//! Positions in a tree: JSON pointers (RFC 6901), which name each node unambiguously, whatever
//! characters its keys have; and the dotted keys that people read.

use serde_json::Value;

/// The pointer of the key or element `key` below `pointer`.
pub(super) fn below(pointer: &str, key: &str) -> String {
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// Splits `pointer` into the pointer around it and its last step; `None` for the root.
pub(super) fn split(pointer: &str) -> Option<(&str, String)> {
    let (around, step) = pointer.rsplit_once('/')?;
    Some((around, unescaped(step)))
}

/// The pointer in the form that people write: `/listeners/0/bind` becomes `listeners.0.bind`.
pub(super) fn dotted(pointer: &str) -> String {
    steps(pointer).collect::<Vec<_>>().join(".")
}

/// The pointer of a dotted key of the schema.
pub(super) fn of_key(key: &str) -> String {
    format!("/{}", key.replace('.', "/"))
}

/// The keys and indices on the way to `pointer`.
pub(super) fn steps(pointer: &str) -> impl Iterator<Item = String> {
    pointer.split('/').skip(1).map(unescaped)
}

fn unescaped(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

/// The pointer of a value that a struct has refused.
pub(super) fn of_refused(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |pointer, segment| match segment {
        Segment::Seq { index } => below(&pointer, &index.to_string()),
        Segment::Map { key } => below(&pointer, key),
        Segment::Enum { .. } | Segment::Unknown => pointer,
    })
}

/// The pointer of a key that no struct has.
pub(super) fn of_ignored(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => below(&of_ignored(parent), &index.to_string()),
        Path::Map { parent, key } => below(&of_ignored(parent), key),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => of_ignored(parent),
    }
}

/// Removes the value at `pointer` from `tree`, as if it had not been written: a key is removed, an
/// element becomes null, and the root becomes empty. If an element is null already, the whole list
/// is removed. Each call leaves fewer values than before, so that repeated calls come to an end.
pub(super) fn take_out(tree: &mut Value, pointer: &str) {
    let Some((around, step)) = split(pointer) else {
        *tree = Value::Object(Default::default());
        return;
    };
    match tree.pointer_mut(around) {
        Some(Value::Object(map)) => {
            map.swap_remove(&step);
        }
        Some(Value::Array(list)) => {
            match step.parse().ok().and_then(|at: usize| list.get_mut(at)) {
                Some(item) if !item.is_null() => *item = Value::Null,
                _ => take_out(tree, around),
            }
        }
        _ => take_out(tree, around),
    }
}

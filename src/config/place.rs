//! Where each part of a configuration was written: a tree that corresponds to the tree of values.

use std::collections::HashMap;

use super::pointer;
use super::problem::Origin;

/// Where a part of the configuration was written.
#[derive(Clone, Debug)]
pub(super) struct SourcePosition {
    /// Where its key is; for an element of a list, where its value begins.
    pub key: Origin,
    /// Where its value begins.
    pub value: Origin,
    /// The places of the keys or elements inside of it.
    below: HashMap<String, SourcePosition>,
}

impl SourcePosition {
    /// A part without inner parts that was written at `origin`.
    pub(super) fn at(origin: &Origin) -> SourcePosition {
        SourcePosition { key: origin.clone(), value: origin.clone(), below: HashMap::new() }
    }

    /// True when the part has inner parts.
    pub(super) fn has_parts(&self) -> bool {
        !self.below.is_empty()
    }

    /// Notes where the key or element `step` was written.
    pub(super) fn put(&mut self, step: String, place: SourcePosition) {
        self.below.insert(step, place);
    }

    /// The part with this key or index. If it is not there yet, it is added as written at `origin`.
    pub(super) fn enter(&mut self, step: &str, origin: &Origin) -> &mut SourcePosition {
        self.below.entry(step.to_owned()).or_insert_with(|| SourcePosition::at(origin))
    }

    /// The part at `pointer`, or the closest part around it that was written.
    pub(super) fn find(&self, pointer: &str) -> &SourcePosition {
        let mut place = self;
        for step in pointer::steps(pointer) {
            match place.below.get(&step) {
                Some(inner) => place = inner,
                None => break,
            }
        }
        place
    }

    /// Removes and returns the part with this key or index.
    pub(super) fn take(&mut self, step: &str) -> Option<SourcePosition> {
        self.below.remove(step)
    }
}

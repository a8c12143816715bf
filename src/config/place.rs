//! Where each part of a configuration was written: a tree beside the tree of values.

use std::collections::HashMap;

use super::pointer;
use super::problem::Origin;

/// Where a part was written.
#[derive(Clone, Debug)]
pub(super) struct SourcePosition {
    /// Where its key stands; for an element of a list, its value.
    pub key: Origin,
    /// Where its value begins.
    pub value: Origin,
    /// The places of the keys or elements inside.
    below: HashMap<String, SourcePosition>,
}

impl SourcePosition {
    /// A part without parts that was written there.
    pub(super) fn at(origin: &Origin) -> SourcePosition {
        SourcePosition { key: origin.clone(), value: origin.clone(), below: HashMap::new() }
    }

    /// True when something is written inside.
    pub(super) fn has_parts(&self) -> bool {
        !self.below.is_empty()
    }

    /// Says where the key or element `step` was written.
    pub(super) fn put(&mut self, step: String, place: SourcePosition) {
        self.below.insert(step, place);
    }

    /// The part with that key or index; made as written at `origin` where it is not there yet.
    pub(super) fn enter(&mut self, step: &str, origin: &Origin) -> &mut SourcePosition {
        self.below.entry(step.to_owned()).or_insert_with(|| SourcePosition::at(origin))
    }

    /// The part at `pointer`, or the closest around it that was written.
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

    /// Takes the part with that key or index out.
    pub(super) fn take(&mut self, step: &str) -> Option<SourcePosition> {
        self.below.remove(step)
    }
}

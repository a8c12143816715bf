//! Rules filed by topic. Finds, level by level, the rules that can be about a topic name. The
//! result may contain rules that do not match; the caller checks each.

use super::pattern::PatternStep;
use hashbrown::HashMap;

/// One level of the topics of rules.
#[derive(Clone, Default, Debug)]
struct RuleNode {
    children: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
    /// The next node for rules with `+` or a placeholder at this level.
    any: Option<u32>,
    /// Rules whose topic ends here.
    end: Vec<u32>,
    /// Rules whose topic ends here with `#`.
    rest: Vec<u32>,
}

/// Numbers of rules, by topic.
#[derive(Clone, Debug)]
pub struct TopicRules {
    nodes: Vec<RuleNode>,
}

impl Default for TopicRules {
    fn default() -> Self {
        TopicRules { nodes: vec![RuleNode::default()] }
    }
}

impl TopicRules {
    /// Adds a rule for one of its topics.
    pub fn add<'a>(&mut self, steps: impl Iterator<Item = PatternStep<'a>>, rule: u32) {
        let mut at = 0;
        for step in steps {
            let next = self.nodes.len() as u32;
            let Some(node) = self.nodes.get_mut(at as usize) else { return };
            at = match step {
                PatternStep::Text(text) => *node.children.entry(text.into()).or_insert(next),
                PatternStep::Any => *node.any.get_or_insert(next),
                PatternStep::Rest => {
                    node.rest.push(rule);
                    return;
                }
            };
            if at == next {
                self.nodes.push(RuleNode::default());
            }
        }
        if let Some(node) = self.nodes.get_mut(at as usize) {
            node.end.push(rule);
        }
    }

    /// Adds the rules that may match a topic name to `found`, and returns how many nodes were
    /// looked at.
    pub fn find(&self, topic: &str, found: &mut Vec<u32>) -> u32 {
        // A node and the rest of the topic there; `None` behind the last level.
        let mut open = vec![(0, Some(topic))];
        let mut looked_at = 0;
        while let Some((at, left)) = open.pop() {
            let Some(node) = self.nodes.get(at as usize) else { continue };
            looked_at += 1;
            found.extend(&node.rest);
            let Some(left) = left else {
                found.extend(&node.end);
                continue;
            };
            let (level, rest) = match left.split_once('/') {
                Some((level, rest)) => (level, Some(rest)),
                None => (left, None),
            };
            let next = [node.children.get(level).copied(), node.any];
            open.extend(next.into_iter().flatten().map(|next| (next, rest)));
        }
        looked_at
    }

    /// Approximate bytes of memory.
    pub fn size(&self) -> usize {
        let of = |node: &RuleNode| {
            let rules = node.end.capacity() + node.rest.capacity();
            node.children.allocation_size() + 4 * rules + size_of::<RuleNode>()
        };
        self.nodes.iter().map(of).sum()
    }
}

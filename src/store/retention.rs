//! Which sealed objects have to go: those past their time, and the oldest of what is too much.
//!
//! Pure bookkeeping: `Store::sweep` asks what is due and removes it. Every object counts for the
//! rule with the longest matching prefix, and for the total.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use super::Millis;
use super::object::Object;

/// Objects removed by one call of `due`; more wait for the next.
const DUE_MAX: usize = 1024;

/// Limits for the objects below a prefix. `None` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetentionRule {
    /// Of the object's name, without the leading slash; empty for all.
    pub prefix: String,
    /// Milliseconds after the seal.
    pub age_max_ms: Option<Millis>,
    /// Bytes of all sealed objects of this rule together.
    pub bytes_max: Option<u64>,
    /// Keep only about the last so many bytes of an object while it grows.
    pub window_bytes: Option<u64>,
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub objects: usize,
    pub bytes: u64,
}

/// When it was sealed, then its id: oldest first, and unique.
type Age = (Millis, u64);

pub(super) struct Retention {
    /// Longest prefix first; the last one matches everything.
    rules: Vec<Tracked>,
    total_bytes_max: Option<u64>,
    total_bytes: u64,
    by_expiry: BTreeMap<(Millis, u64), Weak<Object>>,
    by_age: BTreeMap<Age, Weak<Object>>,
    kept: HashMap<u64, Kept>,
}

struct Tracked {
    rule: RetentionRule,
    bytes: u64,
    by_age: BTreeMap<Age, Weak<Object>>,
}

/// What must be undone when an object goes.
struct Kept {
    rule: usize,
    age: Age,
    expiry: Option<(Millis, u64)>,
    bytes: u64,
}

impl Retention {
    pub(super) fn new(mut rules: Vec<RetentionRule>, total_bytes_max: Option<u64>) -> Retention {
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        if rules.last().is_none_or(|last| !last.prefix.is_empty()) {
            rules.push(RetentionRule::default());
        }
        let tracked = |rule| Tracked { rule, bytes: 0, by_age: BTreeMap::new() };
        Retention {
            rules: rules.into_iter().map(tracked).collect(),
            total_bytes_max,
            total_bytes: 0,
            by_expiry: BTreeMap::new(),
            by_age: BTreeMap::new(),
            kept: HashMap::new(),
        }
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    pub(super) fn window_bytes(&self, name: &str) -> Option<u64> {
        self.rules[self.rule_of(name)].rule.window_bytes
    }

    /// The operator has said what becomes of such an object.
    pub(super) fn has_rule(&self, name: &str) -> bool {
        self.rules[self.rule_of(name)].rule != RetentionRule::default()
    }

    fn rule_of(&self, name: &str) -> usize {
        let matches = |tracked: &Tracked| name.starts_with(&tracked.rule.prefix);
        self.rules.iter().position(matches).expect("the last rule matches everything")
    }

    pub(super) fn add(&mut self, object: &Arc<Object>) {
        let seal = object.seal().expect("only sealed objects are retained");
        let index = self.rule_of(&object.name);
        let age = (seal.modified_ms, object.id);
        let tracked = &mut self.rules[index];
        let by_rule = tracked.rule.age_max_ms.map(|max| seal.modified_ms.saturating_add(max));
        let expires_ms = by_rule.into_iter().chain(object.info.expires_ms).min();
        let expiry = expires_ms.map(|at| (at, object.id));
        let weak = Arc::downgrade(object);
        tracked.bytes += seal.length;
        tracked.by_age.insert(age, weak.clone());
        self.by_age.insert(age, weak.clone());
        self.total_bytes += seal.length;
        if let Some(expiry) = expiry {
            self.by_expiry.insert(expiry, weak);
        }
        let kept = Kept { rule: index, age, expiry, bytes: seal.length };
        let before = self.kept.insert(object.id, kept);
        assert!(before.is_none(), "an object is entered once");
    }

    pub(super) fn remove(&mut self, object: &Object) {
        let Some(kept) = self.kept.remove(&object.id) else {
            return;
        };
        let tracked = &mut self.rules[kept.rule];
        tracked.bytes -= kept.bytes;
        tracked.by_age.remove(&kept.age);
        self.by_age.remove(&kept.age);
        self.total_bytes -= kept.bytes;
        if let Some(expiry) = kept.expiry {
            self.by_expiry.remove(&expiry);
        }
    }

    /// The objects that have to go now, at most a thousand. `used_bytes` counts open objects too:
    /// what they take is made up for by sealed ones.
    pub(super) fn due(&self, now_ms: Millis, used_bytes: u64) -> Vec<Arc<Object>> {
        let mut due: BTreeMap<u64, Arc<Object>> = BTreeMap::new();
        let expired = self.by_expiry.range(..=(now_ms, u64::MAX));
        for object in expired.filter_map(|(_, weak)| weak.upgrade()).take(DUE_MAX) {
            due.insert(object.id, object);
        }
        for tracked in &self.rules {
            let excess = tracked.rule.bytes_max.map_or(0, |max| tracked.bytes.saturating_sub(max));
            oldest_of(&tracked.by_age, excess, &mut due);
        }
        let used_bytes = used_bytes.max(self.total_bytes);
        let excess = self.total_bytes_max.map_or(0, |max| used_bytes.saturating_sub(max));
        oldest_of(&self.by_age, excess, &mut due);
        due.into_values().collect()
    }
}

/// Add the oldest objects that make up for `excess` bytes; those already due count.
fn oldest_of(
    by_age: &BTreeMap<Age, Weak<Object>>,
    excess: u64,
    due: &mut BTreeMap<u64, Arc<Object>>,
) {
    let mut freed = 0;
    for object in by_age.values().filter_map(Weak::upgrade) {
        if freed >= excess || due.len() >= DUE_MAX {
            return;
        }
        freed += object.tail();
        due.insert(object.id, object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::object::{ObjectInfo, Seal};
    use std::collections::VecDeque;

    fn object(
        name: &str,
        id: u64,
        length: u64,
        modified_ms: Millis,
        expires_ms: Option<Millis>,
    ) -> Arc<Object> {
        let info = ObjectInfo { expires_ms, ..ObjectInfo::default() };
        let seal = Seal::of_content(length, 0, modified_ms);
        Arc::new(Object::sealed(name, id, info, VecDeque::new(), seal))
    }

    fn ids(due: &[Arc<Object>]) -> Vec<u64> {
        due.iter().map(|object| object.id).collect()
    }

    #[test]
    fn the_longest_prefix_decides() {
        let rules = vec![
            RetentionRule { prefix: "live/".into(), bytes_max: Some(10), ..Default::default() },
            RetentionRule { prefix: "live/keep/".into(), ..Default::default() },
        ];
        let mut retention = Retention::new(rules, None);
        let objects = [
            object("live/a", 1, 8, 1, None),
            object("live/b", 2, 8, 2, None),
            object("live/keep/c", 3, 100, 0, None),
        ];
        objects.iter().for_each(|o| retention.add(o));
        assert_eq!(ids(&retention.due(5, 0)), [1]);
        retention.remove(&objects[0]);
        assert!(retention.due(5, 0).is_empty());
    }

    #[test]
    fn the_earlier_of_age_and_expiry_counts() {
        let rule = RetentionRule { age_max_ms: Some(100), ..Default::default() };
        let mut retention = Retention::new(vec![rule], None);
        let objects = [object("a", 1, 1, 1000, Some(1050)), object("b", 2, 1, 1000, Some(5000))];
        objects.iter().for_each(|o| retention.add(o));
        assert!(retention.due(1049, 0).is_empty());
        assert_eq!(ids(&retention.due(1050, 0)), [1]);
        assert_eq!(ids(&retention.due(1100, 0)), [1, 2]);
    }

    #[test]
    fn the_total_counts_open_bytes_too() {
        let mut retention = Retention::new(Vec::new(), Some(100));
        let objects: Vec<_> = (1..=5).map(|i| object("x", i, 20, i, None)).collect();
        objects.iter().for_each(|o| retention.add(o));
        assert!(retention.due(9, 100).is_empty());
        assert_eq!(ids(&retention.due(9, 130)), [1, 2]);
    }
}

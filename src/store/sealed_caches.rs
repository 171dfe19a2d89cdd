//! What sealed objects keep in memory beside their pages, all together and bounded: the bodies of small
//! ones, and where messages end. The object kept longest loses it first.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use super::object::Object;

/// Messages whose ends are remembered for readers of sealed objects, all together.
const SEALED_MESSAGES_MAX: usize = 1 << 20;
/// An object counts as so many messages more.
const SEALED_INDEX_MESSAGES: usize = 64;

/// Message indexes of sealed objects, bounded; the one kept longest goes first.
#[derive(Default)]
pub(super) struct SealedIndexes {
    kept: Mutex<KeptIndexes>,
}

#[derive(Default)]
struct KeptIndexes {
    messages: usize,
    /// With what each counts.
    queue: VecDeque<(Weak<Object>, usize)>,
}

impl SealedIndexes {
    pub(super) fn keep(&self, object: &Arc<Object>) {
        let count = object.messages.settle();
        if count == 0 {
            return;
        }
        let count = count + SEALED_INDEX_MESSAGES;
        let mut kept = self.kept.lock();
        kept.messages += count;
        kept.queue.push_back((Arc::downgrade(object), count));
        while kept.messages > SEALED_MESSAGES_MAX
            && let Some((oldest, count)) = kept.queue.pop_front()
        {
            kept.messages -= count;
            if let Some(oldest) = oldest.upgrade() {
                oldest.messages.forget_all();
            }
        }
    }
}

/// Bodies of small sealed objects, bounded in bytes; the one kept longest goes first.
pub(super) struct BodyCache {
    bytes_max: u64,
    bytes: AtomicU64,
    queue: Mutex<VecDeque<Weak<Object>>>,
}

impl BodyCache {
    pub(super) fn new(bytes_max: u64) -> BodyCache {
        BodyCache { bytes_max, bytes: AtomicU64::new(0), queue: Mutex::default() }
    }

    pub(super) fn keep(&self, object: &Arc<Object>, body: Bytes) {
        let len = body.len() as u64;
        {
            let mut slot = object.body.write();
            if slot.is_some() {
                return;
            }
            *slot = Some(body);
        }
        self.bytes.fetch_add(len, Ordering::Relaxed);
        let mut queue = self.queue.lock();
        queue.push_back(Arc::downgrade(object));
        while self.bytes.load(Ordering::Relaxed) > self.bytes_max
            && let Some(oldest) = queue.pop_front()
        {
            if let Some(oldest) = oldest.upgrade() {
                self.forget(&oldest);
            }
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn forget(&self, object: &Object) {
        let len = object.body.write().take().map_or(0, |body| body.len() as u64);
        self.bytes.fetch_sub(len, Ordering::Relaxed);
    }
}

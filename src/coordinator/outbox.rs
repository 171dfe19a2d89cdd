//! Events that the application has not acknowledged yet: in order for each stream, one of a stream
//! at a time, and not without limit.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

/// Events that wait for the application; one more is lost, with an error in the log.
pub const EVENTS_WAITING_MAX: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Event {
    pub(super) channel: String,
    pub(super) stream_id: String,
    pub(super) kind: EventKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EventKind {
    Available { stream_type: String, resolution: String, index_file: String, start_time: String },
    Closed,
}

#[derive(Default)]
pub(super) struct Outbox {
    /// By stream id; the first of each is being delivered, or waits for its repetition.
    queues: HashMap<String, VecDeque<Event>>,
    count: usize,
}

impl Outbox {
    /// Returns the event if it is the stream's first: to be delivered now.
    pub(super) fn add(&mut self, event: Event) -> Option<Event> {
        if self.count == EVENTS_WAITING_MAX {
            tracing::error!(
                ?event,
                "an event is lost: the event hook has been silent for too long"
            );
            return None;
        }
        self.count += 1;
        let queue = self.queues.entry(event.stream_id.clone()).or_default();
        queue.push_back(event.clone());
        (queue.len() == 1).then_some(event)
    }

    /// Forget the first event of a stream; returns the next.
    pub(super) fn delivered(&mut self, stream_id: &str) -> Option<Event> {
        let queue = self.queues.get_mut(stream_id)?;
        self.count -= usize::from(queue.pop_front().is_some());
        let next = queue.front().cloned();
        if next.is_none() {
            self.queues.remove(stream_id);
        }
        next
    }

    pub(super) fn first(&self, stream_id: &str) -> Option<&Event> {
        self.queues.get(stream_id)?.front()
    }

    /// All of them, for the state file.
    pub(super) fn all(&self) -> Vec<Event> {
        self.queues.values().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(stream_id: &str, index_file: &str) -> Event {
        let kind = EventKind::Available {
            stream_type: "HLS-LIVE".into(),
            resolution: "1x1".into(),
            index_file: index_file.into(),
            start_time: String::new(),
        };
        Event { channel: "c".into(), stream_id: stream_id.into(), kind }
    }

    #[test]
    fn a_stream_has_one_event_on_the_way_and_the_others_in_order() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.add(event("a", "1")), Some(event("a", "1")));
        assert_eq!(outbox.add(event("a", "2")), None);
        assert_eq!(outbox.add(event("b", "1")), Some(event("b", "1")));
        assert_eq!(outbox.first("a"), Some(&event("a", "1")));
        assert_eq!(outbox.delivered("a"), Some(event("a", "2")));
        assert_eq!(outbox.delivered("a"), None);
        assert_eq!(outbox.delivered("a"), None);
        assert_eq!(outbox.all(), [event("b", "1")]);
    }

    #[test]
    fn there_is_room_for_so_many_and_it_comes_back() {
        let mut outbox = Outbox::default();
        for index in 0..EVENTS_WAITING_MAX {
            outbox.add(event(&index.to_string(), "1"));
        }
        assert_eq!(outbox.add(event("one more", "1")), None);
        assert_eq!(outbox.delivered("0"), None);
        assert_eq!(outbox.add(event("one more", "1")), Some(event("one more", "1")));
    }
}

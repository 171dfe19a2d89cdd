//! Deadlines of a core's connections, and what each connection is doing.
//!
//! An operation is never cancelled when its time is up: the socket is shut, and whoever waits on it
//! sees that. A connection without a deadline costs nothing; while there is none, the sweeper sleeps.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use slab::Slab;

use super::clock;
use super::counters::{Counter, Counters};
use super::socket::Socket;
use super::timers;

/// What a connection is doing, for shutdown, eviction and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Accepted; no request was completed yet.
    New,
    /// Between requests.
    Idle,
    /// An upload is in progress.
    Uploading,
    /// A sealed object is being sent.
    Sending,
    /// An open object is being followed.
    Following,
    /// Waiting for an absent object.
    Waiting,
}

struct Slot {
    socket: Rc<Socket>,
    phase: Phase,
    deadline_s: Option<u64>,
    /// Said before the socket is shut, if nothing of an answer was sent yet.
    farewell: Option<&'static [u8]>,
    /// Said before the socket is shut because the server stops.
    parting: Option<&'static [u8]>,
}

pub struct Deadlines {
    slots: RefCell<Slab<Slot>>,
    armed: Cell<usize>,
    /// No deadline lies before this: until then there is nothing to look for.
    next_due_s: Cell<u64>,
    sleeper: RefCell<Option<Waker>>,
    counters: Arc<Counters>,
}

impl Deadlines {
    pub fn new(counters: Arc<Counters>) -> Deadlines {
        Deadlines {
            slots: RefCell::default(),
            armed: Cell::new(0),
            next_due_s: Cell::new(u64::MAX),
            sleeper: RefCell::default(),
            counters,
        }
    }

    pub fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.borrow().is_empty()
    }

    pub fn enter(self: &Rc<Self>, socket: Rc<Socket>) -> Deadline {
        let slot =
            Slot { socket, phase: Phase::New, deadline_s: None, farewell: None, parting: None };
        let key = self.slots.borrow_mut().insert(slot);
        Deadline { table: self.clone(), key }
    }

    /// Shut all connections in these phases, with their parting words.
    pub fn shut_all(&self, wanted: impl Fn(Phase) -> bool) {
        for (_, slot) in self.slots.borrow().iter().filter(|(_, slot)| wanted(slot.phase)) {
            if let Some(parting) = slot.parting {
                let _ = slot.socket.try_send(parting);
            }
            slot.socket.shut();
        }
    }

    /// Shut the connection that has waited longest without ever completing a request.
    pub fn evict_one(&self) -> bool {
        let slots = self.slots.borrow();
        let silent = slots.iter().filter(|(_, slot)| slot.phase == Phase::New);
        let oldest = silent.min_by_key(|(_, slot)| slot.deadline_s);
        if let Some((_, slot)) = oldest {
            slot.socket.shut();
        }
        oldest.is_some()
    }

    /// Shut connections whose time is up; runs for the life of the core.
    pub async fn sweep_forever(&self) {
        loop {
            std::future::poll_fn(|context| {
                if self.armed.get() > 0 {
                    return Poll::Ready(());
                }
                *self.sleeper.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
            timers::sleep(Duration::from_secs(1)).await;
            let now_s = clock::monotonic_s();
            if now_s >= self.next_due_s.get() {
                self.sweep(now_s);
            }
        }
    }

    fn sweep(&self, now_s: u64) {
        let mut next_due_s = u64::MAX;
        for (_, slot) in self.slots.borrow_mut().iter_mut() {
            if slot.deadline_s.is_some_and(|deadline| deadline <= now_s) {
                slot.deadline_s = None;
                self.armed.set(self.armed.get() - 1);
                self.counters.add(Counter::ConnectionsTimedOut, 1);
                if let Some(farewell) = slot.farewell {
                    let _ = slot.socket.try_send(farewell);
                }
                slot.socket.shut();
            }
            next_due_s = next_due_s.min(slot.deadline_s.unwrap_or(u64::MAX));
        }
        self.next_due_s.set(next_due_s);
    }

    fn set(&self, key: usize, deadline_s: Option<u64>) {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[key];
        let armed = self.armed.get() - usize::from(slot.deadline_s.is_some());
        self.armed.set(armed + usize::from(deadline_s.is_some()));
        slot.deadline_s = deadline_s;
        self.next_due_s.set(self.next_due_s.get().min(deadline_s.unwrap_or(u64::MAX)));
        if armed == 0
            && deadline_s.is_some()
            && let Some(sleeper) = self.sleeper.borrow_mut().take()
        {
            sleeper.wake();
        }
    }
}

/// A connection's place in the table; leaving it drops the deadline.
pub struct Deadline {
    table: Rc<Deadlines>,
    key: usize,
}

impl Deadline {
    /// The connection is shut when `seconds` pass without `clear` or another `set`.
    pub fn set(&self, seconds: u64) {
        self.table.set(self.key, Some(clock::monotonic_s() + seconds + 1));
    }

    pub fn clear(&self) {
        self.table.set(self.key, None);
    }

    pub fn phase(&self, phase: Phase) {
        self.table.slots.borrow_mut()[self.key].phase = phase;
    }

    /// What to say before the socket is shut because the server stops.
    pub fn parting(&self, parting: Option<&'static [u8]>) {
        self.table.slots.borrow_mut()[self.key].parting = parting;
    }

    /// What to say before the socket is shut at the deadline.
    pub fn farewell(&self, farewell: Option<&'static [u8]>) {
        self.table.slots.borrow_mut()[self.key].farewell = farewell;
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.clear();
        self.table.slots.borrow_mut().remove(self.key);
    }
}

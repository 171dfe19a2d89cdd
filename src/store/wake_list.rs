//! Who is woken when an object grows: one list of waiting readers per core.
//!
//! Only the core that owns a list wakes its readers. A writer on the same core fires it directly; a
//! writer elsewhere hands the list to the owning core through the [`Signal`] that `server` supplied,
//! once, until that core has fired it: waking a parked core costs 25–50 µs, so cores without armed
//! readers are never signalled.
//!
//! No wake-up is lost: a reader arms, then looks at the tail again; a writer moves the tail, then
//! looks at who is armed. Both put a full fence between the two steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::task::{Context, Poll, Waker};

use parking_lot::{Mutex, RwLock};
use slab::Slab;

use super::directory::Store;

/// Carries a list to the core that owns it, which then calls [`CoreList::fire`].
pub type Signal = dyn Fn(usize, Arc<CoreList>) + Send + Sync;

/// The readers of one object on one core.
pub struct CoreList {
    core: usize,
    armed: AtomicU32,
    /// Handed to the owning core and not yet fired.
    signalled: AtomicBool,
    waiters: Mutex<Slab<Waiter>>,
}

struct Waiter {
    armed: bool,
    waker: Waker,
}

impl CoreList {
    fn new(core: usize) -> CoreList {
        CoreList {
            core,
            armed: AtomicU32::new(0),
            signalled: AtomicBool::new(false),
            waiters: Mutex::new(Slab::new()),
        }
    }

    /// Wake every armed reader. Called on the owning core.
    pub fn fire(&self) {
        // Cleared first: a writer that moves the tail from here on signals again.
        self.signalled.store(false, Ordering::SeqCst);
        let mut waiters = self.waiters.lock();
        for (_, waiter) in waiters.iter_mut() {
            if waiter.armed {
                waiter.armed = false;
                waiter.waker.wake_by_ref();
            }
        }
        self.armed.store(0, Ordering::SeqCst);
    }

    /// Enter or renew a reader's wish to be woken. The caller must look at the tail again after.
    pub(super) fn arm(&self, key: &mut Option<usize>, waker: &Waker) {
        let mut waiters = self.waiters.lock();
        let slot = match *key {
            Some(slot) => slot,
            None => *key.insert(waiters.insert(Waiter { armed: false, waker: waker.clone() })),
        };
        let waiter = &mut waiters[slot];
        if !waiter.waker.will_wake(waker) {
            waiter.waker = waker.clone();
        }
        if !waiter.armed {
            waiter.armed = true;
            self.armed.fetch_add(1, Ordering::SeqCst);
        }
        drop(waiters);
        fence(Ordering::SeqCst);
    }

    pub(super) fn leave(&self, key: usize) {
        let mut waiters = self.waiters.lock();
        if waiters.remove(key).armed {
            self.armed.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// All cores' lists of one object. Most objects are never waited for and hold no list.
#[derive(Default)]
pub(super) struct WakeList {
    lists: RwLock<Vec<Arc<CoreList>>>,
}

impl WakeList {
    /// The list of `core`, made on first use.
    pub(super) fn of_core(&self, core: usize) -> Arc<CoreList> {
        if let Some(list) = self.lists.read().iter().find(|list| list.core == core) {
            return list.clone();
        }
        let mut lists = self.lists.write();
        if let Some(list) = lists.iter().find(|list| list.core == core) {
            return list.clone();
        }
        let list = Arc::new(CoreList::new(core));
        lists.push(list.clone());
        list
    }

    /// Tell every core with armed readers that there is news. `from_core` is the caller's core, or
    /// `None` on a thread that is no core.
    pub(super) fn wake(&self, from_core: Option<usize>, signal: &Signal) {
        fence(Ordering::SeqCst);
        for list in self.lists.read().iter() {
            if list.armed.load(Ordering::SeqCst) == 0 {
                continue;
            }
            if Some(list.core) == from_core {
                list.fire();
            } else if !list.signalled.swap(true, Ordering::SeqCst) {
                signal(list.core, list.clone());
            }
        }
    }
}

/// Something that changes and is waited for, but is no object: a number that counts the changes, and
/// who wants to know of the next.
#[derive(Default)]
pub struct News {
    version: AtomicU64,
    list: WakeList,
}

impl News {
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// There is news: what it is about has been changed already. `from_core` as in a writer.
    pub fn tell(&self, store: &Store, from_core: Option<usize>) {
        self.version.fetch_add(1, Ordering::SeqCst);
        self.list.wake(from_core, &*store.options.signal);
    }
}

/// Waits on one core for news after a version that was seen.
pub struct NewsWait {
    news: Arc<News>,
    seen: u64,
    place: Option<(Arc<CoreList>, Option<usize>)>,
}

impl NewsWait {
    /// `seen` is the version from before the state was looked at, so that nothing is missed.
    pub fn new(news: Arc<News>, seen: u64) -> NewsWait {
        NewsWait { news, seen, place: None }
    }

    pub fn poll_news(&mut self, core: usize, context: &mut Context<'_>) -> Poll<()> {
        let (list, key) = self.place.get_or_insert_with(|| (self.news.list.of_core(core), None));
        list.arm(key, context.waker());
        if self.news.version() == self.seen { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for NewsWait {
    fn drop(&mut self) {
        if let Some((list, Some(key))) = self.place.take() {
            list.leave(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use std::sync::mpsc;
    use std::task::Wake;

    struct Flag(mpsc::SyncSender<()>);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            let _ = self.0.try_send(());
        }
    }

    /// Goal: no wake-up is lost between a writer and a reader on different threads.
    /// Method: the writer moves a counter and wakes; the reader sleeps only after arming and looking
    /// again; a lost wake-up leaves it asleep, and the receive gives up.
    #[test]
    fn no_wake_up_is_lost_across_threads() {
        const ROUNDS: u64 = 20_000;
        let list = Arc::new(WakeList::default());
        let tail = Arc::new(AtomicU64::new(0));
        let (sender, receiver) = mpsc::sync_channel(1);
        let reader = {
            let (list, tail) = (list.clone(), tail.clone());
            std::thread::spawn(move || {
                let waker = Waker::from(Arc::new(Flag(sender)));
                let core_list = list.of_core(1);
                let (mut key, mut seen) = (None, 0);
                while seen < ROUNDS {
                    core_list.arm(&mut key, &waker);
                    let now = tail.load(Ordering::SeqCst);
                    if now == seen {
                        let patience = std::time::Duration::from_secs(20);
                        receiver.recv_timeout(patience).expect("a wake-up was lost");
                    }
                    seen = tail.load(Ordering::SeqCst);
                }
                core_list.leave(key.unwrap());
            })
        };
        let signal = |_core: usize, list: Arc<CoreList>| list.fire();
        for round in 1..=ROUNDS {
            tail.store(round, Ordering::SeqCst);
            list.wake(Some(0), &signal);
        }
        reader.join().unwrap();
    }

    #[test]
    fn a_core_is_signalled_once_until_it_fires() {
        let list = WakeList::default();
        let waker = Waker::noop();
        let (mut a, mut b) = (None, None);
        let core_list = list.of_core(1);
        core_list.arm(&mut a, waker);
        core_list.arm(&mut b, waker);
        let signals = Arc::new(AtomicU32::new(0));
        let counted = signals.clone();
        let signal = move |_core: usize, _list: Arc<CoreList>| {
            counted.fetch_add(1, Ordering::SeqCst);
        };
        list.wake(Some(0), &signal);
        list.wake(Some(0), &signal);
        assert_eq!(signals.load(Ordering::SeqCst), 1);
        core_list.fire();
        list.wake(Some(0), &signal);
        assert_eq!(signals.load(Ordering::SeqCst), 1, "nobody is armed any more");
    }
}

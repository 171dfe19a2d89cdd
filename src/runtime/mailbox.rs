//! Messages to a core from any thread. The receiver is woken once, however many arrive meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

use parking_lot::Mutex;

use super::worker::RemoteWaker;

pub struct Mailbox<T> {
    state: Arc<Mutex<State<T>>>,
}

struct State<T> {
    messages: VecDeque<T>,
    receiver: Option<RemoteWaker>,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Mailbox { state: self.state.clone() }
    }
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        let state = State { messages: VecDeque::new(), receiver: None };
        Mailbox { state: Arc::new(Mutex::new(state)) }
    }
}

impl<T> Mailbox<T> {
    pub fn send(&self, message: T) {
        let mut state = self.state.lock();
        state.messages.push_back(message);
        let receiver = state.receiver.take();
        drop(state);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }

    /// All messages that have arrived, at least one. There is one receiver.
    pub async fn receive(&self) -> VecDeque<T> {
        std::future::poll_fn(|context| {
            let mut state = self.state.lock();
            if state.messages.is_empty() {
                state.receiver = Some(RemoteWaker::of(context));
                return Poll::Pending;
            }
            Poll::Ready(std::mem::take(&mut state.messages))
        })
        .await
    }
}

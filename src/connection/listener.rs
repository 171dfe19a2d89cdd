//! Accepts connections on one core and keeps their number within its limit.

use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use super::{Core, Role, http};
use crate::cameras::Push;
use crate::ingest::tcp_push;
use crate::runtime::counters::Counter;
use crate::runtime::socket::{Listener, Socket};
use crate::runtime::{timers, worker};

/// Accepted in a row before other tasks have their turn.
const ACCEPT_BATCH: usize = 64;
/// After an error that will last a while (no descriptors): do not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
Content-Length: 50\r\nCache-Control: no-store\r\nRetry-After: 1\r\nAccess-Control-Allow-Origin: *\r\n\
Connection: close\r\n\r\nthe server has as many connections as it may have\n";

/// Accept until the core drains; on the admin address until the listener is stopped.
pub async fn accept_forever(core: Rc<Core>, listener: Rc<Listener>, role: Role) {
    let mut in_batch = 0;
    while !core.is_draining.get() || matches!(role, Role::Admin(_)) {
        match listener.try_accept() {
            Ok(Some(socket)) => admit(&core, socket, &role),
            Ok(None) => {
                in_batch = 0;
                listener.acceptable().await;
            }
            // It was stopped.
            Err(error) if error.kind() == ErrorKind::InvalidInput => return,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections for a moment");
                timers::sleep(ACCEPT_PAUSE).await;
            }
        }
        in_batch += 1;
        if in_batch == ACCEPT_BATCH {
            in_batch = 0;
            worker::yield_now().await;
        }
    }
}

/// Stop accepting. What waits in the backlog is still accepted: nobody who connected before is reset.
pub fn stop(core: &Rc<Core>, listener: &Listener, role: &Role) {
    while let Ok(Some(socket)) = listener.try_accept() {
        admit(core, socket, role);
    }
    listener.stop();
}

fn admit(core: &Rc<Core>, socket: Socket, role: &Role) {
    core.counters.add(Counter::ConnectionsAccepted, 1);
    // The admin address must answer above all when the others cannot.
    let is_full =
        !matches!(role, Role::Admin(_)) && core.deadlines.len() >= core.options.connections_max;
    if is_full {
        if core.deadlines.evict_one() {
            core.counters.add(Counter::ConnectionsEvicted, 1);
        } else {
            core.counters.add(Counter::ConnectionsRefused, 1);
            if matches!(role, Role::Objects(_)) {
                let _ = socket.try_send(REFUSAL);
            }
            return;
        }
    }
    match role {
        Role::Cameras(push) => worker::spawn(serve_camera(core.clone(), socket, push.clone())),
        role => worker::spawn(http::serve(core.clone(), socket, role.clone())),
    }
}

/// A camera has as long for its greeting as others have for the head of a request.
async fn serve_camera(core: Rc<Core>, socket: Socket, push: Push) {
    if core.is_draining.get() {
        return;
    }
    let socket = Rc::new(socket);
    let deadline = core.deadlines.enter(socket.clone());
    deadline.set(core.options.head_timeout_s);
    tcp_push::push(&core.ingest, &push, &socket, &deadline).await;
}

//! The application's web-hooks: who knows the keys, and who is told of streams. Each call runs on a
//! thread that may wait; a hook that hangs holds that thread for `timeout` and nobody else.

use std::time::Duration;

use tokio::sync::Semaphore;
use ureq::Agent;
use ureq::http::HeaderMap;

use super::board::KeyQuestion;
use super::control_token::Credentials;
use super::outbox::{Event, EventKind};
use super::settings::StreamSettings;

/// Key checks that run at once; more wait (`KEY_CHECKS_WAITING_MAX`).
pub const KEY_CHECKS_MAX: usize = 64;
/// Events that are being delivered at once; more wait.
pub const EVENT_CALLS_MAX: usize = 16;
/// An answer of a hook has a few header fields.
const ANSWER_HEAD_BYTES_MAX: usize = 16 << 10;

/// Where a hook is, and what it wants to see.
#[derive(Debug, Clone)]
pub struct Hook {
    pub url: String,
    pub credentials: Option<Credentials>,
}

pub(super) struct WebHooks {
    agent: Agent,
    /// Of a call; and of what waits for its turn.
    timeout: Duration,
    key_verification: Option<Hook>,
    event_callback: Option<Hook>,
    key_checks: Semaphore,
    event_calls: Semaphore,
}

/// Why a hook has not said 200.
#[derive(Debug, thiserror::Error)]
enum HookError {
    #[error("it answered {0}")]
    Status(u16),
    #[error("too many calls wait for it")]
    NoTurn,
    #[error(transparent)]
    Call(#[from] ureq::Error),
}

impl WebHooks {
    pub(super) fn new(
        key_verification: Option<Hook>,
        event_callback: Option<Hook>,
        timeout: Duration,
    ) -> WebHooks {
        // A hook that says "elsewhere" has not said 200. What a proxy of the environment would make
        // of an address of this machine or this network is not to be known here.
        let config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(ANSWER_HEAD_BYTES_MAX)
            .max_idle_connections(0)
            .proxy(None)
            .user_agent(concat!("headwater/", env!("CARGO_PKG_VERSION")));
        WebHooks {
            agent: config.build().new_agent(),
            timeout,
            key_verification,
            event_callback,
            key_checks: Semaphore::new(KEY_CHECKS_MAX),
            event_calls: Semaphore::new(EVENT_CALLS_MAX),
        }
    }

    /// Whether a key is good, and what is to be done with its stream.
    pub(super) async fn verify(&self, question: &KeyQuestion) -> Option<StreamSettings> {
        let fields = vec![
            ("x-streaming-channel", question.channel.clone()),
            ("x-streaming-key", question.key.clone()),
            ("x-user-ip", question.user_ip.clone()),
        ];
        let answer = self.call(&self.key_checks, self.key_verification.as_ref()?, fields).await;
        let channel = &question.channel;
        match answer {
            Ok(headers) => {
                let value = |name| {
                    let value = headers.get(name).and_then(|value| value.to_str().ok());
                    value.unwrap_or_default()
                };
                let all = (value("x-record"), value("x-previews"), value("x-resolutions"));
                Some(StreamSettings::new(all.0, all.1, all.2))
            }
            Err(HookError::Status(status)) => {
                tracing::info!(channel, status, "the key hook refuses a key");
                None
            }
            Err(error) => {
                tracing::warn!(channel, %error, "the key hook has no answer");
                None
            }
        }
    }

    /// Whether the application has taken the event.
    pub(super) async fn deliver(&self, event: &Event) -> bool {
        let Some(hook) = &self.event_callback else { return true };
        let answer = self.call(&self.event_calls, hook, event_fields(event)).await;
        if let Err(error) = &answer {
            let Event { channel, stream_id, .. } = event;
            tracing::warn!(channel, stream_id, %error, "the event hook has not taken an event");
        }
        answer.is_ok()
    }

    async fn call(
        &self,
        turns: &Semaphore,
        hook: &Hook,
        fields: Vec<(&'static str, String)>,
    ) -> Result<HeaderMap, HookError> {
        // Nobody waits for an answer that comes later. The semaphore is never closed.
        let turn = tokio::time::timeout(self.timeout, turns.acquire()).await;
        let _turn = turn.map_err(|_| HookError::NoTurn)?;
        let mut request = self.agent.post(&hook.url);
        for (name, value) in fields {
            request = request.header(name, value);
        }
        if let Some(credentials) = &hook.credentials {
            request = request.header("authorization", credentials.header_value());
        }
        let called = tokio::task::spawn_blocking(move || request.send_empty()).await;
        let answer =
            called.map_err(|_| ureq::Error::Io(std::io::ErrorKind::Interrupted.into()))??;
        match answer.status().as_u16() {
            200 => Ok(answer.into_parts().0.headers),
            status => Err(HookError::Status(status)),
        }
    }
}

fn event_fields(event: &Event) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("x-streaming-channel", event.channel.clone()),
        ("x-streaming-id", event.stream_id.clone()),
    ];
    match &event.kind {
        EventKind::Closed => fields.push(("x-event-type", "stream-closed".to_owned())),
        EventKind::Available { stream_type, resolution, index_file, start_time } => {
            fields.push(("x-event-type", "stream-available".to_owned()));
            fields.push(("x-stream-type", stream_type.clone()));
            fields.push(("x-resolution", resolution.clone()));
            fields.push(("x-index-file", index_file.clone()));
            if !start_time.is_empty() {
                fields.push(("x-start-time", start_time.clone()));
            }
        }
    }
    fields
}

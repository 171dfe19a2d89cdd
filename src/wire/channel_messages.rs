//! Messages of the control protocol between streaming servers, encoders and their coordinator: one
//! text each, a method, parameters and perhaps a body. What the methods mean is not known here.
//!
//! ```text
//! METHOD
//! Name:value        any order; the first ':' separates
//!                   after an empty line: the body
//! ```

/// Bytes of a message.
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Parameters of a message.
pub const CONTROL_PARAMETERS_MAX: usize = 64;

/// One message. Its method is in capital letters, its names in the spelling that they came in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChannelMessage {
    method: String,
    parameters: Vec<(String, String)>,
    body: String,
}

/// Why a text is no message: the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelMessageError {
    #[error("a control message of more than {CONTROL_MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    #[error("a control message with more than {CONTROL_PARAMETERS_MAX} parameters")]
    TooManyParameters,
}

impl ChannelMessage {
    pub fn new(method: &str) -> ChannelMessage {
        ChannelMessage { method: on_one_line(method).to_uppercase(), ..ChannelMessage::default() }
    }

    /// The same message with one parameter more.
    pub fn with(mut self, name: &str, value: &str) -> ChannelMessage {
        self.parameters.push((on_one_line(name), on_one_line(value)));
        self
    }

    pub fn method(&self) -> &str {
        &self.method
    }

    /// The value of a parameter, whatever the case of its name; empty if it is not there. Of two
    /// with one name the later counts.
    pub fn get(&self, name: &str) -> &str {
        let mut newest_first = self.parameters.iter().rev();
        let found = newest_first.find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    pub fn body(&self) -> &str {
        &self.body
    }

    /// Read a text message. Lines without a name are passed over, as the original does.
    pub fn parse(text: &str) -> Result<ChannelMessage, ChannelMessageError> {
        if text.len() > CONTROL_MESSAGE_BYTES_MAX {
            return Err(ChannelMessageError::TooLong);
        }
        let (first, mut rest) = text.split_once('\n').unwrap_or((text, ""));
        let mut message =
            ChannelMessage { method: first.trim().to_uppercase(), ..ChannelMessage::default() };
        while !rest.is_empty() {
            let (line, behind) = rest.split_once('\n').unwrap_or((rest, ""));
            rest = behind;
            if line.trim_end_matches('\r').is_empty() {
                message.body = rest.to_owned();
                break;
            }
            let Some((name, value)) = line.split_once(':') else { continue };
            if name.trim().is_empty() {
                continue;
            }
            if message.parameters.len() == CONTROL_PARAMETERS_MAX {
                return Err(ChannelMessageError::TooManyParameters);
            }
            message.parameters.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        Ok(message)
    }

    /// As it is sent.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.method);
        for (name, value) in &self.parameters {
            text += &format!("{name}:{value}\n");
        }
        if !self.body.is_empty() {
            text += &format!("\n{}", self.body);
        }
        text
    }
}

/// A line end in a value would begin another parameter.
fn on_one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Whether this may name a channel, or be a key: letters, digits, `-` and `_`.
pub fn is_id(text: &str, length_max: usize) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=length_max).contains(&text.len()) && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_written_without_a_space_and_with_a_line_end_each() {
        let message = ChannelMessage::new("publish-accept")
            .with("Request-ID", "0")
            .with("Stream-Channel", "cam")
            .with("Stream-ID", "00ff");
        let text = "PUBLISH-ACCEPT\nRequest-ID:0\nStream-Channel:cam\nStream-ID:00ff\n";
        assert_eq!(message.to_text(), text);
        assert_eq!(ChannelMessage::new("HEARTBEAT").to_text(), "HEARTBEAT\n");
    }

    #[test]
    fn methods_and_names_have_no_case_and_spaces_are_trimmed() {
        let text = " Publish-Request \r\nrequest-id : 7 \nSTREAM-channel:a:b\n\nfirst\n\nthird";
        let message = ChannelMessage::parse(text).unwrap();
        assert_eq!(message.method(), "PUBLISH-REQUEST");
        assert_eq!(message.get("Request-ID"), "7");
        assert_eq!(message.get("stream-CHANNEL"), "a:b");
        assert_eq!(message.get("absent"), "");
        assert_eq!(message.body(), "first\n\nthird");
    }

    #[test]
    fn odd_lines_are_passed_over_and_the_later_value_counts() {
        let message = ChannelMessage::parse("X\nno colon\n:no name\na:1\nA:2\n").unwrap();
        assert_eq!((message.get("a"), message.body()), ("2", ""));
        assert_eq!(ChannelMessage::parse("").unwrap(), ChannelMessage::default());
    }

    #[test]
    fn a_value_cannot_begin_another_parameter() {
        let message = ChannelMessage::new("ERROR").with("Error-Message", "a\nStream-ID:x\r");
        assert_eq!(message.to_text(), "ERROR\nError-Message:a Stream-ID:x \n");
    }

    #[test]
    fn size_and_number_are_limited() {
        let long = format!("X\na:{}", "b".repeat(CONTROL_MESSAGE_BYTES_MAX));
        assert_eq!(ChannelMessage::parse(&long), Err(ChannelMessageError::TooLong));
        let lines = |count| format!("X\n{}", "a:b\n".repeat(count));
        assert!(ChannelMessage::parse(&lines(CONTROL_PARAMETERS_MAX)).is_ok());
        let many = ChannelMessage::parse(&lines(CONTROL_PARAMETERS_MAX + 1));
        assert_eq!(many, Err(ChannelMessageError::TooManyParameters));
    }

    proptest! {
        /// Any text is read without a panic, and what is written of it reads the same.
        #[test]
        fn what_was_read_is_written_and_read_again(text in "(?s).{0,200}|([a-zA-Z-]{0,9}[: \n]){0,30}") {
            if let Ok(message) = ChannelMessage::parse(&text) {
                let again = ChannelMessage::parse(&message.to_text()).unwrap();
                prop_assert_eq!(again.method(), message.method());
                for (name, _) in &message.parameters {
                    prop_assert_eq!(again.get(name), message.get(name));
                }
                if !message.body().is_empty() {
                    prop_assert_eq!(again.body(), message.body());
                }
            }
        }
    }
}

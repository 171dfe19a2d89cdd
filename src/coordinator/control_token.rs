//! Who may speak: the tokens of control sockets (JWT, HMAC), and the credentials of commands and
//! web-hooks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// The value of an Authorization field, as it is sent to web-hooks and expected of commands.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Basic {
        user: String,
        password: String,
    },
    Bearer {
        token: String,
    },
    /// The whole value.
    Custom {
        value: String,
    },
}

/// Without what must not be in a log.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credentials::Basic { .. } => "Basic …",
            Credentials::Bearer { .. } => "Bearer …",
            Credentials::Custom { .. } => "Custom …",
        })
    }
}

impl Credentials {
    pub(super) fn header_value(&self) -> String {
        match self {
            Credentials::Basic { user, password } => {
                format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
            }
            Credentials::Bearer { token } => format!("Bearer {token}"),
            Credentials::Custom { value } => value.clone(),
        }
    }

    /// Whether an Authorization field says the same. The scheme's case does not matter; how long a
    /// wrong secret takes tells nothing of how much of it is right.
    pub(super) fn accept(&self, authorization: &str) -> bool {
        let (scheme, value) = authorization.split_once(' ').unwrap_or((authorization, ""));
        let same = |one: &[u8], other: &[u8]| bool::from(one.ct_eq(other));
        match self {
            Credentials::Basic { user, password } => {
                let wanted = format!("{user}:{password}");
                let decoded = BASE64.decode(value).unwrap_or_default();
                scheme.eq_ignore_ascii_case("basic") && same(&decoded, wanted.as_bytes())
            }
            Credentials::Bearer { token } => {
                scheme.eq_ignore_ascii_case("bearer") && same(value.as_bytes(), token.as_bytes())
            }
            Credentials::Custom { value } => same(authorization.as_bytes(), value.as_bytes()),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
}

/// A token for a control socket; `subject` is `wss-control`, for example.
pub(super) fn sign(secret: &str, subject: &str) -> Option<String> {
    let claims = Claims { sub: subject.to_owned() };
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).ok()
}

/// Whether a token was signed with the secret, for this subject. It need not expire; if it says
/// when, that counts.
pub(super) fn is_good(secret: &str, subject: &str, token: &str) -> bool {
    let mut rules = Validation::new(Algorithm::HS256);
    rules.algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
    rules.required_spec_claims.clear();
    rules.validate_aud = false;
    rules.validate_nbf = true;
    let key = DecodingKey::from_secret(secret.as_bytes());
    let decoded = jsonwebtoken::decode::<Claims>(token, &key, &rules);
    decoded.is_ok_and(|token| token.claims.sub == subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(algorithm: Algorithm, claims: &serde_json::Value, secret: &str) -> String {
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
    }

    #[test]
    fn every_hmac_algorithm_is_good_with_the_right_secret_and_subject() {
        let claims = serde_json::json!({ "sub": "wss-control" });
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let token = token(algorithm, &claims, "secret");
            assert!(is_good("secret", "wss-control", &token), "{algorithm:?}");
            assert!(!is_good("other", "wss-control", &token));
            assert!(!is_good("secret", "hls-control", &token));
        }
        assert!(is_good("secret", "wss-control", &sign("secret", "wss-control").unwrap()));
    }

    #[test]
    fn other_tokens_are_not() {
        let none = format!("{}.{}.", "eyJhbGciOiJub25lIn0", "eyJzdWIiOiJ3c3MtY29udHJvbCJ9");
        let expired = serde_json::json!({ "sub": "wss-control", "exp": 1 });
        let expired = token(Algorithm::HS256, &expired, "secret");
        let nobody = token(Algorithm::HS256, &serde_json::json!({}), "secret");
        for token in [none.as_str(), &expired, &nobody, "", "a.b.c", "\u{e4}"] {
            assert!(!is_good("secret", "wss-control", token), "{token}");
        }
        let for_others = serde_json::json!({ "sub": "wss-control", "aud": "somebody" });
        assert!(is_good("secret", "wss-control", &token(Algorithm::HS256, &for_others, "secret")));
    }

    #[test]
    fn credentials_are_compared_whole() {
        let basic = Credentials::Basic { user: "u".into(), password: "p:q".into() };
        let bearer = Credentials::Bearer { token: "t k".into() };
        let custom = Credentials::Custom { value: "Key abc".into() };
        for credentials in [&basic, &bearer, &custom] {
            let value = credentials.header_value();
            assert!(credentials.accept(&value), "{value}");
            for wrong in ["", " ", "Basic", "Basic ", "Bearer ", "Key ab", "Basic dTpw"] {
                assert!(!credentials.accept(wrong), "{value} / {wrong}");
            }
            assert!(!credentials.accept(&format!("{value}x")));
            assert!(!format!("{credentials:?}").contains("abc"));
        }
        assert_eq!(basic.header_value(), "Basic dTpwOnE=");
        assert!(basic.accept("bASIC dTpwOnE="));
    }
}

//! Who may read what is below which path: Basic and Bearer, as restreamer has them. Pure: an
//! Authorization value comes in, a verdict goes out, and neither is ever logged.
//!
//! Each section of the configuration that has a path has a rule for it, also those that let everybody
//! in: the longest path that a name lies below decides, so an open file may lie in a closed folder.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use crate::wire::path_table::PathTable;

/// Who is let in; without users that is nobody.
#[derive(Clone)]
pub struct Access {
    scheme: Scheme,
    /// What may stand behind the name of the scheme.
    tokens: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Scheme {
    Basic { realm: String },
    Bearer,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// User and password are missing or wrong, for this realm.
    Basic { realm: String },
    /// The token is missing or wrong.
    Bearer,
}

impl Access {
    /// These users with their passwords. The realm has neither quotes nor control characters.
    pub fn basic<'u>(realm: &str, users: impl IntoIterator<Item = (&'u str, &'u str)>) -> Access {
        let users = users.into_iter();
        let encode = |(user, password)| STANDARD.encode(format!("{user}:{password}")).into_bytes();
        let scheme = Scheme::Basic { realm: realm.to_owned() };
        Access { scheme, tokens: users.map(encode).collect() }
    }

    /// Whoever has one of these tokens.
    pub fn bearer<'t>(tokens: impl IntoIterator<Item = &'t str>) -> Access {
        let tokens = tokens.into_iter().map(|token| token.as_bytes().to_vec()).collect();
        Access { scheme: Scheme::Bearer, tokens }
    }

    /// With the value of the field Authorization, if there is one.
    pub fn check(&self, authorization: Option<&str>) -> Result<(), Denied> {
        let wanted = match self.scheme {
            Scheme::Basic { .. } => "Basic",
            Scheme::Bearer => "Bearer",
        };
        let token = authorization
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(wanted))
            .map(|(_, token)| token.as_bytes());
        // Every token is looked at: how long it takes says nothing of which one is near.
        let is_known = |token: &[u8]| {
            let all = self.tokens.iter().map(|known| known.ct_eq(token));
            bool::from(all.fold(subtle::Choice::from(0), |any, is_it| any | is_it))
        };
        if token.is_some_and(is_known) { Ok(()) } else { Err(self.denied()) }
    }

    fn denied(&self) -> Denied {
        match &self.scheme {
            Scheme::Basic { realm } => Denied::Basic { realm: realm.clone() },
            Scheme::Bearer => Denied::Bearer,
        }
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Access({:?}, {} users)", self.scheme, self.tokens.len())
    }
}

/// The rules of all paths; `None` is everybody.
#[derive(Debug, Clone, Default)]
pub struct AccessRules {
    table: PathTable<Option<Access>>,
}

impl AccessRules {
    /// A path that ends in a slash is a folder with all that is below.
    pub fn insert(&mut self, path: &str, access: Option<Access>) {
        self.table.insert(path, access);
    }

    /// Whether a request for this name, without its leading slash, may go on.
    pub fn check<'a>(
        &self,
        name: &str,
        is_folder: bool,
        authorization: impl FnOnce() -> Option<&'a str>,
    ) -> Result<(), Denied> {
        match self.table.find(name, is_folder) {
            Some((Some(access), _)) => access.check(authorization()),
            Some((None, _)) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_is_a_user_and_a_password() {
        let access = Access::basic("R", [("alice", "secret"), ("bob", "a:b c")]);
        // The standard base64 of "alice:secret" and "bob:a:b c".
        for good in ["Basic YWxpY2U6c2VjcmV0", "basic YWxpY2U6c2VjcmV0", "Basic Ym9iOmE6YiBj"] {
            assert_eq!(access.check(Some(good)), Ok(()), "{good}");
        }
        let wrong = Err(Denied::Basic { realm: "R".to_owned() });
        for bad in [
            "",
            "Basic",
            "Basic ",
            "Basic  YWxpY2U6c2VjcmV0",
            "Basic YWxpY2U6c2VjcmV",
            "Basic YWxpY2U6c2VjcmV0=",
            "Basic YWxpY2U6c2VjcmV0 ",
            "Basic ywxpy2u6c2vjcmv0",
            "Bearer YWxpY2U6c2VjcmV0",
            "YWxpY2U6c2VjcmV0",
        ] {
            assert_eq!(access.check(Some(bad)), wrong, "{bad}");
        }
        assert_eq!(access.check(None), wrong);
        assert_eq!(format!("{access:?}"), "Access(Basic { realm: \"R\" }, 2 users)");
    }

    #[test]
    fn bearer_is_a_token() {
        let access = Access::bearer(["secret", "other"]);
        assert_eq!(access.check(Some("Bearer secret")), Ok(()));
        assert_eq!(access.check(Some("BEARER other")), Ok(()));
        for bad in ["Bearer Secret", "Bearer secre", "Bearer secret2", "Bearer ", "Basic secret"] {
            assert_eq!(access.check(Some(bad)), Err(Denied::Bearer), "{bad}");
        }
    }

    #[test]
    fn an_empty_list_admits_nobody() {
        assert_eq!(Access::bearer([]).check(Some("Bearer ")), Err(Denied::Bearer));
        assert!(Access::basic("R", []).check(Some("Basic ")).is_err());
    }

    #[test]
    fn the_longest_path_decides() {
        let mut rules = AccessRules::default();
        rules.insert("/a/", Some(Access::bearer(["t"])));
        rules.insert("/a/open.txt", None);
        rules.insert("/a/b/", Some(Access::bearer(["u"])));
        let may = |name: &str, value: &str| rules.check(name, false, || Some(value)).is_ok();
        assert!(may("a/x", "Bearer t") && !may("a/x", "Bearer u"));
        assert!(may("a/b/x", "Bearer u") && !may("a/b/x", "Bearer t"));
        assert!(may("a/open.txt", "") && may("c", "") && !may("a/", "") && !may("a/b/c/d", ""));
    }
}

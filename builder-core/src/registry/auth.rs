//! The words of authentication: challenges, scopes, tokens (`features.md` F3). Pure; [`super::token`] acts on them.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;

/// What a request needs to be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access<'a> {
    /// Reading the repository.
    Pull,
    /// Writing to it and, to take a blob over, reading another one of the same registry.
    Push {
        /// That other one.
        mount_from: Option<&'a str>,
    },
}

impl Access<'_> {
    /// The scopes of a token for `repository`.
    pub(super) fn scopes(self, repository: &str) -> Vec<String> {
        match self {
            Self::Pull => vec![format!("repository:{repository}:pull")],
            Self::Push { mount_from } => {
                let mut scopes = vec![format!("repository:{repository}:pull,push")];
                scopes.extend(mount_from.map(|other| format!("repository:{other}:pull")));
                scopes
            }
        }
    }
}

/// A `WWW-Authenticate` header that we can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A name and password with each request.
    Basic,
    /// A token from `realm`.
    Bearer {
        /// Address of the token server.
        realm: String,
        /// For which service.
        service: Option<String>,
        /// For what.
        scope: Option<String>,
    },
}

impl Challenge {
    /// Reads the headers of an answer; Bearer is preferred.
    pub(super) fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for header in headers {
            let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
            if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Self::Basic);
            }
            if scheme.eq_ignore_ascii_case("bearer") {
                let mut fields = parameters(rest);
                if let Some(realm) = fields.remove("realm") {
                    return Some(Self::Bearer { realm, service: fields.remove("service"), scope: fields.remove("scope") });
                }
            }
        }
        basic
    }
}

/// `key="value", key=value` with quoted commas and escapes; keys in lower case.
fn parameters(text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        let mut value = String::new();
        let after = after.trim_start();
        rest = match after.strip_prefix('"') {
            Some(quoted) => {
                let mut chars = quoted.char_indices();
                let mut end = quoted.len();
                while let Some((at, c)) = chars.next() {
                    match c {
                        '"' => {
                            end = at + 1;
                            break;
                        }
                        '\\' => value.extend(chars.next().map(|(_, c)| c)),
                        c => value.push(c),
                    }
                }
                &quoted[end..]
            }
            None => {
                let end = after.find(',').unwrap_or(after.len());
                value.push_str(after[..end].trim());
                &after[end..]
            }
        };
        found.insert(key, value);
    }
    found
}

/// A `Basic` header's value.
pub(super) fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}")))
}

/// What a token server answers.
#[derive(serde::Deserialize)]
pub(super) struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl TokenAnswer {
    /// The header's value and how long it may be used.
    pub(super) fn into_header(self) -> Option<(String, Duration)> {
        // The specification's default is 60 s; a part is left out so that no token ends on the way. Absurdly long ones are not trusted.
        let seconds = self.expires_in.unwrap_or(60).clamp(60, 3600);
        let token = self.token.filter(|t| !t.is_empty()).or(self.access_token).filter(|t| !t.is_empty())?;
        // A token is put into a header: anything that could end the header is no token.
        token.bytes().all(|b| b.is_ascii_graphic()).then(|| (format!("Bearer {token}"), Duration::from_secs(seconds - 10)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn f3_reads_challenges() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into), scope: scope.map(Into::into) })
        };
        for (headers, challenge) in [
            (
                vec![r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#],
                bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:a/b:pull,push")),
            ),
            (vec!["bearer Realm=https://x/t, service=y"], bearer("https://x/t", Some("y"), None)),
            (vec![r#"Basic realm="r""#, r#"Bearer realm="https://t""#], bearer("https://t", None, None)),
            (vec![r#"Bearer realm="a\"b""#], bearer("a\"b", None, None)),
            (vec![r#"Basic realm="r""#], Some(Challenge::Basic)),
            (vec!["Basic"], Some(Challenge::Basic)),
            (vec!["Negotiate"], None),
            (vec!["Bearer service=x"], None),
            (vec![r#"Bearer realm="unterminated"#], bearer("unterminated", None, None)),
            (vec![""], None),
        ] {
            assert_eq!(Challenge::parse(headers.iter().copied()), challenge, "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_panic(header in "(Bearer |Basic )?[a-z=\",\\\\é ]{0,60}") {
            let _challenge = Challenge::parse([header.as_str()].into_iter());
        }
    }

    #[test]
    fn tokens_that_would_end_a_header_are_refused() {
        let answer: TokenAnswer = serde_json::from_str(r#"{"token":"a\r\nX: y"}"#).expect("json");
        assert!(answer.into_header().is_none());
        let answer: TokenAnswer = serde_json::from_str(r#"{"token":"","access_token":"t","expires_in":300}"#).expect("json");
        assert_eq!(answer.into_header(), Some(("Bearer t".into(), Duration::from_secs(290))));
    }
}

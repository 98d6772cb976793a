//! Answers to challenges: the credentials of a host, and the tokens that its token server gives for them (`features.md` F3).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};

use super::auth::{self, Challenge, TokenAnswer};
use super::client::{Registry, lock};
use super::request::{Failure, config_error, network_error, protocol_error};
use super::transport::reason;
use super::{Credentials, Endpoint, RegistryError};

/// How long a password or a given token is sent without being asked for again.
const GIVEN_VALID: Duration = Duration::from_secs(3600);

/// `Authorization` values by host and scopes. A password is for all scopes of its host.
#[derive(Debug, Default)]
pub(super) struct TokenCache {
    known: Mutex<HashMap<(String, String), (String, Instant)>>,
}

impl TokenCache {
    pub(super) fn get(&self, host: &str, scopes: &[String]) -> Option<String> {
        let known = lock(&self.known);
        let valid = |scopes: String| known.get(&(host.to_owned(), scopes)).filter(|(_, until)| *until > Instant::now());
        valid(scopes.join(" ")).or_else(|| valid(String::new())).map(|(header, _)| header.clone())
    }

    fn put(&self, host: &str, scopes: &[String], header: String, valid: Duration) {
        lock(&self.known).insert((host.to_owned(), scopes.join(" ")), (header, Instant::now() + valid));
    }

    pub(super) fn forget(&self, host: &str, scopes: &[String]) {
        let mut known = lock(&self.known);
        known.remove(&(host.to_owned(), scopes.join(" ")));
        known.remove(&(host.to_owned(), String::new()));
    }
}

impl Registry {
    /// The header that answers `challenge` of the registry at `base`, remembered for `scopes`; none if there is nothing to answer with.
    pub(super) async fn authorize(
        &self,
        endpoint: &Endpoint,
        base: &Url,
        challenge: &Challenge,
        scopes: &[String],
    ) -> Result<Option<String>, Failure> {
        let credentials = self.credentials_of(&endpoint.name).await.map_err(Failure::never)?;
        let given = match (challenge, &credentials) {
            (Challenge::Basic, Credentials::Password { username, password }) => auth::basic(username, password),
            (Challenge::Basic, _) => return Ok(None),
            (Challenge::Bearer { .. }, Credentials::RegistryToken(token)) => format!("Bearer {token}"),
            (Challenge::Bearer { realm, service, scope }, _) => {
                // The registry knows best what it wants; what is needed beyond it (a second repository) is asked for as well.
                let mut asked: Vec<&str> = scope.iter().flat_map(|scope| scope.split(' ')).filter(|scope| !scope.is_empty()).collect();
                asked.extend(scopes.iter().map(String::as_str));
                let mut seen = Vec::new();
                asked.retain(|scope| {
                    !seen.contains(scope) && {
                        seen.push(*scope);
                        true
                    }
                });
                let (header, valid) = self.token(endpoint, base, realm, service.as_deref(), &asked, &credentials).await?;
                self.tokens.put(&endpoint.host, scopes, header.clone(), valid);
                return Ok(Some(header));
            }
        };
        self.tokens.put(&endpoint.host, &[], given.clone(), GIVEN_VALID);
        Ok(Some(given))
    }

    async fn token(
        &self,
        endpoint: &Endpoint,
        base: &Url,
        realm: &str,
        service: Option<&str>,
        scopes: &[&str],
        credentials: &Credentials,
    ) -> Result<(String, Duration), Failure> {
        let mut url =
            Url::parse(realm).map_err(|e| Failure::never(protocol_error(&endpoint.host, format!("with a token server that is no URL: {e}"))))?;
        self.allow(endpoint, base, &url, "asks for a token from").map_err(Failure::never)?;
        let client = self.client(endpoint, url.scheme() == "http").map_err(Failure::never)?;
        let request = match credentials {
            Credentials::IdentityToken(token) => {
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                form.append_pair("grant_type", "refresh_token").append_pair("client_id", "rbuild").append_pair("refresh_token", token);
                form.append_pair("service", service.unwrap_or("")).append_pair("scope", &scopes.join(" "));
                client.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.finish())
            }
            _ => {
                if let Some(service) = service {
                    url.query_pairs_mut().append_pair("service", service);
                }
                for scope in scopes {
                    url.query_pairs_mut().append_pair("scope", scope);
                }
                match credentials {
                    Credentials::Password { username, password } => client.get(url).header(AUTHORIZATION, auth::basic(username, password)),
                    _ => client.get(url),
                }
            }
        };
        let response = self
            .in_time(endpoint, request.send())
            .await?
            .map_err(|e| Failure::later(network_error(&endpoint.host, format!("its token server: {}", reason(&e)))))?;
        if !response.status().is_success() {
            let mut failure = self.failure_of(endpoint, response).await;
            // Nothing else is missing but the token.
            if matches!(failure.error, RegistryError::NotFound) {
                failure.error = protocol_error(&endpoint.host, "404 Not Found where it says its token server is".into());
            }
            return Err(failure);
        }
        let body = match self.read_bounded(response, self.config.limits.token(), &endpoint.host, "a token").await {
            Ok(body) => body,
            Err(error @ RegistryError::Network { .. }) => return Err(Failure::later(error)),
            Err(error) => return Err(Failure::never(error)),
        };
        let answer: TokenAnswer =
            serde_json::from_slice(&body).map_err(|_| Failure::never(protocol_error(&endpoint.host, "with a token that is no JSON".into())))?;
        answer.into_header().ok_or_else(|| Failure::never(protocol_error(&endpoint.host, "without a token".into())))
    }

    async fn credentials_of(&self, name: &str) -> Result<Credentials, RegistryError> {
        let mut known = self.known_credentials.lock().await;
        if let Some(credentials) = known.get(name) {
            return Ok(credentials.clone());
        }
        let (provider, host) = (Arc::clone(&self.credentials), name.to_owned());
        let found = tokio::task::spawn_blocking(move || provider.credentials(&host)).await.unwrap_or_else(|e| Err(e.to_string()));
        let found = found.map_err(|detail| config_error(name, &detail))?;
        known.insert(name.to_owned(), found.clone());
        Ok(found)
    }
}

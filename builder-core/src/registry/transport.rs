//! HTTP clients and what every request needs around them: TLS, proxies, time limits, and where a server may send us.
//!
//! The one place that makes a `reqwest::Client`; registries and the web's files ([`crate::source::http`]) use the same.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant, SystemTime};

use reqwest::{Client, Url};
use rustls::ClientConfig;
use url::Host;

use super::{RegistryConfig, RetryPolicy};

/// A client that speaks TLS as `tls` says, with the proxies and the patience of `config`. It never tries again by itself and reads no
/// environment.
pub(crate) fn client(tls: ClientConfig, config: &RegistryConfig, redirects: reqwest::redirect::Policy) -> Result<Client, String> {
    let retry = &config.retry;
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirects)
        .retry(reqwest::retry::never())
        .no_proxy()
        .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(retry.connect_timeout)
        .read_timeout(retry.idle_timeout);
    let proxy = &config.proxy;
    let no_proxy = || reqwest::NoProxy::from_string(&format!("localhost,127.0.0.0/8,::1,{}", proxy.no_proxy));
    let given = |address: &Option<String>| address.clone().filter(|address| !address.is_empty());
    // Addresses may hold passwords: the error must not repeat them.
    let bad = |_| "its proxy's address is no URL".to_owned();
    if let Some(address) = given(&proxy.http) {
        builder = builder.proxy(reqwest::Proxy::http(address).map_err(bad)?.no_proxy(no_proxy()));
    }
    if let Some(address) = given(&proxy.https) {
        builder = builder.proxy(reqwest::Proxy::https(address).map_err(bad)?.no_proxy(no_proxy()));
    }
    builder.build().map_err(|error| reason(&error))
}

/// Why a request failed, in a few words: the innermost cause, without the address (which the message has anyway, and which may hold a
/// token).
pub(crate) fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not answer in time".into();
    }
    let mut text = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    if text.is_empty() { "the request failed".into() } else { text }
}

/// Bytes that have to come within each `idle_timeout`: less is no download, however regularly it drips.
const TRICKLE_BYTES: u64 = 4 * 1024;

/// Watches that a body comes along.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// When the bytes of the current window began to be counted, and where.
    window: (Instant, u64),
}

impl Pace {
    /// Begins to count at `offset`.
    pub(crate) fn from(offset: u64) -> Self {
        Self { window: (Instant::now(), offset) }
    }

    /// Whether a whole window passed with hardly a byte, now that `offset` is reached.
    pub(crate) fn is_a_trickle(&mut self, offset: u64, policy: &RetryPolicy) -> bool {
        let (since, from) = self.window;
        if since.elapsed() < policy.idle_timeout {
            return false;
        }
        self.window = (Instant::now(), offset);
        offset - from < TRICKLE_BYTES
    }
}

/// How long to wait before another try: what the server asked for, else longer with every failure (the first is number 0).
pub(crate) fn pause(policy: &RetryPolicy, failures: u32, asked: Option<Duration>) -> Duration {
    asked.unwrap_or_else(|| policy.first_wait.saturating_mul(1 << failures.min(16))).min(policy.longest_wait)
}

/// Reads `Retry-After`: seconds, or a date.
pub(crate) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        // A date that is over asks for no wait.
        Err(_) => http_date(text.trim()).map(|date| date.duration_since(now).unwrap_or_default()),
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) fn http_date(text: &str) -> Option<SystemTime> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok().map(SystemTime::from)
}

/// Whether a server reached at `from` may send us to `to`, by a redirect or as its token server. A server from elsewhere must not make us
/// talk to what listens on this machine or to the cloud's metadata service, nor take away TLS. None if it may; else why not.
pub(crate) fn objection(from: &Url, to: &Url) -> Option<&'static str> {
    if !matches!(to.scheme(), "http" | "https") {
        return Some("which is no web address");
    }
    if is_own(to) && !is_own(from) {
        return Some("which only this machine could mean");
    }
    // Names of this machine are as safe without TLS.
    if from.scheme() == "https" && to.scheme() == "http" && !is_own(to) {
        return Some("which is without TLS");
    }
    None
}

/// Whether an address is this machine's own: loopback, link-local, or unspecified.
fn is_own(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => is_own_address(address.into()),
        Some(Host::Ipv6(address)) => is_own_address(address.into()),
        None => false,
    }
}

fn is_own_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local() || address.is_unspecified(),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => is_own_address(mapped.into()),
            None => address.is_loopback() || address.is_unspecified() || is_link_local(address),
        },
    }
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f12_waits_grow_and_obey_the_server_within_bounds() {
        let policy = RetryPolicy::default();
        let seconds = |failures, asked: Option<u64>| pause(&policy, failures, asked.map(Duration::from_secs)).as_secs();
        assert_eq!([0, 1, 2, 3].map(|n| seconds(n, None)), [1, 2, 4, 8]);
        assert_eq!(seconds(1000, None), 60);
        assert_eq!((seconds(0, Some(0)), seconds(5, Some(7)), seconds(0, Some(86_400))), (0, 7, 60));
    }

    #[test]
    fn f12_retry_after_is_seconds_or_a_date() {
        let now = http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("date");
        for (text, seconds) in
            [("7", Some(7)), (" 0 ", Some(0)), ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)), ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0))]
        {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
        for text in ["", "-1", "soon", "1.5", "99999999999999999999999"] {
            assert_eq!(retry_after(text, now), None, "{text}");
        }
    }

    #[test]
    fn servers_from_elsewhere_cannot_send_us_home() {
        let url = |text: &str| Url::parse(text).expect("url");
        for (from, to, allowed) in [
            ("https://r.example", "https://cdn.example/x", true),
            ("https://r.example", "http://cdn.example/x", false),
            ("http://r.example", "http://cdn.example/x", true),
            ("http://r.example", "https://cdn.example/x", true),
            ("http://10.0.0.1:5000", "http://10.0.0.2/x", true),
            ("https://r.example", "ftp://cdn.example/x", false),
            ("https://r.example", "file:///etc/passwd", false),
            ("http://127.0.0.1:5000", "http://127.0.0.1:6000/", true),
            ("https://127.0.0.1:5000", "http://localhost/", true),
            ("http://r.example", "http://127.0.0.1/", false),
            ("http://r.example", "http://2130706433/", false),
            ("http://r.example", "http://0x7f.1/", false),
            ("http://r.example", "http://localhost:80/", false),
            ("http://r.example", "http://a.localhost./", false),
            ("http://r.example", "http://[::1]/", false),
            ("http://r.example", "http://[::ffff:127.0.0.1]/", false),
            ("http://r.example", "http://[fe80::1]/", false),
            ("http://r.example", "http://0.0.0.0/", false),
            ("http://r.example", "http://169.254.169.254/latest/meta-data/", false),
        ] {
            assert_eq!(objection(&url(from), &url(to)).is_none(), allowed, "{from} to {to}");
        }
    }
}

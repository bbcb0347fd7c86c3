//! HTTP requests of agents: allowed hosts only, with secrets that agents never see.
//!
//! Owns: the limits of a request, where it may go, redirects.  [`allow`] holds the list of hosts,
//! [`secret`] the secrets.  Not: when an agent may ask; its shard sends the errand.
//! H1  a request goes to a host of `http.allow` and nowhere else, redirects included.
//! H2  a secret goes into headers on this side only, is taken out of what comes back, and does not
//!     follow a redirect to another origin.
//! H3  one request takes at most the agents' call time-out and a bounded number of bytes.

mod allow;
mod secret;

use allow::Allow;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use heronry_engine::Refusal;
use heronry_engine::config::Config;
use reqwest::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Client, Method, StatusCode, Url};
use secret::Secrets;
use serde::{Deserialize, Serialize};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Requests under way at a time; one more is refused.
const OPEN_MAX: usize = 256;
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// Longest URL in bytes.
const URL_BYTES_MAX: usize = 8 << 10;
/// What the host decides: the framing, and whom a request is for.
const OURS: [&str; 7] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "te",
    "idempotency-key",
];

/// What one request may take (H3).
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    body_bytes_max: usize,
    wait_max: Duration,
}

impl Limits {
    pub(super) fn of(config: &Config) -> Limits {
        // Bytes that are no text take a third more in the reply, which must fit a payload.
        let body_bytes_max = config.net.payload_bytes_max / 2;
        Limits {
            body_bytes_max: usize::try_from(body_bytes_max).unwrap_or(usize::MAX),
            wait_max: Duration::from_millis(u64::from(config.agents.call_timeout_ms)),
        }
    }
}

/// A request as an agent writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default = "get")]
    method: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    body_base64: Option<String>,
    /// Names of the secrets that its headers use.
    #[serde(default)]
    secrets: Vec<String>,
}

fn get() -> String {
    "GET".to_owned()
}

/// A response as an agent gets it.
#[derive(Debug, Serialize)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// Sends requests for the agents of all shards.
pub(super) struct Http {
    allow: Allow,
    secrets: Secrets,
    limits: Limits,
    open: Semaphore,
    /// Made for the first request: it reads the host's certificates.
    client: OnceCell<Client>,
}

/// A request that may be sent.
struct Checked {
    method: Method,
    url: Url,
    headers: HeaderMap,
    /// Names of the headers that hold secrets.
    secret_headers: Vec<HeaderName>,
    body: Bytes,
    /// Values that must not come back, and what stands for each.
    hidden: Vec<(String, String)>,
}

impl Http {
    pub(super) fn new(allow: &str, secrets_file: Option<PathBuf>, limits: Limits) -> Http {
        Http {
            allow: Allow::new(allow),
            secrets: Secrets::new(secrets_file),
            limits,
            open: Semaphore::new(OPEN_MAX),
            client: OnceCell::new(),
        }
    }

    /// Sends a request; the response as JSON.
    pub(super) async fn perform(
        &self,
        request: &[u8],
        idempotency: &str,
    ) -> Result<Bytes, Refusal> {
        let Ok(_open) = self.open.try_acquire() else {
            let (count, what) = (OPEN_MAX as u64, "the list of HTTP requests".into());
            return Err(Refusal::Busy { what, count, count_max: count });
        };
        let checked = self.check(request, idempotency)?;
        let host = checked.url.host_str().unwrap_or_default().to_owned();
        match timeout(self.limits.wait_max, self.exchange(checked)).await {
            Ok(answer) => answer,
            Err(_) => {
                let ms = self.limits.wait_max.as_millis();
                let reason = format!("no whole response within agents.call_timeout_ms = {ms}");
                Err(Refusal::Http { host, reason })
            }
        }
    }

    fn check(&self, request: &[u8], idempotency: &str) -> Result<Checked, Refusal> {
        let wanted: Wanted = serde_json::from_slice(request)
            .map_err(|error| bad("the request", error, "JSON as docs/guest-abi.md describes it"))?;
        let method = Method::from_bytes(wanted.method.as_bytes());
        let method = method.ok().filter(|method| *method != Method::CONNECT);
        let allowed = "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS";
        let method =
            method.ok_or_else(|| bad("method", format!("{:?}", wanted.method), allowed))?;
        if wanted.url.len() > URL_BYTES_MAX {
            let allowed = format!("at most {URL_BYTES_MAX} bytes");
            return Err(bad("url", format!("{} bytes long", wanted.url.len()), allowed));
        }
        let url: Url =
            wanted.url.parse().map_err(|error| bad("url", error, "http://host/path or https"))?;
        self.allow.check(&url)?;
        if wanted.headers.len() > HEADERS_MAX {
            let allowed = format!("at most {HEADERS_MAX}");
            return Err(bad("the number of headers", wanted.headers.len(), allowed));
        }
        let secrets = self.secrets.take(&wanted.secrets)?;
        let (mut headers, mut secret_headers) = (HeaderMap::new(), Vec::new());
        for (name, value) in &wanted.headers {
            let allowed = "a header name that the host does not set itself";
            let known: HeaderName = name.parse().map_err(|_| bad("header", name, allowed))?;
            if OURS.contains(&known.as_str()) || known.as_str().starts_with("proxy-") {
                return Err(bad("header", name, allowed));
            }
            let (value, secret) = secret::fill(value, &secrets)?;
            // The value may hold a secret, so it is not told.
            let allowed = "visible ASCII in one line";
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| bad("the value of header", name, allowed))?;
            value.set_sensitive(secret);
            if secret {
                secret_headers.push(known.clone());
            }
            headers.insert(known, value);
        }
        if let Ok(value) = HeaderValue::from_str(idempotency) {
            headers.insert("idempotency-key", value);
        }
        let body = body_of(wanted.body, wanted.body_base64)?;
        let hidden = secrets.into_iter().map(|(name, value)| (value, secret::place(&name)));
        Ok(Checked { method, url, headers, secret_headers, body, hidden: hidden.collect() })
    }

    /// Sends a request, follows redirects (H1, H2), and reads the response.
    async fn exchange(&self, mut checked: Checked) -> Result<Bytes, Refusal> {
        for _ in 0..=REDIRECTS_MAX {
            let host = checked.url.host_str().unwrap_or_default().to_owned();
            // The error's own text would name the URL, and a query may hold anything.
            let failed = |error: reqwest::Error| Refusal::Http {
                host: host.clone(),
                reason: reason_of(&error.without_url()),
            };
            let request = self.client()?.request(checked.method.clone(), checked.url.clone());
            let request = request.headers(checked.headers.clone()).body(checked.body.clone());
            let response = request.send().await.map_err(failed)?;
            match redirect(&response) {
                Some(to) => self.turn(&mut checked, response.status(), &to)?,
                None => return self.read(response, &checked.hidden, &host).await,
            }
        }
        let host = checked.url.host_str().unwrap_or_default().to_owned();
        let reason = format!("more than {REDIRECTS_MAX} redirects");
        Err(Refusal::Http { host, reason })
    }

    /// Turns the request to where a redirect points.
    fn turn(&self, checked: &mut Checked, status: StatusCode, to: &str) -> Result<(), Refusal> {
        let host = || checked.url.host_str().unwrap_or_default().to_owned();
        let unread = |_| Refusal::Http { host: host(), reason: "a redirect to no URL".to_owned() };
        let url = checked.url.join(to).map_err(unread)?;
        self.allow.check(&url)?;
        if url.origin() != checked.url.origin() {
            for name in checked.secret_headers.drain(..).chain([AUTHORIZATION, COOKIE]) {
                checked.headers.remove(name);
            }
        }
        let kept = [StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT];
        if !kept.contains(&status) && checked.method != Method::HEAD {
            checked.method = Method::GET;
            checked.body = Bytes::new();
            checked.headers.remove("content-type");
        }
        checked.url = url;
        Ok(())
    }

    /// The response as the agent gets it (H2, H3).
    async fn read(
        &self,
        mut response: reqwest::Response,
        hidden: &[(String, String)],
        host: &str,
    ) -> Result<Bytes, Refusal> {
        let mut headers = BTreeMap::<String, String>::new();
        for (name, value) in response.headers() {
            let value = secret::hide(value.as_bytes(), hidden);
            let value = String::from_utf8_lossy(&value);
            headers
                .entry(name.as_str().to_owned())
                .and_modify(|all| *all = format!("{all}, {value}"))
                .or_insert_with(|| value.into_owned());
        }
        let mut body = Vec::new();
        let limit = self.limits.body_bytes_max;
        loop {
            let chunk = response.chunk().await.map_err(|error| Refusal::Http {
                host: host.to_owned(),
                reason: reason_of(&error.without_url()),
            })?;
            let Some(chunk) = chunk else { break };
            if body.len() + chunk.len() > limit {
                return Err(Refusal::Limit {
                    what: "the response's body in bytes".into(),
                    value: (body.len() + chunk.len()) as u64,
                    limit: limit as u64,
                    remedy: "ask for less, or raise net.payload_bytes_max, of which it is half"
                        .into(),
                });
            }
            body.extend_from_slice(&chunk);
        }
        let body = secret::hide(&body, hidden).into_owned();
        let (text, bytes) = match String::from_utf8(body) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(BASE64.encode(error.as_bytes()))),
        };
        let status = response.status().as_u16();
        let answer = Answer { status, headers, body: text, body_base64: bytes };
        let json = serde_json::to_vec(&answer).expect("H3: an answer is texts and a number");
        Ok(json.into())
    }

    fn client(&self) -> Result<&Client, Refusal> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // Redirects are followed here, where the list is (H1); a proxy would see every request.
        let made = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("heronry/", env!("CARGO_PKG_VERSION")))
            .build();
        let made = made.map_err(|error| Refusal::Http {
            host: "any host".to_owned(),
            reason: reason_of(&error),
        })?;
        Ok(self.client.get_or_init(|| made))
    }
}

fn body_of(text: Option<String>, base64: Option<String>) -> Result<Bytes, Refusal> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into()),
        (None, Some(encoded)) => {
            let allowed = "base64 with padding";
            let decoded = BASE64.decode(&encoded).map_err(|e| bad("body_base64", e, allowed))?;
            Ok(decoded.into())
        }
        (None, None) => Ok(Bytes::new()),
        (Some(_), Some(_)) => Err(bad("body", "given twice", "body or body_base64")),
    }
}

/// Where a response points instead of answering.
fn redirect(response: &reqwest::Response) -> Option<String> {
    let follow = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let to = response.headers().get(LOCATION).filter(|_| follow)?;
    to.to_str().ok().map(str::to_owned)
}

/// The whole chain of an error: the outermost says little.
fn reason_of(error: &reqwest::Error) -> String {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    reason
}

fn bad(
    what: &'static str,
    value: impl std::fmt::Display,
    allowed: impl Into<std::borrow::Cow<'static, str>>,
) -> Refusal {
    Refusal::BadValue { what: what.into(), value: value.to_string(), allowed: allowed.into() }
}

#[cfg(test)]
mod tests;

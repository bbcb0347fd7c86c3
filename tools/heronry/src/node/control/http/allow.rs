//! The hosts that agents may send requests to, as `http.allow` lists them.
//!
//! Owns: matching a URL against the list.  Not: the list's grammar, which the config checks.
//! A1  an entry without a port means the port of the URL's scheme; `*.` means any name below.
//! A2  a refusal names the host and the key to set.

use super::bad;
use heronry_engine::Refusal;
use reqwest::Url;

/// The list.
pub(super) struct Allow(Vec<Entry>);

struct Entry {
    /// Lower case, without brackets and `*`; begins with a dot when any name below is meant.
    host: String,
    port: Option<u16>,
}

impl Allow {
    pub(super) fn new(list: &str) -> Allow {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Allow(entries.map(Entry::new).collect())
    }

    /// Whether a request may go there.
    pub(super) fn check(&self, url: &Url) -> Result<(), Refusal> {
        let usual = match url.scheme() {
            "http" => 80,
            "https" => 443,
            other => return Err(bad("the URL's scheme", other, "http, https")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("url", "one with a user name", "a URL without; use a header"));
        }
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_lowercase();
        let port = url.port().unwrap_or(usual);
        if self.0.iter().any(|entry| entry.matches(&host, port, usual)) {
            return Ok(());
        }
        let place = if port == usual { host } else { format!("{host}:{port}") };
        let remedy = match self.0.is_empty() {
            true => "no host is: set http.allow to those that agents may ask",
            false => "add it to http.allow if agents may ask it",
        };
        // A2
        Err(Refusal::NotAllowed {
            what: format!("an HTTP request to {place}").into(),
            remedy: remedy.into(),
        })
    }
}

impl Entry {
    fn new(text: &str) -> Entry {
        let ported = text.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
        let (host, port) = match ported {
            Some((host, port)) => (host, port.parse().ok()),
            None => (text, None),
        };
        let host = host.strip_prefix('*').unwrap_or(host).trim_matches(['[', ']']);
        // An address has many spellings; the URL's is the standard one.
        let address = host.parse::<std::net::IpAddr>().map(|address| address.to_string());
        Entry { host: address.unwrap_or_else(|_| host.to_lowercase()), port }
    }

    fn matches(&self, host: &str, port: u16, usual: u16) -> bool {
        let named = match self.host.starts_with('.') {
            true => host.len() > self.host.len() && host.ends_with(&self.host),
            false => host == self.host,
        };
        named && port == self.port.unwrap_or(usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a1_hosts_ports_and_stars() {
        let allow = Allow::new("api.example.com, localhost:8080,*.Example.org,[::1]:80,10.0.0.1");
        let check = |url: &str| allow.check(&url.parse().unwrap()).is_ok();
        for good in [
            "https://api.example.com/v1?q=1",
            "http://API.example.com",
            "http://localhost:8080/",
            "https://a.example.org",
            "https://a.b.example.org:443",
            "http://[::1]/",
            "http://[0:0::1]:80/",
            "http://10.0.0.1/",
            "http://0xa.0.0.1/",
        ] {
            assert!(check(good), "{good}");
        }
        for bad in [
            "https://api.example.com:8443",
            "https://api.example.com.evil.net",
            "https://evil-api.example.com",
            "http://localhost",
            "https://localhost:8081",
            "https://example.org",
            "https://evilexample.org",
            "http://api.example.com@evil.net/",
            "http://user:pass@api.example.com/",
            "ftp://api.example.com/",
            "file:///etc/passwd",
            "http://10.0.0.10/",
        ] {
            assert!(!check(bad), "{bad}");
        }
    }

    #[test]
    fn a2_a_refusal_names_the_host_and_the_key() {
        let refusal = |list| Allow::new(list).check(&"https://b.net".parse().unwrap()).unwrap_err();
        assert_eq!(refusal("").code(), "NOTALLOWED");
        for list in ["", "a.net"] {
            let text = refusal(list).to_string();
            assert!(text.contains("b.net") && text.contains("http.allow"), "{text}");
        }
    }
}

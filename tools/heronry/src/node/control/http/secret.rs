//! Secrets: values that go into headers of requests and are seen by nobody else.
//!
//! Owns: reading the file of secrets, filling them in, taking them out of what comes back.
//! Not: which hosts get them (`allow.rs`).
//! S1  a file that others than its owner can read is refused.
//! S2  only the secrets that a request lists are filled in; no text of ours holds a value.
//! S3  what comes back has the place `{{secret:NAME}}` where it had the value.

use super::bad;
use heronry_engine::Refusal;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const OPEN: &str = "{{secret:";
const CLOSE: &str = "}}";
/// Longest file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where secrets come from. The file is read for each request that needs one, so that a changed
/// secret needs no restart.
pub(super) struct Secrets(Option<PathBuf>);

impl Secrets {
    pub(super) fn new(file: Option<PathBuf>) -> Secrets {
        Secrets(file)
    }

    /// The values of these names (S2).
    pub(super) fn take(&self, names: &[String]) -> Result<BTreeMap<String, String>, Refusal> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let Some(file) = &self.0 else {
            return Err(Refusal::NotAllowed {
                what: "a request with secrets".into(),
                remedy: "set http.secrets_file to a file of them".into(),
            });
        };
        let all = read(file)?;
        let value = |name: &String| match all.get(name.as_str()) {
            Some(value) => Ok((name.clone(), value.clone())),
            None => Err(bad("a secret's name", format!("{name:?}"), "one of http.secrets_file")),
        };
        names.iter().map(value).collect()
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, String>, Refusal> {
    let refuse = |remedy: String| Refusal::NotAllowed {
        what: "a request with secrets".into(),
        remedy: format!("http.secrets_file {}: {remedy}", path.display()).into(),
    };
    let file = File::open(path).map_err(|error| refuse(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| refuse(error.to_string()))?;
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        return Err(refuse(format!("others can read it (mode {mode:03o}); make that chmod 600")));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| refuse(error.to_string()))?;
    // The parser's own words would show the line, and with it the secret (S2).
    let wrong = || refuse("it must hold lines of the form name = \"value\"".to_owned());
    let table = text.parse::<toml_edit::DocumentMut>().map_err(|_| wrong())?;
    let value = |(name, item): (&str, &toml_edit::Item)| {
        let value = item.as_str().filter(|value| !value.is_empty()).ok_or_else(wrong)?;
        Ok((name.to_owned(), value.to_owned()))
    };
    table.iter().map(value).collect()
}

/// What stands for a secret.
pub(super) fn place(name: &str) -> String {
    format!("{OPEN}{name}{CLOSE}")
}

/// The text with secrets in their places, and whether it has any.
pub(super) fn fill(
    text: &str,
    secrets: &BTreeMap<String, String>,
) -> Result<(String, bool), Refusal> {
    let (mut filled, mut rest, mut any) = (String::new(), text, false);
    while let Some((before, after)) = rest.split_once(OPEN) {
        filled.push_str(before);
        let Some((name, behind)) = after.split_once(CLOSE) else {
            return Err(bad("a header's secret", "without its end", "{{secret:NAME}}"));
        };
        let Some(value) = secrets.get(name) else {
            let allowed = "a name that the request's `secrets` lists";
            return Err(bad("a header's secret", format!("{name:?}"), allowed));
        };
        filled.push_str(value);
        (rest, any) = (behind, true);
    }
    filled.push_str(rest);
    Ok((filled, any))
}

/// The bytes without the values of `hidden` (S3).
pub(super) fn hide<'b>(bytes: &'b [u8], hidden: &[(String, String)]) -> Cow<'b, [u8]> {
    let mut shown = Cow::Borrowed(bytes);
    for (value, place) in hidden {
        let mut at = 0;
        while let Some(found) = memchr::memmem::find(&shown[at..], value.as_bytes()) {
            let start = at + found;
            shown.to_mut().splice(start..start + value.len(), place.bytes());
            at = start + place.len();
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn secrets() -> BTreeMap<String, String> {
        [("key", "v4lue"), ("other", "x y")].map(|(n, v)| (n.to_owned(), v.to_owned())).into()
    }

    #[test]
    fn s2_places_are_filled_with_listed_secrets_only() {
        let filled = |text| fill(text, &secrets());
        assert_eq!(filled("Bearer {{secret:key}}"), Ok(("Bearer v4lue".into(), true)));
        assert_eq!(filled("{{secret:key}}{{secret:other}}."), Ok(("v4luex y.".into(), true)));
        assert_eq!(filled("plain {{x}}"), Ok(("plain {{x}}".into(), false)));
        for bad in ["{{secret:none}}", "{{secret:key", "{{secret:}}", "{{secret: key}}"] {
            let refusal = filled(bad).unwrap_err();
            assert!(!refusal.to_string().contains("v4lue"), "{refusal}");
        }
    }

    #[test]
    fn s3_values_are_taken_out() {
        let hidden: Vec<_> = secrets().into_iter().map(|(n, v)| (v, place(&n))).collect();
        let hide = |text: &str| String::from_utf8(hide(text.as_bytes(), &hidden).into()).unwrap();
        assert_eq!(hide("v4luev4lue x y"), "{{secret:key}}{{secret:key}} {{secret:other}}");
        assert_eq!(hide("nothing"), "nothing");
    }

    #[test]
    fn s1_a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.toml");
        let write = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let take = |name: &str| Secrets::new(Some(path.clone())).take(&[name.to_owned()]);
        write("key = \"v4lue\"\n", 0o600);
        assert_eq!(take("key").unwrap()["key"], "v4lue");
        assert_eq!(take("none").unwrap_err().code(), "BADVALUE");
        write("key = \"v4lue\"\n", 0o640);
        let text = take("key").unwrap_err().to_string();
        assert!(text.contains("mode 640") && text.contains("chmod 600"), "{text}");
        for broken in ["key = v4lue\n", "key = 4\n", "key = \"\"\n", "[v4lue]\n"] {
            write(broken, 0o600);
            let text = take("key").unwrap_err().to_string();
            assert!(text.contains("name = ") && !text.contains("v4lue"), "{text}");
        }
        let unset = Secrets::new(None).take(&["key".to_owned()]).unwrap_err().to_string();
        assert!(unset.contains("http.secrets_file"), "{unset}");
        assert_eq!(Secrets::new(None).take(&[]), Ok(BTreeMap::new()));
    }
}

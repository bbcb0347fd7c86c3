//! Requests of agents against servers on loopback: what leaves, what comes back, what is refused.
//!
//! Owns: H1 to H3.  Not: the list's matching and the file of secrets, tested where they are.
//! Every server answers what its test says and keeps what it was asked.

use super::*;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc::{Receiver, channel};

/// A server that answers each connection with the next of `answers`, and the requests that it got.
fn server(answers: Vec<Vec<u8>>) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (got, requests) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let (mut request, mut body_bytes) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let length = line.to_lowercase();
                if let Some(length) = length.strip_prefix("content-length:") {
                    body_bytes = length.trim().parse().unwrap();
                }
                request.push_str(&line);
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; body_bytes];
            reader.read_exact(&mut body).unwrap();
            request.push_str(&String::from_utf8_lossy(&body));
            got.send(request).unwrap();
            // A client that has read enough may be gone.
            let _ = reader.get_mut().write_all(&answer);
        }
    });
    (address, requests)
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn http(allow: &str, secrets: Option<PathBuf>) -> Http {
    let limits = Limits { body_bytes_max: 1000, wait_max: Duration::from_secs(20) };
    Http::new(allow, secrets, limits)
}

fn perform(http: &Http, request: Value) -> Result<Value, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let request = serde_json::to_vec(&request).unwrap();
    let reply = runtime.block_on(http.perform(&request, "id-1-2"))?;
    Ok(serde_json::from_slice(&reply).unwrap())
}

/// A file with the secret `key`.
fn secrets(folder: &tempfile::TempDir) -> Option<PathBuf> {
    let path = folder.path().join("secrets.toml");
    std::fs::write(&path, "key = \"s3cret\"\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    Some(path)
}

#[test]
fn h2_a_secret_leaves_in_its_header_and_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let echo = answer("201 Created\r\nx-echo: Bearer s3cret\r\nx-a: 1\r\nx-a: 2", b"you: s3cret");
    let (address, requests) = server(vec![echo]);
    let http = http(&address.to_string(), secrets(&folder));
    let reply = perform(
        &http,
        json!({
            "method": "POST", "url": format!("http://{address}/v1?q=1"), "body": "{}",
            "headers": {"authorization": "Bearer {{secret:key}}"}, "secrets": ["key"],
        }),
    );
    let request = requests.recv().unwrap();
    assert!(request.starts_with("POST /v1?q=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nauthorization: Bearer s3cret\r\n"), "{request}");
    assert!(request.contains("\r\nidempotency-key: id-1-2\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{}"), "{request}");
    let reply = reply.unwrap();
    assert_eq!((&reply["status"], &reply["body"]), (&json!(201), &json!("you: {{secret:key}}")));
    assert_eq!(reply["headers"]["x-echo"], "Bearer {{secret:key}}");
    assert_eq!(reply["headers"]["x-a"], "1, 2");
}

#[test]
fn h1_h2_redirects_stay_on_the_list_and_leave_secrets_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (second, seen) = server(vec![answer("200 OK", b"\xff\x00")]);
    let away = |to: &str| answer(&format!("303 See Other\r\nlocation: {to}"), b"");
    let (first, asked) = server(vec![
        away("/again"),
        away(&format!("http://{second}/end")),
        away("http://127.0.0.1:9/"),
    ]);
    let http = http(&format!("{first},{second}"), secrets(&folder));
    let request = json!({
        "method": "PUT", "url": format!("http://{first}/"), "body": "x",
        "headers": {"x-key": "{{secret:key}}", "x-plain": "y"}, "secrets": ["key"],
    });
    let reply = perform(&http, request.clone()).unwrap();
    assert_eq!((&reply["body"], &reply["body_base64"]), (&Value::Null, &json!("/wA=")));
    assert!(asked.recv().unwrap().starts_with("PUT / "));
    let again = asked.recv().unwrap();
    assert!(again.starts_with("GET /again ") && again.contains("x-key: s3cret"), "{again}");
    let end = seen.recv().unwrap();
    assert!(end.contains("x-plain: y") && !end.contains("s3cret"), "{end}");
    let refusal = perform(&http, request).unwrap_err();
    assert_eq!(refusal.code(), "NOTALLOWED");
    assert!(refusal.to_string().contains("127.0.0.1:9"), "{refusal}");
}

#[test]
fn h3_a_response_past_the_bound_is_refused() {
    let long = answer("200 OK", &[b'x'; 1001]);
    let (address, _requests) = server(vec![answer("200 OK", &[b'x'; 1000]), long]);
    let http = http(&address.to_string(), None);
    let request = json!({"url": format!("http://{address}/")});
    assert_eq!(perform(&http, request.clone()).unwrap()["body"].as_str().unwrap().len(), 1000);
    assert_eq!(perform(&http, request).unwrap_err().code(), "LIMIT");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let (address, _requests) = server(vec![b"nonsense\r\n\r\n".to_vec()]);
    let http = http(&format!("{address},127.0.0.1:1"), None);
    let refused = |url: String| perform(&http, json!({"url": url})).unwrap_err();
    for refusal in [refused("http://127.0.0.1:1/x".into()), refused(format!("http://{address}"))] {
        assert_eq!(refusal.code(), "HTTP");
        assert!(refusal.to_string().contains("127.0.0.1"), "{refusal}");
    }
}

#[test]
fn bad_requests_name_what_is_wrong() {
    let http = http("a.example", None);
    let url = "http://a.example/";
    for (request, code, text) in [
        (json!("x"), "BADVALUE", "the request is"),
        (json!({"url": "a.example"}), "BADVALUE", "url is"),
        (json!({"url": "http://b.example/"}), "NOTALLOWED", "b.example"),
        (json!({"url": url, "metod": "GET"}), "BADVALUE", "metod"),
        (json!({"url": url, "method": "A B"}), "BADVALUE", "method is"),
        (json!({"url": url, "method": "CONNECT"}), "BADVALUE", "method is"),
        (json!({"url": url, "headers": {"Host": "x"}}), "BADVALUE", "header is Host"),
        (json!({"url": url, "headers": {"a b": "x"}}), "BADVALUE", "header is a b"),
        (json!({"url": url, "headers": {"a": "x\r\ny: z"}}), "BADVALUE", "header is a"),
        (json!({"url": url, "headers": {"a": "{{secret:k}}"}}), "BADVALUE", "secret"),
        (json!({"url": url, "secrets": ["k"]}), "NOTALLOWED", "http.secrets_file"),
        (json!({"url": url, "body": "x", "body_base64": "eA=="}), "BADVALUE", "body is given"),
        (json!({"url": url, "body_base64": "?"}), "BADVALUE", "body_base64 is"),
    ] {
        let refusal = perform(&http, request.clone()).unwrap_err();
        assert_eq!(refusal.code(), code, "{request}: {refusal}");
        assert!(refusal.to_string().contains(text), "{request}: {refusal}");
    }
}

//! The codec held to its invariants: cuts, bounds, copies, round trips, malformed input.
//!
//! Owns: properties over generated streams, and the table of malformed ones.
//! Not: random garbage (`fuzz_codec.rs`), what commands mean.

use bytes::Bytes;
use heronry_net::resp::encode::encode_request;
use heronry_net::resp::{
    BIG_BULK_BYTES, Encoder, Protocol, ProtocolError, ReplyDecoder, ReplyLimits, RequestDecoder,
    RequestLimits, Value,
};
use proptest::prelude::*;

const LIMITS: RequestLimits = RequestLimits {
    arg_count_max: 16,
    bulk_bytes_max: 1 << 20,
    inline_bytes_max: 200,
    request_bytes_max: 2 << 20,
};

type Requests = Vec<Vec<Vec<u8>>>;

/// Decodes `chunks` in turn; requests, then the error that ended it.
fn decode<'c>(
    chunks: impl Iterator<Item = &'c [u8]>,
    limits: &RequestLimits,
) -> (Requests, Option<ProtocolError>) {
    let mut decoder = RequestDecoder::default();
    let mut requests = Vec::new();
    for chunk in chunks {
        let mut rest = chunk;
        while !rest.is_empty() {
            let step = match decoder.decode(rest, limits) {
                Ok(step) => step,
                Err(error) => return (requests, Some(error)),
            };
            if step.ready {
                requests.push(decoder.args(rest).iter().map(<[u8]>::to_vec).collect());
            } else {
                assert_eq!(step.consumed, rest.len(), "Q1: all is taken when nothing is ready");
            }
            rest = &rest[step.consumed..];
        }
    }
    (requests, None)
}

fn whole(bytes: &[u8]) -> (Requests, Option<ProtocolError>) {
    decode(std::iter::once(bytes), &LIMITS)
}

fn request() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6)
}

fn value() -> impl Strategy<Value = Value> {
    let text = "[ -~]{0,20}";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        any::<bool>().prop_map(Value::Boolean),
        any::<f64>()
            .prop_filter("NaN is not equal to itself", |n| !n.is_nan())
            .prop_map(Value::Double),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|b| Value::Bulk(Bytes::from(b))),
        text.prop_map(Value::Simple),
        ("[A-Z]{1,9}", text).prop_map(|(code, text)| Value::Error { code, text }),
        "-?[0-9]{1,40}".prop_map(Value::BigNumber),
        text.prop_map(|text| Value::Verbatim { format: *b"txt", text: Bytes::from(text) }),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Set),
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Push),
            prop::collection::vec((inner.clone(), inner), 0..4).prop_map(Value::Map),
        ]
    })
}

fn encode(out: &mut Vec<u8>, value: &Value, protocol: Protocol) {
    let mut encoder = Encoder::new(out, protocol);
    match value {
        Value::Null => encoder.null(),
        Value::Simple(text) => encoder.simple(text),
        Value::Error { code, text } => encoder.error(code, text),
        Value::Integer(number) => encoder.integer(*number),
        Value::Bulk(bytes) => encoder.bulk(bytes),
        Value::Boolean(value) => encoder.boolean(*value),
        Value::Double(number) => encoder.double(*number),
        Value::BigNumber(digits) => encoder.big_number(digits),
        Value::Verbatim { format, text } => encoder.verbatim(
            std::str::from_utf8(format).expect("ASCII"),
            std::str::from_utf8(text).expect("ASCII"),
        ),
        Value::Array(items) => {
            encoder.array(items.len());
            items.iter().for_each(|item| encode(out, item, protocol));
        }
        Value::Set(items) => {
            encoder.set(items.len());
            items.iter().for_each(|item| encode(out, item, protocol));
        }
        Value::Push(items) => {
            encoder.push(items.len());
            items.iter().for_each(|item| encode(out, item, protocol));
        }
        Value::Map(pairs) => {
            encoder.map(pairs.len());
            for (name, value) in pairs {
                encode(out, name, protocol);
                encode(out, value, protocol);
            }
        }
    }
}

/// What RESP2 makes of a value.
fn in_resp2(value: &Value) -> Value {
    let text = |text: String| Value::Bulk(Bytes::from(text));
    match value {
        Value::Boolean(value) => Value::Integer(i64::from(*value)),
        Value::Double(n) if n.is_infinite() => {
            text(if *n > 0.0 { "inf" } else { "-inf" }.to_owned())
        }
        Value::Double(number) => text(format!("{number:?}")),
        Value::BigNumber(digits) => text(digits.clone()),
        Value::Verbatim { text, .. } => Value::Bulk(text.clone()),
        Value::Array(items) | Value::Set(items) | Value::Push(items) => {
            Value::Array(items.iter().map(in_resp2).collect())
        }
        Value::Map(pairs) => {
            Value::Array(pairs.iter().flat_map(|(k, v)| [in_resp2(k), in_resp2(v)]).collect())
        }
        other => other.clone(),
    }
}

fn replies(chunks: &[&[u8]]) -> Result<Vec<Value>, ProtocolError> {
    let mut decoder = ReplyDecoder::new(ReplyLimits::default());
    let mut values = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        while let Some(value) = decoder.next_reply()? {
            values.push(value);
        }
    }
    assert!(!decoder.unfinished(), "P1: nothing is left");
    Ok(values)
}

proptest! {
    // A failure prints its smallest input, which becomes a test of its own.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn p1_requests_come_back_as_encoded(requests in prop::collection::vec(request(), 1..6)) {
        let mut bytes = Vec::new();
        for request in &requests {
            encode_request(&mut bytes, &request.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        prop_assert_eq!(whole(&bytes), (requests, None));
    }

    #[test]
    fn p1_requests_cut_anywhere_are_the_same(
        requests in prop::collection::vec(request(), 1..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut bytes = Vec::new();
        for request in &requests {
            encode_request(&mut bytes, &request.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
        prop_assert_eq!(decode(chunks, &LIMITS), (requests, None));
    }

    #[test]
    fn p1_replies_come_back_as_encoded(
        values in prop::collection::vec(value(), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = Vec::new();
        values.iter().for_each(|value| encode(&mut bytes, value, Protocol::Resp3));
        let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
        prop_assert_eq!(replies(&[head, tail]).expect("well formed"), values.clone());
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(replies(&single).expect("well formed"), values);
    }

    #[test]
    fn resp2_falls_back_type_by_type(value in value()) {
        let mut bytes = Vec::new();
        encode(&mut bytes, &value, Protocol::Resp2);
        prop_assert_eq!(replies(&[&bytes]).expect("well formed"), vec![in_resp2(&value)]);
    }

    #[test]
    fn inline_words_survive_quoting(words in prop::collection::vec(
        prop::collection::vec(any::<u8>(), 0..8), 1..4,
    )) {
        let mut line = Vec::new();
        for word in &words {
            line.push(b'"');
            for byte in word {
                line.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
            }
            line.extend_from_slice(b"\" ");
        }
        line.extend_from_slice(b"\r\n");
        prop_assert_eq!(whole(&line), (vec![words], None));
    }
}

#[test]
fn p1_every_cut_of_a_mixed_stream_gives_the_same() {
    let mut bytes = Vec::new();
    encode_request(&mut bytes, &[b"AGENT.SEND", b"counter/a", b"1"]);
    bytes.extend_from_slice(b"PING \"a b\"\r\n\r\n*0\r\n*-1\r\nset 'it\\'s' \"\\n\\x41\" x\n");
    encode_request(&mut bytes, &[b"ECHO", b"", b"\r\n*1\r\n"]);
    let expected = whole(&bytes);
    assert_eq!(expected.1, None);
    for cut in 0..=bytes.len() {
        let (head, tail) = bytes.split_at(cut);
        assert_eq!(decode([head, tail].into_iter(), &LIMITS), expected, "cut at {cut}");
    }
    assert_eq!(decode(bytes.chunks(1), &LIMITS), expected, "byte by byte");
}

#[test]
fn p3_a_big_payload_is_cut_anywhere_and_copied_once() {
    let payload: Vec<u8> = (0..BIG_BULK_BYTES + 1000).map(|n| n as u8).collect();
    let mut bytes = Vec::new();
    encode_request(&mut bytes, &[b"AGENT.SEND", b"echo/a", &payload, b"ID", b"x"]);
    let around = |at: usize| at.saturating_sub(3)..(at + 3).min(bytes.len());
    let body = bytes.len() - payload.len() - 20;
    for cut in around(0).chain(around(body)).chain(around(bytes.len() - 15)).chain([20_000]) {
        let mut decoder = RequestDecoder::default();
        let first = decoder.decode(&bytes[..cut], &LIMITS).expect("well formed");
        assert_eq!((first.consumed, first.ready), (cut, false), "cut at {cut}");
        let rest = &bytes[cut..];
        let step = decoder.decode(rest, &LIMITS).expect("well formed");
        assert_eq!((step.consumed, step.ready), (rest.len(), true), "cut at {cut}");
        let args = decoder.args(rest);
        assert_eq!(args.get(2), payload, "cut at {cut}");
        assert_eq!(args.get(4), b"x");
        if (body + 10..bytes.len() - 20).contains(&cut) {
            let kept = args.take(2);
            assert_eq!(kept.as_ptr(), args.get(2).as_ptr(), "P3: shared, not copied again");
        }
    }
}

#[test]
fn p2_an_unfinished_request_holds_no_more_than_its_limits() {
    let mut decoder = RequestDecoder::default();
    let mut most = 0;
    // As many big arguments as allowed, and more.
    let mut stream = b"*16\r\n".to_vec();
    for _ in 0..16 {
        stream.extend_from_slice(b"$900000\r\n");
        stream.extend(std::iter::repeat_n(b'x', 900_000));
        stream.extend_from_slice(b"\r\n");
    }
    let mut error = None;
    for chunk in stream.chunks(16 << 10) {
        match decoder.decode(chunk, &LIMITS) {
            Ok(_) => most = most.max(decoder.held_bytes()),
            Err(found) => {
                error = Some(found);
                break;
            }
        }
    }
    assert!(matches!(error, Some(ProtocolError::TooLong { .. })), "{error:?}");
    assert!(most <= LIMITS.request_bytes_max + (64 << 10), "held {most} bytes");
}

/// Malformed or oversized streams, and how each is called.
const MALFORMED: &[(&[u8], &str)] = &[
    (b"*1\r\n:5\r\n", "expected '$', got ':' at byte 4"),
    (b"*1\r\n\x00", "expected '$', got byte 0x00 at byte 4"),
    (b"*x\r\n", "invalid number: got 'x' at byte 1"),
    (b"*\r\n", "invalid number: got byte 0x0d at byte 1"),
    (b"*1\n", "invalid number: got byte 0x0a at byte 2"),
    (b"*1\rx", "expected CR LF, got 'x' at byte 3"),
    (b"*17\r\n", "invalid multibulk length: 17 elements at byte 1, at most 16"),
    (
        b"*9223372036854775807\r\n",
        "invalid multibulk length: 9223372036854775807 elements at byte 1, at most 16",
    ),
    (b"*99999999999999999999\r\n", "invalid number: got '9' at byte 19"),
    (b"*1\r\n$-1\r\n", "invalid bulk length: -1 at byte 5, at most 1048576 bytes"),
    (b"*1\r\n$1048577\r\n", "invalid bulk length: 1048577 at byte 5, at most 1048576 bytes"),
    (b"*1\r\n$4\r\nPINGxx", "expected CR LF, got 'x' at byte 12"),
    (b"*2\r\n$4\r\nPING\r\n*", "expected '$', got '*' at byte 14"),
    (b"PING \"a\n", "unbalanced quotes in request: the quote at byte 5"),
    (b"PING 'a'b\n", "unbalanced quotes in request: the quote at byte 5"),
    (b"POST / HTTP/1.1\r\n", "this is RESP, not HTTP"),
    (b"host: localhost\r\n", "this is RESP, not HTTP"),
    (
        b"1 2 3 4 5 6 7 8 9 a b c d e f g h\n",
        "invalid multibulk length: 17 elements at byte 0, at most 16",
    ),
];

#[test]
fn malformed_requests_name_the_byte_wherever_they_are_cut() {
    for (bytes, text) in MALFORMED {
        let shown = bytes.escape_ascii();
        let (requests, error) = whole(bytes);
        assert_eq!(requests, Requests::new(), "{shown}");
        assert_eq!(error.map(|error| error.to_string()).as_deref(), Some(*text), "{shown}");
        assert_eq!(decode(bytes.chunks(1), &LIMITS), (requests, error), "{shown} byte by byte");
    }
    let long = vec![b'a'; 300];
    let text = "too big inline request: no line end within 200 bytes";
    for chunk in [300, 7, 1] {
        let (_, error) = decode(long.chunks(chunk), &LIMITS);
        assert_eq!(error.expect("too long").to_string(), text);
    }
    let fits = [vec![b'a'; 200], b"\r\n".to_vec()].concat();
    assert_eq!(whole(&fits).0.len(), 1);
}

#[test]
fn positions_count_the_bytes_of_big_arguments() {
    let mut bytes = b"*2\r\n$40000\r\n".to_vec();
    bytes.extend(std::iter::repeat_n(b'x', 40_000));
    bytes.extend_from_slice(b"\r\n?");
    let expected = ProtocolError::ExpectedBulk { got: b'?', at: bytes.len() - 1 };
    assert_eq!(whole(&bytes).1, Some(expected));
    assert_eq!(decode(bytes.chunks(1000), &LIMITS).1, Some(expected));
}

/// Found by fuzzing: the byte after a big bulk is wrong, and the last that arrives.
#[test]
fn p1_a_wrong_end_of_a_bulk_is_refused_at_its_first_byte() {
    for len in [4, 40_000] {
        let body = [vec![b'x'; len], b"\n".to_vec()].concat();
        let request = [format!("*1\r\n${len}\r\n").into_bytes(), body.clone()].concat();
        let expected = Some(ProtocolError::ExpectedCrlf { got: b'\n', at: request.len() - 1 });
        for size in [request.len(), request.len() - 1, 1000, 1] {
            assert_eq!(decode(request.chunks(size), &LIMITS).1, expected, "{len} cut at {size}");
        }
        let reply = [format!("${len}\r\n").into_bytes(), body].concat();
        let expected = ProtocolError::ExpectedCrlf { got: b'\n', at: reply.len() - 1 };
        for size in [reply.len(), reply.len() - 1, 1000, 1] {
            let chunks: Vec<&[u8]> = reply.chunks(size).collect();
            assert_eq!(replies(&chunks), Err(expected), "{len} cut at {size}");
        }
    }
}

#[test]
fn malformed_replies_are_refused() {
    let cases: &[(&[u8], &str)] = &[
        (b"?x\r\n", "no type starts with '?' at byte 0"),
        (b"$-2\r\n", "invalid bulk length: -2 at byte 1, at most 67108864 bytes"),
        (b"$3\r\nabcd\r", "expected CR LF, got 'd' at byte 7"),
        (b"#y\r\n", "invalid line, at byte 1"),
        (b",one\r\n", "invalid line, at byte 1"),
        (b"(12x\r\n", "invalid line, at byte 1"),
        (b"+a\n", "invalid line, at byte 1"),
        (b"*9999999\r\n", "invalid multibulk length: 9999999 elements at byte 1, at most 1048576"),
        (b"%-1\r\n", "invalid multibulk length: -1 elements at byte 1, at most 1048576"),
        (b"*2\r\n:1\r\n;", "no type starts with ';' at byte 8"),
        (b"=2\r\nab\r\n", "invalid bulk length: 2 at byte 1, at most 67108864 bytes"),
    ];
    for (bytes, text) in cases {
        for size in [bytes.len(), 1] {
            let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
            let error = replies(&chunks).expect_err("malformed");
            assert_eq!(error.to_string(), *text, "{}", bytes.escape_ascii());
        }
    }
    let deep = b"*1\r\n".repeat(17);
    let error = replies(&[&deep]).expect_err("too deep");
    assert_eq!(error, ProtocolError::TooDeep { depth_max: 16, at: 64 });
}

#[test]
fn p3_a_big_reply_arrives_in_pieces() {
    let payload = Bytes::from(vec![b'z'; 3 * BIG_BULK_BYTES]);
    let reply = Value::Array(vec![Value::Bulk(payload), Value::Integer(-1)]);
    let mut bytes = Vec::new();
    encode(&mut bytes, &reply, Protocol::Resp3);
    encode(&mut bytes, &Value::Null, Protocol::Resp3);
    for size in [1000, 4096, 70_000] {
        let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
        assert_eq!(replies(&chunks).expect("well formed"), [reply.clone(), Value::Null]);
    }
}

#[test]
fn an_attribute_is_passed_over() {
    let bytes = b"|1\r\n+ttl\r\n:5\r\n*2\r\n|0\r\n:1\r\n|1\r\n+a\r\n*0\r\n:2\r\n";
    let expected = Value::Array(vec![Value::Integer(1), Value::Integer(2)]);
    assert_eq!(replies(&[bytes]).expect("well formed"), [expected]);
}

#[test]
fn e1_text_from_elsewhere_never_ends_a_line() {
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, Protocol::Resp3).error("FAULT", "a\r\n-ERR b\0\u{e9}");
    assert_eq!(bytes, "-FAULT a  -ERR b \u{e9}\r\n".as_bytes());
}

//! Promise: every RPC answers everything that is sent to it. Nothing panics, nothing is INTERNAL, nothing hangs, and afterwards the
//! store holds what it should.
//!
//! 100,000 messages are made from the descriptors, with hostile values, and most of them are damaged on the way. With
//! `ICEBOX_LONG=1` there are a million. `ICEBOX_SEED` repeats a run.

mod resident;
mod wire;

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use icebox::{Icebox, Options, proto::DESCRIPTOR_SET};
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use resident::resident_mib;
use tokio::net::{TcpListener, TcpStream};
use tonic::{Code, transport::Channel};

const MESSAGES: u64 = 100_000;
const CALLERS: u64 = 32;
/// How much memory messages may add that store nothing more.
const GROWTH_MIB_MAX: u64 = 10;
/// How deep messages are nested. Clients can send deeper ones: see below.
const DEPTH_MAX: u32 = 12;

/// Random numbers that a seed determines.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `n`.
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % n as u64).expect("below n")
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        let len = self.below(max + 1);
        (0..len).map(|_| self.roll().to_le_bytes()[3]).collect()
    }
}

/// What is known to be stored. Hostile messages name it, too.
type Known = Arc<Mutex<Vec<String>>>;

fn text(dice: &mut Dice, field: &FieldDescriptor, known: &Known) -> String {
    let name = field.name();
    if name.ends_with("project_id") && !dice.one_in(6) {
        return "demo".into();
    }
    if (name.ends_with("_id") || name == "marker") && dice.one_in(2) {
        let known = known.lock().expect("no panic");
        if !known.is_empty() {
            return dice.pick(&known);
        }
    }
    let repeats = dice.pick(&[1, 3, 64, 300, 5000, 100_000]);
    dice.pick(&[
        String::new(),
        "a".into(),
        "-".into(),
        "a\0b".into(),
        "\u{1}\u{7f}\r\n\t".into(),
        "\u{202e}gnp.exe".into(),
        "../../etc/passwd".into(),
        "'; DROP TABLE jobs; --".into(),
        "\u{10ffff}\u{fffd}\u{0}".into(),
        "0".repeat(32),
        "F".repeat(32),
        "9999-99-99T99:99:99".into(),
        "5 minutes".into(),
        "*/0".into(),
        "99999999999999999999 days".into(),
        "1-0,0-1,*/999999999999".into(),
        "backup".into(),
        "completed".into(),
        "error".into(),
        "x".repeat(repeats),
        "é".repeat(repeats),
    ])
}

fn value(dice: &mut Dice, field: &FieldDescriptor, known: &Known, depth: u32) -> Value {
    let integers = [0, 1, -1, 2, 63, 64, 1000, 1001, i64::MIN, i64::MAX, 1 << 32];
    let integer = dice.pick(&integers);
    let float = dice.pick(&[0.0, -0.0, 1.5, f64::NAN, f64::INFINITY, f64::MIN, 5e-324]);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    match field.kind() {
        Kind::Double => Value::F64(float),
        Kind::Float => Value::F32(float as f32),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(integer as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(integer),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(integer as u32),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(integer as u64),
        Kind::Bool => Value::Bool(dice.one_in(2)),
        Kind::String => Value::String(text(dice, field, known)),
        Kind::Bytes => Value::Bytes(dice.bytes(100).into()),
        Kind::Enum(_) => Value::EnumNumber(integer as i32),
        Kind::Message(message) => Value::Message(made(dice, &message, known, depth + 1)),
    }
}

/// A message with some of its fields set.
fn made(dice: &mut Dice, of: &MessageDescriptor, known: &Known, depth: u32) -> DynamicMessage {
    let mut message = DynamicMessage::new(of.clone());
    if depth > DEPTH_MAX {
        return message;
    }
    let is_update = of.name().starts_with("Update");
    for field in of.fields() {
        // The fields that say what a request is about are mostly set. The others become rarer with the depth.
        let share = if depth < 2 { 2 } else { 3 };
        let is_subject = depth == 0 && !is_update;
        if !is_subject && !dice.one_in(share) {
            continue;
        }
        let some = dice.pick(&[1, 1, 1, 2, 3, 65]);
        let set = if field.is_map() {
            let key = MapKey::String(text(dice, &field, known));
            let Kind::Message(entry) = field.kind() else {
                continue;
            };
            let of_entry = entry.map_entry_value_field();
            Value::Map([(key, value(dice, &of_entry, known, depth + 1))].into())
        } else if field.is_list() {
            let some = if depth > 3 { 1 } else { some };
            Value::List(
                (0..some)
                    .map(|_| value(dice, &field, known, depth))
                    .collect(),
            )
        } else {
            value(dice, &field, known, depth)
        };
        message.set_field(&field, set);
    }
    message
}

/// What happens to a message on its way.
fn damage(dice: &mut Dice, mut bytes: Vec<u8>) -> Vec<u8> {
    match dice.below(10) {
        0..6 => {}
        6 => bytes.truncate(dice.below(bytes.len() + 1)),
        7 => {
            for _ in 0..=dice.below(8) {
                if !bytes.is_empty() {
                    let at = dice.below(bytes.len());
                    bytes[at] ^= 1 << dice.below(8);
                }
            }
        }
        8 => {
            let at = dice.below(bytes.len() + 1);
            let more = dice.bytes(20);
            bytes.splice(at..at, more);
        }
        _ => bytes = dice.bytes(300),
    }
    bytes
}

/// An RPC by its path, with its request type.
type Called = (http::uri::PathAndQuery, MessageDescriptor);

/// Every RPC that is served.
fn rpcs() -> Vec<Called> {
    let mut rpcs = Vec::new();
    for set in [
        DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ] {
        let pool = DescriptorPool::decode(set).expect("descriptors");
        for service in pool.services() {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                rpcs.push((path.parse().expect("a path"), method.input()));
            }
        }
    }
    assert!(rpcs.len() > 20, "{rpcs:?}");
    rpcs
}

struct Server {
    icebox: Icebox,
    address: String,
    store: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Server {
    async fn start() -> Server {
        let dir = tempfile::tempdir().expect("a directory");
        let store = dir.path().join("icebox.db");
        let options = Options {
            cache_bytes: 8 << 20,
            ..Options::default()
        };
        let icebox = Icebox::open(&store, options).await.expect("a store");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        drop(icebox.serve(listener));
        Server {
            icebox,
            address,
            store,
            _dir: dir,
        }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).expect("a URI");
        endpoint.connect().await.expect("it listens")
    }

    /// Ends the server, and checks that records and ids agree.
    async fn end_and_verify(self) {
        self.icebox.close().await.expect("it closes");
        let verified = Command::new(env!("CARGO_BIN_EXE_icebox"))
            .arg("verify")
            .arg(&self.store)
            .output()
            .expect("the binary runs");
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success(), "{said}");
    }
}

/// Counts the panics in this process from now on, including those of the server's tasks.
fn count_panics() -> Arc<AtomicUsize> {
    let panics = Arc::<AtomicUsize>::default();
    let counted = panics.clone();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        counted.fetch_add(1, Ordering::Relaxed);
        before(panic);
    }));
    panics
}

/// Sends this many messages one after the other. Returns how often each code was the answer.
async fn send(
    server: Arc<Server>,
    seed: u64,
    messages: u64,
    known: Known,
    rpcs: Vec<Called>,
) -> BTreeMap<i32, u64> {
    let channel = server.channel().await;
    let mut dice = Dice(seed);
    let mut codes = BTreeMap::new();
    for _ in 0..messages {
        let (path, input) = dice.pick(&rpcs);
        let message = made(&mut dice, &input, &known, 0).encode_to_vec();
        let message = damage(&mut dice, message);
        let call = wire::call(&channel, path.clone(), Bytes::from(message.clone()), &[]);
        let Ok(answered) = tokio::time::timeout(Duration::from_secs(60), call).await else {
            panic!("seed {seed}: {path} hangs with {}", message.escape_ascii());
        };
        let code = answered
            .as_ref()
            .map_or_else(tonic::Status::code, |_| Code::Ok);
        let is_fine = !matches!(code, Code::Internal | Code::Unknown | Code::DataLoss);
        let shown = message.escape_ascii().to_string();
        let shown = &shown[..shown.len().min(4000)];
        assert!(
            is_fine,
            "seed {seed}: {path} answers {answered:?} to {shown}"
        );
        *codes.entry(code as i32).or_default() += 1;
        if let Ok(answer) = answered
            && path.path().contains("/Create")
        {
            remember(&known, &answer);
        }
    }
    codes
}

/// Remembers the id of what was created, which is field 1 of field 1 of each answer.
fn remember(known: &Known, answer: &[u8]) {
    #[derive(Clone, PartialEq, Message)]
    struct Resource {
        #[prost(string, tag = "1")]
        id: String,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Answer {
        #[prost(message, optional, tag = "1")]
        resource: Option<Resource>,
    }
    let answer = Answer::decode(answer).expect("an answer");
    let mut known = known.lock().expect("no panic");
    if known.len() < 1000 {
        known.extend(answer.resource.map(|resource| resource.id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_sent_is_answered_and_breaks_nothing() {
    let panics = count_panics();
    let long = std::env::var_os("ICEBOX_LONG").is_some();
    let messages = if long { MESSAGES * 10 } else { MESSAGES };
    let seed = match std::env::var("ICEBOX_SEED") {
        Ok(seed) => seed.parse().expect("ICEBOX_SEED is a number"),
        Err(_) => 0x1ceb_0c5e,
    };
    let server = Arc::new(Server::start().await);
    let known = Known::default();
    let mut codes = BTreeMap::new();
    let mut send_all = async |seed: u64, messages: u64, rpcs: &[Called]| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|n| {
                let rpcs = rpcs.to_vec();
                let sending = send(
                    server.clone(),
                    seed + n,
                    messages / CALLERS,
                    known.clone(),
                    rpcs,
                );
                tokio::spawn(sending)
            })
            .collect();
        for caller in callers {
            for (code, times) in caller.await.expect("no caller fails") {
                *codes.entry(code).or_insert(0) += times;
            }
        }
    };
    let all = rpcs();
    send_all(seed, messages, &all).await;
    // Messages that store nothing more must take no more memory.
    let makes = |(path, _): &Called| {
        ["/Create", "/Register"]
            .iter()
            .any(|make| path.path().contains(make))
    };
    let others: Vec<_> = all.into_iter().filter(|rpc| !makes(rpc)).collect();
    // With the callers' memory, if the system tells.
    let before = resident_mib(std::process::id());
    send_all(seed + CALLERS, messages / 4, &others).await;
    let after = resident_mib(std::process::id());
    assert!(
        after <= before.map(|mib| mib + GROWTH_MIB_MAX),
        "{before:?} {after:?} MiB"
    );
    println!("answers by code: {codes:?}");
    assert_eq!(panics.load(Ordering::Relaxed), 0);
    // If all had been refused for the same reason, the test would show little.
    for code in [
        Code::Ok,
        Code::InvalidArgument,
        Code::NotFound,
        Code::ResourceExhausted,
    ] {
        assert!(codes.contains_key(&(code as i32)), "{code:?} in {codes:?}");
    }
    let server = Arc::into_inner(server).expect("no caller has it");
    server.end_and_verify().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_no_messages_are_answered_or_cut_off() {
    let server = Server::start().await;
    let rpcs = rpcs();
    let mut dice = Dice(7);
    let connect = async || {
        let tcp = TcpStream::connect(&server.address)
            .await
            .expect("it listens");
        let (requests, connection) = h2::client::handshake(tcp).await.expect("HTTP/2");
        tokio::spawn(connection);
        requests.ready().await.expect("it is ready")
    };
    let mut requests = connect().await;
    for _ in 0..2000 {
        let (path, _) = dice.pick(&rpcs);
        let request = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        let Ok((answer, mut body)) = requests.send_request(request, false) else {
            requests = connect().await;
            continue;
        };
        // The server may refuse it before everything has been sent.
        let _ = body.send_data(dice.bytes(2000).into(), true);
        let answered = tokio::time::timeout(Duration::from_secs(60), answer);
        if let Ok(answer) = answered.await.expect("it does not hang")
            && let Some(code) = answer.headers().get("grpc-status")
        {
            let code = Code::from_bytes(code.as_bytes());
            assert!(
                !matches!(code, Code::Internal | Code::Unknown),
                "{path}: {code:?}"
            );
        }
    }
    server.end_and_verify().await;
}

/// The numbers of the fields from a request for a new job down to its action's `extra`, a `Struct`.
const PROJECT_ID: u32 = 1;
const JOB: u32 = 2;
const JOB_ACTIONS: u32 = 7;
const FREEZER_ACTION: u32 = 3;
const EXTRA: u32 = 50;

/// A field that contains bytes.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::encode_key(
        number,
        prost::encoding::WireType::LengthDelimited,
        &mut field,
    );
    prost::encode_length_delimiter(bytes.len(), &mut field).expect("a vector grows");
    field.extend(bytes);
    field
}

/// A `Struct` with this nesting: it has a field whose value is a struct, and so on.
fn nested(depth: usize) -> Vec<u8> {
    let (fields, key, value, struct_value) = (1, 1, 2, 5);
    let mut bytes = Vec::new();
    for _ in 0..depth {
        let inner = field(value, &field(struct_value, &bytes));
        bytes = field(fields, &[field(key, b"k"), inner].concat());
    }
    bytes
}

#[tokio::test]
async fn what_is_nested_too_deep_is_refused_however_deep_it_is() {
    let server = Server::start().await;
    let channel = server.channel().await;
    for depth in [7, 8, 9, 30, 100, 1000, 3000] {
        // Each level copies everything inside it, so that the work is the square of the depth: 100,000 would take far too long.
        let mut bytes = nested(depth);
        for tag in [EXTRA, FREEZER_ACTION, JOB_ACTIONS, JOB] {
            bytes = field(tag, &bytes);
        }
        let project = field(PROJECT_ID, b"demo");
        let request = [project, bytes].concat();
        let path = http::uri::PathAndQuery::from_static("/freezer.v2.JobService/CreateJob");
        let refused = wire::call(&channel, path, request.into(), &[])
            .await
            .unwrap_err();
        assert_eq!(
            refused.code(),
            Code::InvalidArgument,
            "{depth}: {refused:?}"
        );
    }
    server.end_and_verify().await;
}

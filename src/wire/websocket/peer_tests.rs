//! Proofs of `Peer`: the frames of the RFC, every rule with its violation, the same events however
//! the input is cut, nonsense, and tungstenite as the other side in both directions.

use std::io::{self, Cursor, Read, Write};

use proptest::collection::vec;
use proptest::prelude::*;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Message, protocol::frame::coding};

use super::*;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const LIMITS: PeerLimits = PeerLimits { message_bytes_max: 1 << 20, checks_text: true };

/// What a peer reported, without the cuts that depend on how the input came.
#[derive(Debug, Clone, PartialEq)]
enum Heard {
    Message(MessageKind, Vec<u8>),
    Begun(MessageKind, Vec<u8>),
    Ping,
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

#[derive(Debug, Default, PartialEq)]
struct Outcome {
    heard: Vec<Heard>,
    answers: Vec<u8>,
    violation: Option<Violation>,
}

fn join(heard: &mut Vec<Heard>, open: &mut Option<(MessageKind, Vec<u8>)>, event: PeerEvent<'_>) {
    match event {
        PeerEvent::Data { kind, bytes, is_first, is_last } => {
            assert_eq!(is_first, open.is_none(), "the first piece and no other says so");
            let (begun_kind, joined) = open.get_or_insert((kind, Vec::new()));
            assert_eq!(*begun_kind, kind);
            assert!(is_last || !bytes.is_empty(), "an empty piece says nothing");
            joined.extend_from_slice(bytes);
            if let Some((kind, joined)) = open.take_if(|_| is_last) {
                heard.push(Heard::Message(kind, joined));
            }
        }
        PeerEvent::Ping => heard.push(Heard::Ping),
        PeerEvent::Pong { payload } => heard.push(Heard::Pong(payload.as_bytes().to_vec())),
        PeerEvent::Close { code, reason } => heard.push(Heard::Close(code, reason)),
    }
}

fn push_pieces<'p>(limits: PeerLimits, pieces: impl IntoIterator<Item = &'p [u8]>) -> Outcome {
    let (mut peer, mut open, mut outcome) = (Peer::new(limits), None, Outcome::default());
    for piece in pieces {
        let mut piece = piece.to_vec();
        let pushed = peer.push(&mut piece, &mut |event| join(&mut outcome.heard, &mut open, event));
        if let Err(violation) = pushed {
            outcome.violation = Some(violation);
            assert_eq!(peer.push(&mut [0], &mut |_| panic!("it has failed")), Err(violation));
            break;
        }
    }
    assert_eq!(peer.is_closed(), matches!(outcome.heard.last(), Some(Heard::Close(..))));
    outcome.heard.extend(open.map(|(kind, joined)| Heard::Begun(kind, joined)));
    outcome.answers = peer.take_answers();
    assert!(outcome.answers.len() <= ANSWERS_BYTES_MAX);
    outcome
}

fn push(input: &[u8]) -> Outcome {
    push_pieces(LIMITS, [input])
}

/// A frame as a client sends it; `first` is its first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let head = FrameHead::new(Opcode::Binary, true, payload.len() as u64);
    let mut frame = head.as_bytes().to_vec();
    frame[0] = first;
    frame[1] |= 0x80;
    frame.extend_from_slice(&MASK);
    let start = frame.len();
    frame.extend_from_slice(payload);
    unmask(&mut frame[start..], MASK);
    frame
}

fn frames(list: &[(u8, &[u8])]) -> Vec<u8> {
    list.iter().flat_map(|(first, payload)| frame(*first, payload)).collect()
}

fn text(message: &str) -> Heard {
    Heard::Message(MessageKind::Text, message.into())
}

fn binary(message: &[u8]) -> Heard {
    Heard::Message(MessageKind::Binary, message.into())
}

/// A stream with each kind of frame and each form of length.
fn sample() -> Vec<u8> {
    frames(&[
        (0x81, b"Hello"),
        (0x01, "Gr\u{fc}".as_bytes()),
        (0x89, b"inside"),
        (0x00, b"\xc3"),
        (0x00, b""),
        (0x8a, b"unasked"),
        (0x80, b"\x9fe"),
        (0x82, b""),
        (0x02, b""),
        (0x80, b""),
        (0x82, &[7; 126]),
        (0x82, &[8; 300]),
        (0x89, &[9; 125]),
        (0x01, b""),
        (0x80, b"late"),
        (0x88, b"\x03\xe8done"),
        (0x81, b"ignored"),
    ])
}

fn sample_outcome() -> Outcome {
    let heard = vec![
        text("Hello"),
        Heard::Ping,
        Heard::Pong(b"unasked".to_vec()),
        text("Gr\u{fc}\u{df}e"),
        binary(b""),
        binary(b""),
        binary(&[7; 126]),
        binary(&[8; 300]),
        Heard::Ping,
        text("late"),
        Heard::Close(Some(1000), "done".to_owned()),
    ];
    let answers = [&b"\x8a\x06inside\x8a\x7d"[..], &[9; 125], b"\x88\x02\x03\xe8"].concat();
    Outcome { heard, answers, violation: None }
}

#[test]
fn the_masked_example_of_the_rfc() {
    let hello = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(frame(0x81, b"Hello"), hello);
    let pong = b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    let outcome = push(&[&hello[..], pong].concat());
    assert_eq!(outcome.heard, [text("Hello"), Heard::Pong(b"Hello".to_vec())]);
    assert_eq!((outcome.answers, outcome.violation), (Vec::new(), None));
}

#[test]
fn payloads_are_unmasked_where_they_lie() {
    let mut input = frames(&[(0x82, b"one"), (0x82, b"two")]);
    let range = input.as_ptr_range();
    let mut pieces = Vec::new();
    Peer::new(LIMITS)
        .push(&mut input, &mut |event| match event {
            PeerEvent::Data { bytes, .. } => pieces.push(bytes),
            other => panic!("{other:?}"),
        })
        .unwrap();
    assert_eq!(pieces, [b"one", b"two"]);
    assert!(pieces.iter().all(|piece| range.contains(&piece.as_ptr())));
}

#[test]
fn an_empty_message_is_one_event() {
    for (first, kind) in [(0x81, MessageKind::Text), (0x82, MessageKind::Binary)] {
        let (mut input, mut count) = (frame(first, b""), 0);
        Peer::new(LIMITS)
            .push(&mut input, &mut |event| {
                let wanted = PeerEvent::Data { kind, bytes: b"", is_first: true, is_last: true };
                assert_eq!(event, wanted);
                count += 1;
            })
            .unwrap();
        assert_eq!(count, 1);
    }
}

#[test]
fn any_cut_gives_the_same_events() {
    let input = sample();
    assert_eq!(push(&input), sample_outcome());
    for at in 0..=input.len() {
        let (front, back) = input.split_at(at);
        assert_eq!(push_pieces(LIMITS, [front, back]), sample_outcome(), "cut at {at}");
    }
    for step in 1..20 {
        assert_eq!(push_pieces(LIMITS, input.chunks(step)), sample_outcome(), "pieces of {step}");
    }
}

#[test]
fn a_message_may_be_longer_than_one_read() {
    let payload: Vec<u8> = (0..70_000u32).map(|at| (at * 7 % 251) as u8).collect();
    let input = frame(0x82, &payload);
    for step in [1, 3, 4096, 65_537] {
        let outcome = push_pieces(LIMITS, input.chunks(step));
        assert_eq!(outcome.heard, [binary(&payload)]);
    }
    let outcome = push(&input[..60_014]);
    assert_eq!(outcome.heard, [Heard::Begun(MessageKind::Binary, payload[..60_000].into())]);
}

#[test]
fn fragments_follow_their_rules() {
    use Violation::{MessageInterrupted, NothingToContinue};
    type Frames = [(u8, &'static [u8])];
    let cases: &[(&Frames, Violation)] = &[
        (&[(0x80, b"x")], NothingToContinue),
        (&[(0x00, b"x")], NothingToContinue),
        (&[(0x81, b"x"), (0x80, b"y")], NothingToContinue),
        (&[(0x01, b"x"), (0x80, b"y"), (0x00, b"z")], NothingToContinue),
        (&[(0x01, b"x"), (0x81, b"y")], MessageInterrupted),
        (&[(0x01, b"x"), (0x02, b"y")], MessageInterrupted),
        (&[(0x02, b""), (0x89, b""), (0x82, b"")], MessageInterrupted),
    ];
    for (list, violation) in cases {
        let outcome = push(&frames(list));
        assert_eq!(outcome.violation, Some(*violation), "{list:?}");
        assert_eq!(violation.code(), 1002);
    }
}

#[test]
fn close_frames_are_judged_and_echoed() {
    let echoed = |payload: &[u8]| {
        let outcome = push(&frame(0x88, payload));
        assert_eq!(outcome.violation, None, "{payload:x?}");
        (outcome.heard, outcome.answers)
    };
    let close = |code, reason: &str| vec![Heard::Close(code, reason.to_owned())];
    assert_eq!(echoed(b""), (close(None, ""), b"\x88\x00".to_vec()));
    assert_eq!(echoed(b"\x03\xe9"), (close(Some(1001), ""), b"\x88\x02\x03\xe9".to_vec()));
    assert_eq!(echoed(b"\x0f\xa0why"), (close(Some(4000), "why"), b"\x88\x02\x0f\xa0".to_vec()));
    let longest = "x".repeat(REASON_BYTES_MAX);
    assert_eq!(echoed(&[b"\x03\xe8", longest.as_bytes()].concat()).0, close(Some(1000), &longest));

    let refused = |payload: &[u8]| {
        let outcome = push(&frame(0x88, payload));
        assert!(outcome.heard.is_empty() && outcome.answers.is_empty(), "{outcome:?}");
        outcome.violation.map(|violation| (violation, violation.code()))
    };
    assert_eq!(refused(b"\x03"), Some((Violation::HalfCloseCode, 1002)));
    assert_eq!(refused(b"\x03\xed"), Some((Violation::CloseCode(1005), 1002)));
    assert_eq!(refused(b"\xff\xff"), Some((Violation::CloseCode(65535), 1002)));
    assert_eq!(refused(b"\x03\xe8\xed\xa0\x80"), Some((Violation::ReasonNotUtf8, 1007)));
}

#[test]
fn wrong_text_is_told_at_its_first_wrong_byte() {
    let payload = b"\xce\xba\xe1\xbd\xb9\xf4\x90\x80\x80edited";
    let input = frame(0x81, payload);
    let shown_by = input.len() - payload.len() + 7;
    let limits = PeerLimits { checks_text: false, ..LIMITS };
    for end in 0..=input.len() {
        let violation = (end >= shown_by).then_some(Violation::TextNotUtf8);
        assert_eq!(push_pieces(LIMITS, input[..end].chunks(1)).violation, violation, "{end}");
        assert_eq!(push(&input[..end]).violation, violation, "{end} at once");
        assert_eq!(push_pieces(limits, [&input[..end]]).violation, None, "{end}, not checked");
    }
    assert_eq!(Violation::TextNotUtf8.code(), 1007);
    // Half a character may end a fragment and not a message; bytes are nobody's text.
    let half = push(&frames(&[(0x01, b"\xe2\x82"), (0x80, b"\xac")]));
    assert_eq!(half.heard, [text("\u{20ac}")]);
    let never = push(&frames(&[(0x01, b"\xe2"), (0x80, b"\x82")]));
    assert_eq!(never.violation, Some(Violation::TextNotUtf8));
    assert_eq!(push(&frame(0x82, b"\xff\xfe")).heard, [binary(b"\xff\xfe")]);
}

#[test]
fn a_long_message_is_refused_at_its_head() {
    let limits = PeerLimits { message_bytes_max: 10, checks_text: true };
    let violation = Violation::MessageTooBig { bytes_max: 10 };
    assert_eq!(violation.code(), 1009);
    let too_big = Some(violation);
    let exact = push_pieces(limits, [&frames(&[(0x01, b"12345"), (0x80, b"67890")])[..]]);
    assert_eq!(exact.heard, [text("1234567890")]);
    let second = frames(&[(0x81, b"1234567890"), (0x82, b"1234567890")]);
    assert_eq!(push_pieces(limits, [&second[..]]).violation, None, "each message for itself");

    let one = frame(0x82, &[0; 11]);
    assert_eq!(push_pieces(limits, [&one[..5]]).violation, None);
    assert_eq!(push_pieces(limits, [&one[..6]]).violation, too_big, "its head is enough");
    let sum = frames(&[(0x02, &[0; 6]), (0x00, b""), (0x80, &[0; 5])]);
    assert_eq!(push_pieces(limits, [&sum[..sum.len() - 5]]).violation, too_big);
    let huge = b"\x02\xff\x7f\xff\xff\xff\xff\xff\xff\xffmask";
    assert_eq!(push_pieces(limits, [&huge[..]]).violation, too_big);

    // Lengths whose sum leaves 64 bits are no short message: 2⁶³ − 1 twice, and then 2.
    let endless = PeerLimits { message_bytes_max: u64::MAX, checks_text: false };
    let mut peer = Peer::new(endless);
    for at in 0..2 {
        let mut head = huge.to_vec();
        head[0] = if at == 0 { 0x02 } else { 0x00 };
        peer.push(&mut head, &mut |_| {}).unwrap();
        peer.skip_payload();
    }
    let refused = peer.push(&mut frame(0x80, b"xx"), &mut |_| {});
    assert_eq!(refused, Err(Violation::MessageTooBig { bytes_max: u64::MAX }));
}

#[test]
fn pings_are_answered_within_bounds() {
    let ten: Vec<Vec<u8>> = (0..10).map(|at| format!("payload-{at}").into_bytes()).collect();
    let input: Vec<u8> = ten.iter().flat_map(|payload| frame(0x89, payload)).collect();
    let wanted: Vec<u8> =
        ten.iter().flat_map(|payload| control_frame(Opcode::Pong, payload)).collect();
    assert_eq!(push(&input).answers, wanted, "few are answered each");

    let mut peer = Peer::new(LIMITS);
    for at in 0..1000u32 {
        let payload = vec![at as u8; at as usize % 126];
        peer.push(&mut frame(0x89, &payload), &mut |event| assert_eq!(event, PeerEvent::Ping))
            .unwrap();
        let newest = control_frame(Opcode::Pong, &payload);
        assert!(peer.answers().len() <= ANSWERS_BYTES_MAX && peer.answers().ends_with(&newest));
    }
    peer.push(&mut frame(0x88, b""), &mut |_| {}).unwrap();
    let answers = peer.take_answers();
    assert!(answers.len() <= ANSWERS_BYTES_MAX && answers.ends_with(b"\x88\x00"));
    assert_whole_frames(&answers);
    assert!(peer.take_answers().is_empty());
}

fn assert_whole_frames(mut answers: &[u8]) {
    while let [first, len, rest @ ..] = answers {
        assert!([0x88, 0x8a].contains(first) && *len <= 125, "{first:x} {len}");
        answers = &rest[usize::from(*len)..];
    }
    assert!(answers.is_empty());
}

#[test]
fn a_peer_is_small() {
    let bytes = size_of::<Peer>();
    assert!(bytes <= 288, "{bytes} bytes for each connection");
}

/// A socket of which one direction is a piece of memory and the other is forgotten.
struct Memory {
    incoming: Cursor<Vec<u8>>,
    outgoing: Vec<u8>,
}

impl Read for Memory {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.incoming.read(room)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn client(incoming: Vec<u8>) -> WebSocket<Memory> {
    let memory = Memory { incoming: Cursor::new(incoming), outgoing: Vec::new() };
    let config = WebSocketConfig::default().max_frame_size(None);
    WebSocket::from_raw_socket(memory, Role::Client, Some(config))
}

/// A message or control frame, and where a message is cut into fragments.
#[derive(Debug, Clone)]
enum Said {
    Text(String),
    Binary(Vec<u8>, Vec<usize>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn said() -> impl Strategy<Value = Said> {
    let long = prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), 100..400)];
    let longest = vec(any::<u8>(), 1..3).prop_map(|some| some.repeat(40_000));
    prop_oneof![
        4 => ".{0,60}".prop_map(Said::Text),
        4 => (long, vec(0usize..400, 0..3)).prop_map(|(bytes, cuts)| Said::Binary(bytes, cuts)),
        1 => (longest, vec(0usize..80_000, 0..2)).prop_map(|(bytes, cuts)| Said::Binary(bytes, cuts)),
        1 => vec(any::<u8>(), 0..126).prop_map(Said::Ping),
        1 => vec(any::<u8>(), 0..126).prop_map(Said::Pong),
    ]
}

fn fragments<'b>(bytes: &'b [u8], cuts: &[usize]) -> Vec<&'b [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// The bytes that tungstenite sends as a client.
fn written_by_tungstenite(list: &[Said]) -> Vec<u8> {
    use coding::{Data, OpCode};
    use tungstenite::protocol::frame::Frame;
    let mut client = client(Vec::new());
    for said in list {
        match said {
            Said::Text(text) => client.send(Message::text(text.clone())).unwrap(),
            Said::Ping(payload) => client.send(Message::Ping(payload.clone().into())).unwrap(),
            Said::Pong(payload) => client.send(Message::Pong(payload.clone().into())).unwrap(),
            Said::Binary(bytes, cuts) => {
                let pieces = fragments(bytes, cuts);
                for (at, piece) in pieces.iter().enumerate() {
                    let data = if at == 0 { Data::Binary } else { Data::Continue };
                    let is_last = at + 1 == pieces.len();
                    let frame = Frame::message(piece.to_vec(), OpCode::Data(data), is_last);
                    client.send(Message::Frame(frame)).unwrap();
                }
            }
        }
    }
    client.close(None).unwrap();
    client.flush().ok();
    std::mem::take(&mut client.get_mut().outgoing)
}

/// The same as frames of ours.
fn written_by_us(list: &[Said]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut add = |opcode, is_last, payload: &[u8]| {
        out.extend_from_slice(FrameHead::new(opcode, is_last, payload.len() as u64).as_bytes());
        out.extend_from_slice(payload);
    };
    for said in list {
        match said {
            Said::Text(text) => add(Opcode::Text, true, text.as_bytes()),
            Said::Ping(payload) => add(Opcode::Ping, true, payload),
            Said::Pong(payload) => add(Opcode::Pong, true, payload),
            Said::Binary(bytes, cuts) => {
                let pieces = fragments(bytes, cuts);
                for (at, piece) in pieces.iter().enumerate() {
                    let opcode = if at == 0 { Opcode::Binary } else { Opcode::Continuation };
                    add(opcode, at + 1 == pieces.len(), piece);
                }
            }
        }
    }
    out.extend(close_frame(1000, "that is all"));
    out
}

proptest! {
    #[test]
    fn any_bytes_are_survived(input in vec(any::<u8>(), 0..300), step in 1usize..50) {
        let whole = push(&input);
        prop_assert_eq!(push_pieces(LIMITS, input.chunks(step)).answers, whole.answers);
    }

    /// Nonsense that gets past the heads: good frames in any order, one byte of them turned.
    #[test]
    fn any_frames_are_judged_alike_however_they_are_cut(
        list in vec(vec(any::<u8>(), 0..140), 0..8),
        firsts in vec(prop::sample::select(&[0x00u8, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8a][..]), 8),
        (at, flip) in (0usize..600, any::<u8>()),
        step in 1usize..50,
    ) {
        let pieces = list.iter().zip(firsts).map(|(payload, first)| frame(first, payload));
        let mut input: Vec<u8> = pieces.flatten().collect();
        if let Some(byte) = input.get_mut(at) {
            *byte ^= flip;
        }
        let (whole, cut) = (push(&input), push_pieces(LIMITS, input.chunks(step)));
        prop_assert_eq!(&whole.answers, &cut.answers);
        prop_assert_eq!(whole.violation, cut.violation);
        prop_assert!(whole.violation.is_some() || whole.heard == cut.heard);
    }

    #[test]
    fn what_tungstenite_writes_is_understood(list in vec(said(), 0..8), step in 1usize..5000) {
        let mut wanted: Vec<Heard> = list.iter().map(|said| match said.clone() {
            Said::Text(message) => text(&message),
            Said::Binary(bytes, _) => binary(&bytes),
            Said::Ping(_) => Heard::Ping,
            Said::Pong(payload) => Heard::Pong(payload),
        }).collect();
        wanted.push(Heard::Close(None, String::new()));
        let outcome = push_pieces(LIMITS, written_by_tungstenite(&list).chunks(step));
        prop_assert_eq!((outcome.heard, outcome.violation), (wanted, None));
        assert_whole_frames(&outcome.answers);
    }

    #[test]
    fn what_we_write_is_understood_by_tungstenite(list in vec(said(), 0..8)) {
        let mut client = client(written_by_us(&list));
        for said in &list {
            let wanted = match said.clone() {
                Said::Text(message) => Message::text(message),
                Said::Binary(bytes, _) => Message::binary(bytes),
                Said::Ping(payload) => Message::Ping(payload.into()),
                Said::Pong(payload) => Message::Pong(payload.into()),
            };
            prop_assert_eq!(client.read().unwrap(), wanted);
        }
        let Message::Close(Some(close)) = client.read().unwrap() else { panic!("no close") };
        prop_assert_eq!((u16::from(close.code), close.reason.as_str()), (1000, "that is all"));
    }
}

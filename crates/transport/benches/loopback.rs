//! Bandwidth and round trips on loopback, beside plain sockets in the same run.
//!
//! `cargo bench -p rekindle-transport --bench loopback [-- ROUNDS]`. Every round runs both sides of each case
//! in turn, so that both see the same machine; medians and the spread over rounds are printed, and the
//! processor time of both ends together, which other load on the machine disturbs less than the wall time.
//! Plain sockets: one thread that writes 1 to 8 MiB from one buffer, one that reads into one buffer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rekindle_transport::{
    ByteOwner, Deadline, Identity, Options, Payload, Tag, TagKind, TcpEndpoint, TcpTransport, Transport,
};
use rekindle_types::{Epoch, JobId, RankId};
use socket2::SockRef;

const TOTAL: usize = 1 << 29;
const TRIPS: u32 = 3000;
const BUFFERS: usize = 4 << 20;

fn far() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn tag(index: u32) -> Tag {
    Tag::new(TagKind::Activation, 0, index)
}

fn pair(options: &Options) -> (TcpTransport, TcpTransport) {
    let ends = [0, 1].map(|_| TcpEndpoint::bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port"));
    let peers: BTreeMap<RankId, SocketAddr> = (0..)
        .map(RankId)
        .zip(ends.iter().map(TcpEndpoint::local_addr))
        .collect();
    let connect = |rank: u32| {
        let job = JobId::new("bench").expect("valid");
        let me = Identity {
            job,
            epoch: Epoch(1),
            rank: RankId(rank),
            world: 2,
        };
        let links = BTreeSet::from([RankId(1 - rank)]);
        ends[rank as usize]
            .connect(me, &peers, &links, options, far())
            .expect("loopback connects")
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| connect(1));
        (connect(0), other.join().expect("connects"))
    })
}

fn plain_pair(congestion: Option<&[u8]>, buffers: Option<usize>) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback connects");
    let far = listener.accept().expect("connects").0;
    for stream in [&near, &far] {
        stream.set_nodelay(true).expect("nodelay");
        let socket = SockRef::from(stream);
        if let Some(bytes) = buffers {
            socket.set_send_buffer_size(bytes).expect("send buffer");
            socket.set_recv_buffer_size(bytes).expect("receive buffer");
        }
        if let Some(name) = congestion {
            socket.set_tcp_congestion(name).expect("congestion control");
        }
    }
    (near, far)
}

fn plain_bandwidth(size: usize, congestion: Option<&[u8]>, buffers: Option<usize>) -> f64 {
    let (mut near, mut far) = plain_pair(congestion, buffers);
    let sent = vec![1_u8; size];
    let mut got = vec![0_u8; size];
    let frames = TOTAL / size;
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..frames).for_each(|_| near.write_all(&sent).expect("written")));
        (0..frames).for_each(|_| far.read_exact(&mut got).expect("read"));
    });
    (frames * size) as f64 / began.elapsed().as_secs_f64() / 1e9
}

fn our_bandwidth(size: usize, options: &Options) -> f64 {
    let (near, far_end) = pair(options);
    let sent: Arc<dyn ByteOwner> = Arc::new(vec![1_u8; size]);
    let frames = TOTAL / size;
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..frames {
                near.send(RankId(1), tag(0), Payload::shared(Arc::clone(&sent)), far())
                    .expect("sent");
            }
        });
        (0..frames).for_each(|_| drop(far_end.recv(RankId(0), tag(0), far()).expect("received")));
    });
    (frames * size) as f64 / began.elapsed().as_secs_f64() / 1e9
}

fn plain_trip() -> f64 {
    let (mut near, mut far) = plain_pair(Some(b"cubic"), None);
    let mut bytes = [0_u8; 64];
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = [0_u8; 64];
            for _ in 0..TRIPS {
                far.read_exact(&mut bytes).expect("read");
                far.write_all(&bytes).expect("written");
            }
        });
        for _ in 0..TRIPS {
            near.write_all(&bytes).expect("written");
            near.read_exact(&mut bytes).expect("read");
        }
    });
    began.elapsed().as_secs_f64() * 1e6 / f64::from(TRIPS)
}

fn our_trip() -> f64 {
    let (near, far_end) = pair(&Options::default());
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..TRIPS {
                let frame = far_end.recv(RankId(0), tag(i), far()).expect("received");
                far_end
                    .send(RankId(0), tag(i), frame.into(), far())
                    .expect("sent");
            }
        });
        for i in 0..TRIPS {
            let payload = near.pool().take(64).into();
            near.send(RankId(1), tag(i), payload, far()).expect("sent");
            drop(near.recv(RankId(1), tag(i), far()).expect("received"));
        }
    });
    began.elapsed().as_secs_f64() * 1e6 / f64::from(TRIPS)
}

/// Processor time of this process so far, user and system, seconds.
fn cpu_seconds() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is valid for a write of one rusage, and an all-zero one is a valid value should the
    // call fail.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

struct Case {
    name: String,
    unit: &'static str,
    run: Box<dyn Fn() -> f64>,
    values: Vec<f64>,
    cpu: Vec<f64>,
}

fn case(name: impl Into<String>, unit: &'static str, run: impl Fn() -> f64 + 'static) -> Case {
    Case {
        name: name.into(),
        unit,
        run: Box::new(run),
        values: Vec::new(),
        cpu: Vec::new(),
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn spread(values: &[f64]) -> String {
    let (low, high) = values
        .iter()
        .fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    format!("{:.2} ({low:.2} to {high:.2})", median(values))
}

impl Case {
    fn is_trip(&self) -> bool {
        self.unit == "us"
    }

    /// Seconds of processor time per GB, or microseconds per round trip.
    fn measure(&mut self, keep: bool) {
        let before = cpu_seconds();
        let value = (self.run)();
        let cpu = cpu_seconds() - before;
        if keep {
            self.values.push(value);
            self.cpu.push(if self.is_trip() {
                cpu * 1e6 / f64::from(TRIPS)
            } else {
                cpu / (TOTAL as f64 / 1e9)
            });
        }
    }

    fn line(&self, peer: &Self) -> String {
        let cpu_unit = if self.is_trip() { "us" } else { "s/GB" };
        let ratio = |ours: &[f64], theirs: &[f64]| format!("{:.2}", median(ours) / median(theirs));
        format!(
            "| {} | {} {} | {} | {} {cpu_unit} | {} |",
            self.name,
            spread(&self.values),
            self.unit,
            ratio(&self.values, &peer.values),
            spread(&self.cpu),
            ratio(&self.cpu, &peer.cpu),
        )
    }
}

fn main() {
    let rounds = std::env::args()
        .filter_map(|a| a.parse().ok())
        .next()
        .unwrap_or(7);
    let summed = Options {
        payload_checksum: true,
        ..Options::default()
    };
    let fixed = Options {
        socket_buffer_bytes: Some(BUFFERS),
        ..Options::default()
    };
    // Groups: the first case of each is what the others are compared with.
    let mut groups: Vec<Vec<Case>> = [1, 2, 4, 8]
        .map(|mib| {
            let size = mib << 20;
            let (summed, fixed) = (summed.clone(), fixed.clone());
            vec![
                case(format!("{mib} MiB, plain sockets, cubic"), "GB/s", move || {
                    plain_bandwidth(size, Some(b"cubic"), None)
                }),
                case(
                    format!("{mib} MiB, plain sockets, default control"),
                    "GB/s",
                    move || plain_bandwidth(size, None, None),
                ),
                case(
                    format!("{mib} MiB, plain sockets, cubic, 4 MiB socket buffers"),
                    "GB/s",
                    move || plain_bandwidth(size, Some(b"cubic"), Some(BUFFERS)),
                ),
                case(format!("{mib} MiB, frames"), "GB/s", move || {
                    our_bandwidth(size, &Options::default())
                }),
                case(
                    format!("{mib} MiB, frames, payload checksum"),
                    "GB/s",
                    move || our_bandwidth(size, &summed),
                ),
                case(
                    format!("{mib} MiB, frames, 4 MiB socket buffers"),
                    "GB/s",
                    move || our_bandwidth(size, &fixed),
                ),
            ]
        })
        .into();
    groups.push(vec![
        case("64 B round trip, plain sockets", "us", plain_trip),
        case("64 B round trip, frames", "us", our_trip),
    ]);
    for round in 0..=rounds {
        for case in groups.iter_mut().flatten() {
            // The first round warms up.
            case.measure(round > 0);
        }
    }
    println!(
        "| case | median (spread) of {rounds} | ratio | processor time | ratio |\n|---|---|---|---|---|"
    );
    for group in &groups {
        group.iter().for_each(|case| println!("{}", case.line(&group[0])));
    }
}

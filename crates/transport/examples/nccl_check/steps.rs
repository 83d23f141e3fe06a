//! What a rank does. Every step makes its own communicators, so that one that fails doesn't spoil the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rekindle_compute::cuda::nccl::{Calls, Nccl, Shrink, UniqueId};
use rekindle_transport::nccl::{Fault, Group, Members, NcclEndpoint, NcclOptions};
use rekindle_transport::{Deadline, Identity, Options, Payload, Tag, TagKind, TcpEndpoint, Transport};
use rekindle_types::{Epoch, JobId, RankId};

use super::pipe::round;

type Outcome = Result<String, Box<dyn std::error::Error>>;

struct Rank {
    calls: Arc<dyn Calls>,
    me: RankId,
    ranks: u32,
    /// Bytes of a transfer.
    bytes: usize,
}

/// Does all steps as a rank.
pub fn run(rank: u32, ranks: u32, device: u32, mebibytes: u32) -> ExitCode {
    let calls: Arc<dyn Calls> = match Nccl::open(i32::try_from(device).unwrap_or(0)) {
        Ok(nccl) => Arc::new(nccl),
        Err(error) => {
            eprintln!("rank {rank}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let me = Rank {
        calls,
        me: RankId(rank),
        ranks,
        bytes: (mebibytes.max(1) as usize) << 20,
    };
    me.step("meet", 2, Rank::meet_and_finish);
    me.step("transfer", 2, Rank::transfer);
    me.step("abort of a transfer that hangs", 2, Rank::abort);
    me.step("split", 2, Rank::split);
    me.step("shrink", 2, Rank::shrink);
    me.step("shrink with a transfer that hangs", 3, Rank::shrink_hung);
    me.step("grow", 3, Rank::grow);
    me.step("transport", 2, Rank::transport);
    ExitCode::SUCCESS
}

fn hex(id: &UniqueId) -> String {
    id.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn id(text: &str) -> Result<UniqueId, Box<dyn std::error::Error>> {
    let byte = |i: usize| {
        text.get(2 * i..2 * i + 2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
    };
    let bytes: Option<Vec<u8>> = (0..128).map(byte).collect();
    let bytes = bytes.ok_or_else(|| format!("no id: {text:?}"))?;
    Ok(UniqueId(std::array::from_fn(|i| bytes[i])))
}

fn options() -> NcclOptions {
    NcclOptions {
        transfer: Duration::from_secs(10),
        ..NcclOptions::default()
    }
}

impl Rank {
    /// Runs a step with the first `of` ranks; the others only keep up with the rounds.
    fn step(&self, name: &str, of: u32, body: fn(&Self, &UniqueId, u32) -> Outcome) {
        let alone = |line: String| drop(round(if self.me.0 == 0 { &line } else { "" }));
        if self.ranks < of {
            return alone(format!("print not run {name}: it needs {of} ranks"));
        }
        let made = (self.me.0 == 0).then(|| self.calls.unique_id());
        let word = match &made {
            Some(Ok(id)) => hex(id),
            Some(Err(code)) => self.calls.explain(*code),
            None => String::new(),
        };
        let words = round(&word);
        let began = Instant::now();
        let outcome = id(&words[0]).and_then(|id| body(self, &id, of));
        let seconds = began.elapsed().as_secs_f64();
        let said = match &outcome {
            Ok(what) => format!("ok {what}"),
            Err(error) => format!("rank {}: {error}", self.me.0),
        };
        let all = round(&said);
        let faults: Vec<_> = all
            .iter()
            .filter(|word| !word.starts_with("ok "))
            .cloned()
            .collect();
        let line = match &faults[..] {
            [] => format!(
                "ok      {name}: {seconds:.3} s {}",
                all[0].trim_start_matches("ok ")
            ),
            faults => format!("FAILED  {name}: {seconds:.3} s: {}", faults.join("; ")),
        };
        alone(format!("print {line}"));
    }

    fn members(of: u32) -> Result<Members, Fault> {
        Members::new((0..of).map(RankId).collect())
    }

    fn group(&self, id: &UniqueId, of: u32) -> Result<Option<Group>, Fault> {
        match self.me.0 < of {
            true => Group::meet(&self.calls, Self::members(of)?, self.me, id, &options()).map(Some),
            false => Ok(None),
        }
    }

    fn meet_and_finish(&self, id: &UniqueId, of: u32) -> Outcome {
        let began = Instant::now();
        let Some(group) = self.group(id, of)? else {
            return Ok(String::new());
        };
        let met = began.elapsed().as_secs_f64();
        group.finish()?;
        Ok(format!("(until it stood {met:.3} s)"))
    }

    /// From rank 0 to rank 1, checked, then timed.
    fn transfer(&self, id: &UniqueId, of: u32) -> Outcome {
        let Some(mut group) = self.group(id, of)? else {
            return Ok(String::new());
        };
        let rate = self.exchange(&mut group, RankId(0), RankId(1))?;
        group.finish()?;
        Ok(format!("({rate:.2} GB/s)"))
    }

    fn exchange(
        &self,
        group: &mut Group,
        from: RankId,
        to: RankId,
    ) -> Result<f64, Box<dyn std::error::Error>> {
        let bytes = self.bytes;
        let piece = self.calls.memory(bytes)?;
        let sent: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
        let mut began = Instant::now();
        for turn in 0..5 {
            if self.me == from {
                if turn == 0 {
                    group.communicator().copy_in(&piece, &sent)?;
                }
                group.send(&piece, bytes, to)?;
            } else if self.me == to {
                group.recv(&piece, bytes, from)?;
            }
            if turn == 0 {
                began = Instant::now();
            }
        }
        let rate = 4.0 * bytes as f64 / began.elapsed().as_secs_f64() / 1e9;
        if self.me == to {
            let mut got = vec![0; bytes];
            group.communicator().copy_out(&piece, &mut got)?;
            if got != sent {
                return Err("the bytes that came aren't those that were sent".into());
            }
        }
        Ok(rate)
    }

    /// Rank 0 sends what rank 1 doesn't receive.
    fn abort(&self, id: &UniqueId, of: u32) -> Outcome {
        let Some(mut group) = self.group(id, of)? else {
            return Ok(String::new());
        };
        if self.me.0 == 0 {
            self.hang(&mut group, RankId(1))?;
        } else {
            std::thread::sleep(Duration::from_secs(2));
        }
        let began = Instant::now();
        group.communicator().abort();
        Ok(format!("(the abort {:.3} s)", began.elapsed().as_secs_f64()))
    }

    fn hang(&self, group: &mut Group, on: RankId) -> Result<(), Box<dyn std::error::Error>> {
        let quick = NcclOptions {
            transfer: Duration::from_secs(1),
            ..options()
        };
        group.communicator().set_options(&quick);
        let hung = group.send(&self.calls.memory(self.bytes)?, self.bytes, on);
        group.communicator().set_options(&options());
        match hung {
            Err(Fault::Hung { .. }) => Ok(()),
            other => Err(format!("a transfer that nobody takes gave {other:?}").into()),
        }
    }

    fn split(&self, id: &UniqueId, of: u32) -> Outcome {
        let Some(mut group) = self.group(id, of)? else {
            return Ok(String::new());
        };
        let began = Instant::now();
        let colours: BTreeMap<_, _> = (0..of).map(|rank| (RankId(rank), 0)).collect();
        let mut lane = group.split(self.me, &colours)?;
        let split = began.elapsed().as_secs_f64();
        self.exchange(&mut lane, RankId(1), RankId(0))?;
        lane.finish()?;
        group.finish()?;
        Ok(format!("(the split {split:.3} s)"))
    }

    /// The last of them leaves.
    fn shrink(&self, id: &UniqueId, of: u32) -> Outcome {
        let of = of.max(self.ranks.min(3));
        let Some(group) = self.group(id, of)? else {
            return Ok(String::new());
        };
        let lost = RankId(of - 1);
        if self.me == lost {
            std::thread::sleep(Duration::from_secs(2));
            return Ok(String::new());
        }
        let began = Instant::now();
        let mut left = group.shrink(&BTreeSet::from([lost]), Shrink::Quiet)?;
        let shrunk = began.elapsed().as_secs_f64();
        if left.members().count() > 1 {
            self.exchange(&mut left, RankId(0), RankId(1))?;
        }
        Ok(format!("(to {} ranks, {shrunk:.3} s)", left.members().count()))
    }

    /// Rank 0 hangs on the last, which leaves.
    fn shrink_hung(&self, id: &UniqueId, of: u32) -> Outcome {
        let Some(mut group) = self.group(id, of)? else {
            return Ok(String::new());
        };
        let lost = RankId(of - 1);
        if self.me == lost {
            std::thread::sleep(Duration::from_secs(4));
            return Ok(String::new());
        }
        if self.me.0 == 0 {
            self.hang(&mut group, lost)?;
        }
        let began = Instant::now();
        let mut left = group.shrink(&BTreeSet::from([lost]), Shrink::Abort)?;
        let shrunk = began.elapsed().as_secs_f64();
        self.exchange(&mut left, RankId(0), RankId(1))?;
        Ok(format!("(the shrink {shrunk:.3} s)"))
    }

    /// The last joins the others.
    fn grow(&self, id_of_all: &UniqueId, of: u32) -> Outcome {
        let newcomer = RankId(of - 1);
        let group = self.group(id_of_all, of - 1);
        let made = match &group {
            Ok(Some(group)) if self.me.0 == 0 => group.grow_id().map(Some),
            _ => Ok(None),
        };
        let word = made
            .as_ref()
            .ok()
            .and_then(Option::as_ref)
            .map(hex)
            .unwrap_or_default();
        // Whatever went wrong, everybody comes here.
        let words = round(&word);
        let (group, made, joined) = (group?, made?, id(&words[0])?);
        let began = Instant::now();
        let mut grown = match group {
            Some(group) => group.grow(&[newcomer], made.as_ref())?,
            None if self.me == newcomer => {
                Group::join(&self.calls, Self::members(of)?, self.me, &joined, &options())?
            }
            None => return Ok(String::new()),
        };
        let seconds = began.elapsed().as_secs_f64();
        self.exchange(&mut grown, RankId(0), newcomer)?;
        grown.finish()?;
        Ok(format!("(the grow {seconds:.3} s)"))
    }

    /// The whole transport between ranks 0 and 1, beside TCP alone.
    fn transport(&self, _id: &UniqueId, of: u32) -> Outcome {
        let tcp = TcpEndpoint::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let words = round(&tcp.local_addr().to_string());
        if self.me.0 >= of {
            return Ok(String::new());
        }
        let peer = RankId(1 - self.me.0);
        let address: SocketAddr = words[peer.0 as usize].parse()?;
        let mut rates = Vec::new();
        let required = NcclOptions {
            required: true,
            ..options()
        };
        let mut endpoint = NcclEndpoint::new(tcp, Some(Arc::clone(&self.calls)), required.clone());
        for (epoch, least_bytes) in [(1, 1 << 30), (2, 1)] {
            let member = Identity {
                job: JobId::new("nccl-check")?,
                epoch: Epoch(epoch),
                rank: self.me,
                world: 2,
            };
            endpoint.set_options(NcclOptions {
                least_bytes,
                ..required.clone()
            });
            let (peers, links) = (BTreeMap::from([(peer, address)]), BTreeSet::from([peer]));
            let deadline = Deadline::after(Duration::from_secs(60));
            let transport = endpoint.connect(member, &peers, &links, &Options::default(), deadline)?;
            rates.push(both_ways(&transport, peer, self.bytes / 4)?);
        }
        Ok(format!(
            "(from host to host, both ways at once: TCP {:.2} GB/s, NCCL {:.2} GB/s)",
            rates[0], rates[1]
        ))
    }
}

fn both_ways(
    transport: &dyn Transport,
    peer: RankId,
    frame_bytes: usize,
) -> Result<f64, Box<dyn std::error::Error>> {
    const FRAMES: u32 = 16;
    let tag = |i| Tag::new(TagKind::Activation, 0, i);
    let deadline = Deadline::after(Duration::from_secs(60));
    let mut began = Instant::now();
    for i in 0..=FRAMES {
        let mark = u64::from(i) << 32 | u64::from(transport.rank().0);
        transport.send(peer, tag(i), Payload::vec(vec![mark; frame_bytes / 8]), deadline)?;
        let frame = transport.recv(peer, tag(i), deadline)?;
        let expected = u64::from(i) << 32 | u64::from(peer.0);
        if !frame
            .slice_of::<u64>(frame_bytes / 8)?
            .iter()
            .all(|&word| word == expected)
        {
            return Err("a frame came with other bytes than were sent".into());
        }
        if i == 0 {
            began = Instant::now();
        }
    }
    Ok(2.0 * f64::from(FRAMES) * frame_bytes as f64 / began.elapsed().as_secs_f64() / 1e9)
}

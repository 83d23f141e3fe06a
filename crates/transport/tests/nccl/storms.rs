//! Traffic between all ranks while something goes wrong at a moment and in a way that a seed draws: every call ends,
//! nothing is called that could deadlock, and what arrives is what was sent.

use std::time::Duration;

use rekindle_compute::cuda::nccl::Code;
use rekindle_transport::conformance::member;
use rekindle_transport::nccl::{NcclOptions, NcclTransport};
use rekindle_transport::{Deadline, Options, Payload, Tag, TagKind, Transport, TransportError};
use rekindle_types::RankId;

use super::conformance::{connect, endpoint};
use super::simulated::Cluster;

const RANKS: u32 = 3;
const FRAMES: u32 = 60;
const SEEDS: u64 = 24;

fn far() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// splitmix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

fn payload(from: u32, to: u32, i: u32) -> Vec<u32> {
    vec![from << 24 | to << 16 | i; 1 + (i as usize * 977) % 20_000]
}

/// Sends to and receives from everybody at once, and how each of the two ended. Who fails aborts, as a trainer does.
fn traffic(t: &NcclTransport) -> [Result<(), TransportError>; 2] {
    let aborting = |result: Result<(), TransportError>| {
        if result.is_err() {
            t.abort("lost a peer");
        }
        result
    };
    let me = t.rank().0;
    let others: Vec<u32> = (0..RANKS).filter(|&rank| rank != me).collect();
    std::thread::scope(|scope| {
        let sends = scope.spawn(|| {
            let sent = (0..FRAMES).try_for_each(|i| {
                others.iter().try_for_each(|&to| {
                    let tag = Tag::new(TagKind::Activation, 0, i % 3);
                    t.send(RankId(to), tag, Payload::vec(payload(me, to, i)), far())
                })
            });
            aborting(sent.and_then(|()| t.flush(far())))
        });
        let receives = (0..FRAMES).try_for_each(|i| {
            others.iter().try_for_each(|&from| {
                let tag = Tag::new(TagKind::Activation, 0, i % 3);
                let frame = t.recv(RankId(from), tag, far())?;
                assert!(
                    frame.as_slice::<u32>()? == payload(from, me, i),
                    "frame {i} from {from}"
                );
                Ok(())
            })
        });
        [aborting(receives), sends.join().unwrap()]
    })
}

fn ended(result: Result<(), TransportError>, fault: u64) {
    match result {
        // It may have been over before.
        Ok(()) => {}
        Err(TransportError::DeadlineExceeded { .. } | TransportError::InboxFull { .. }) => {
            panic!("fault {fault}: {result:?}")
        }
        Err(_) => assert!(fault > 0, "without a fault: {result:?}"),
    }
}

#[test]
fn whatever_goes_wrong_in_the_middle_of_traffic_ends() {
    for seed in 0..SEEDS {
        let mut numbers = Numbers(seed);
        let cluster = Cluster::default();
        let nccl = NcclOptions {
            least_bytes: 1 + numbers.below(20_000) as usize,
            hang_up: Duration::from_millis(50),
            required: true,
            ..NcclOptions::default()
        };
        let endpoints: Vec<_> = (0..RANKS).map(|_| endpoint(&cluster, &nccl)).collect();
        let members: Vec<_> = (0..RANKS).map(|rank| member(rank, RANKS)).collect();
        let small = Options {
            outbox_bytes: 128 << 10,
            linger: Duration::from_millis(200),
            ..Options::default()
        };
        let world: Vec<_> = connect(&members, &endpoints.iter().collect::<Vec<_>>(), &small, far())
            .into_iter()
            .map(Result::unwrap)
            .collect();
        let (fault, victim) = (seed % 6, numbers.below(u64::from(RANKS)) as u32);
        let after = numbers.below(2 * u64::from(FRAMES)) as usize;
        std::thread::scope(|scope| {
            let threads: Vec<_> = world.iter().map(|t| scope.spawn(move || traffic(t))).collect();
            let until = far();
            while cluster.transfers() < after && !threads.iter().all(|t| t.is_finished()) {
                assert!(until.remaining().is_some(), "seed {seed}: no transfers");
                std::thread::yield_now();
            }
            match fault {
                0 => {}
                1 => world[victim as usize].abort("new plan"),
                2 => cluster.plant(victim, "recv", Code(4321)),
                3 => cluster.plant(victim, "state", Code::REMOTE),
                4 => cluster.die(victim, true),
                _ => {
                    cluster.die(victim, false);
                    world[victim as usize].abort("dead");
                }
            }
            for thread in threads {
                thread
                    .join()
                    .unwrap()
                    .into_iter()
                    .for_each(|result| ended(result, fault));
            }
        });
        drop(world);
        drop(endpoints);
        cluster.check();
    }
}

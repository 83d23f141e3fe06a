//! The NCCL transport over the bindings of the real NCCL, with a device for each rank: NCCL refuses two ranks of one
//! process on one device. What fewer devices can show is in `examples/nccl_check`, which has a process for each rank.
//!
//! Where NCCL or devices are missing this says that it did not run; with REKINDLE_REQUIRE_NCCL=1 that is a failure.
//! The bindings themselves are run everywhere: `stand_in.c` has the functions of CUDA's driver and of NCCL that they
//! call, and both this test and the example run over it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod stand_in;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rekindle_compute::cuda::nccl::{Calls, Nccl};
use rekindle_compute::cuda::survey::survey;
use rekindle_transport::conformance::{ALL, Boxed, Forger, Harness, Tcp};
use rekindle_transport::nccl::{NcclEndpoint, NcclOptions};
use rekindle_transport::{Deadline, Identity, Options, TcpEndpoint, TransportError};
use rekindle_types::RankId;

/// The most ranks that a check has.
const RANKS: usize = 5;

/// NCCL on as many devices as the checks need.
fn devices() -> Option<Vec<Arc<dyn Calls>>> {
    let opened: Result<Vec<_>, String> = match survey().devices {
        devices if devices.len() < RANKS => Err(format!("{} devices, {RANKS} are needed", devices.len())),
        devices => devices[..RANKS]
            .iter()
            .map(|device| match Nccl::open(device.ordinal) {
                Ok(nccl) => Ok(Arc::new(nccl) as Arc<dyn Calls>),
                Err(error) => Err(error.to_string()),
            })
            .collect(),
    };
    match opened {
        Ok(devices) => Some(devices),
        Err(why) => {
            assert!(std::env::var_os("REKINDLE_REQUIRE_NCCL").is_none(), "{why}");
            eprintln!("DID NOT RUN: {why}");
            None
        }
    }
}

struct Real(Vec<Arc<dyn Calls>>);

impl Harness for Real {
    fn connect(
        &self,
        members: &[Identity],
        options: &Options,
        deadline: Deadline,
    ) -> Vec<Result<Boxed, TransportError>> {
        let nccl = NcclOptions {
            required: true,
            least_bytes: 1,
            ..NcclOptions::default()
        };
        let bind = |calls: &Arc<dyn Calls>| {
            let tcp = TcpEndpoint::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            NcclEndpoint::new(tcp, Some(Arc::clone(calls)), nccl.clone())
        };
        let endpoints: Vec<_> = self.0[..members.len()].iter().map(bind).collect();
        let peers: BTreeMap<RankId, SocketAddr> = members
            .iter()
            .zip(&endpoints)
            .map(|(m, e)| (m.rank, e.local_addr()))
            .collect();
        std::thread::scope(|scope| {
            let peers = &peers;
            let threads: Vec<_> = members
                .iter()
                .zip(&endpoints)
                .map(|(me, endpoint)| {
                    scope.spawn(move || {
                        let links: BTreeSet<_> = peers.keys().copied().filter(|&r| r != me.rank).collect();
                        endpoint
                            .connect(me.clone(), peers, &links, options, deadline)
                            .map(|t| Box::new(t) as Boxed)
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }

    fn forge(&self, options: &Options) -> (Boxed, Box<dyn Forger>) {
        // What isn't a frame never comes to NCCL.
        Tcp.forge(options)
    }
}

#[test]
fn the_real_one_conforms() {
    let Some(devices) = devices() else { return };
    let harness = Real(devices);
    for (name, check) in ALL {
        eprintln!("{name}");
        check(&harness);
    }
}

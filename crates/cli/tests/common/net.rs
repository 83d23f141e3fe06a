//! A network of network namespaces: a coordinator's and one for each worker, joined by a bridge, each with a link
//! that can be cut.
//!
//! ```text
//!   coordinator 10.77.0.1 ─ eth0 ══ p0 ─┐
//!   worker 0    10.77.0.2 ─ eth0 ══ p1 ─┼─ bridge, in a namespace of its own
//!   worker 1    10.77.0.3 ─ eth0 ══ p2 ─┘
//! ```
//!
//! A cut drops every packet in silence, as a dead switch does: connections stay open and nobody is told. Needs root
//! and iproute2.

use std::process::{Command, Output};

/// The namespaces; removed when it is dropped.
#[derive(Debug)]
pub struct Net {
    name: String,
    nodes: usize,
}

/// The coordinator's node; worker `n` has node `n + 1`.
pub const COORDINATOR: usize = 0;

/// Runs `ip`; what it says on stderr is the error.
fn ip(args: &[&str]) -> Result<Output, String> {
    let run = Command::new("ip").args(args).output();
    let done = run.map_err(|e| format!("`ip` can't be run: {e}; install iproute2"))?;
    if done.status.success() {
        return Ok(done);
    }
    let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(format!("`ip {}`: {why}", args.join(" ")))
}

impl Net {
    /// Makes one for a coordinator and so many workers. `name` must be unique on this machine, and short.
    ///
    /// # Errors
    /// This process may not make namespaces, or there is no iproute2.
    pub fn make(name: &str, workers: usize) -> Result<Self, String> {
        let net = Self {
            name: name.to_owned(),
            nodes: workers + 1,
        };
        let hub = net.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "bridge", "up"])?;
        for node in 0..net.nodes {
            net.join(node)?;
        }
        Ok(net)
    }

    fn join(&self, node: usize) -> Result<(), String> {
        let (hub, own, port) = (self.hub(), self.namespace(node), port(node));
        ip(&["netns", "add", &own])?;
        ip(&["-n", &own, "link", "set", "lo", "up"])?;
        let peer = ["type", "veth", "peer", "name", "eth0", "netns", &own];
        ip(&[&["-n", &hub, "link", "add", &port], &peer[..]].concat())?;
        ip(&["-n", &hub, "link", "set", &port, "master", "bridge", "up"])?;
        let address = format!("{}/24", self.address(node));
        ip(&["-n", &own, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &own, "link", "set", "eth0", "up"])?;
        Ok(())
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    /// The namespace of a node.
    #[must_use]
    pub fn namespace(&self, node: usize) -> String {
        format!("{}-{node}", self.name)
    }

    /// The address of a node.
    #[must_use]
    pub fn address(&self, node: usize) -> String {
        format!("10.77.0.{}", node + 1)
    }

    /// Cuts a node off from all others, or ends that.
    ///
    /// # Panics
    /// The network can't be changed.
    pub fn cut(&self, node: usize, cut: bool) {
        let state = if cut { "down" } else { "up" };
        ip(&["-n", &self.hub(), "link", "set", &port(node), state]).unwrap();
    }

    /// Cuts one node off from one other, or ends that: each has a link address of the other's that nobody has.
    ///
    /// # Panics
    /// The network can't be changed.
    pub fn part(&self, a: usize, b: usize, cut: bool) {
        for (from, to) in [(a, b), (b, a)] {
            let (own, address) = (self.namespace(from), self.address(to));
            let nobody = ["lladdr", "02:00:00:00:00:ff", "nud", "permanent"];
            let neighbour = |verb| vec!["-n", &own, "neigh", verb, &address, "dev", "eth0"];
            let done = match cut {
                true => ip(&[neighbour("replace"), nobody.to_vec()].concat()),
                false => ip(&neighbour("del")),
            };
            done.unwrap();
        }
    }
}

fn port(node: usize) -> String {
    format!("p{node}")
}

impl Drop for Net {
    fn drop(&mut self) {
        for node in 0..self.nodes {
            let _ = ip(&["netns", "del", &self.namespace(node)]);
        }
        let _ = ip(&["netns", "del", &self.hub()]);
    }
}

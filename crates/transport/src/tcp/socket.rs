//! Settings of one data connection, and reads that obey a deadline (for handshakes).

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::{Deadline, Options};

/// How often a blocked handshake looks whether it is still wanted.
const SLICE: Duration = Duration::from_millis(50);

/// Applies what can be applied; a refused setting costs speed, not correctness, so it is only logged.
pub(crate) fn tune(stream: &TcpStream, options: &Options) {
    let socket = SockRef::from(stream);
    let log = |what: &str, result: std::io::Result<()>| {
        if let Err(error) = result {
            tracing::debug!(%error, what, "socket setting refused");
        }
    };
    log("nodelay", stream.set_nodelay(true));
    if let Some(bytes) = options.socket_buffer_bytes {
        log("send buffer", socket.set_send_buffer_size(bytes));
        log("receive buffer", socket.set_recv_buffer_size(bytes));
    }
    let keepalive = TcpKeepalive::new()
        .with_time(options.keepalive_idle)
        .with_interval(options.keepalive_interval)
        .with_retries(4);
    log("keepalive", socket.set_tcp_keepalive(&keepalive));
    if is_loopback(stream) {
        // Pacing controls such as bbr halve the bandwidth of loopback, where there is nothing to control.
        log("cubic", socket.set_tcp_congestion(b"cubic"));
    }
}

fn is_loopback(stream: &TcpStream) -> bool {
    match (stream.peer_addr(), stream.local_addr()) {
        (Ok(peer), Ok(local)) => peer.ip().is_loopback() || peer.ip() == local.ip(),
        _ => false,
    }
}

/// Reads exactly `buffer`, by `deadline`, unless `stop` is set meanwhile.
pub(crate) fn read_by(
    mut stream: &TcpStream,
    buffer: &mut [u8],
    deadline: Deadline,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        let left = deadline.remaining().ok_or(ErrorKind::TimedOut)?;
        if stop.load(Ordering::Relaxed) {
            return Err(ErrorKind::Interrupted.into());
        }
        stream.set_read_timeout(Some(left.min(SLICE)))?;
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => filled += n,
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(e) => return Err(e),
        }
    }
    stream.set_read_timeout(None)
}

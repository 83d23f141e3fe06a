//! A server that speaks S3, on loopback, for the length of a test. The tests of the command line use this file as well.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    dead_code,
    reason = "not every test uses everything"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The one bucket there is.
pub const BUCKET: &str = "rekindle-test";

/// A running server; ended when dropped.
pub struct S3Server {
    child: Child,
    port: u16,
}

impl S3Server {
    /// Starts one; none, and a word about it, where it can't be had and nobody requires it.
    pub fn start() -> Option<Self> {
        let Some(program) = program() else {
            let why =
                "there is no S3 server: set REKINDLE_MOTO_SERVER to what scripts/s3-test-server.sh prints";
            assert!(std::env::var_os("REKINDLE_REQUIRE_S3").is_none(), "{why}");
            eprintln!("NOT RUN: the S3 part of this test; {why}");
            return None;
        };
        // Another process may take the port between the two lines; then the server ends at once, and we try again.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let child = Command::new(&program)
                .args(["-H", "127.0.0.1", "-p", &port.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
            let mut server = Self { child, port };
            if server.is_up() {
                server.create_bucket();
                return Some(server);
            }
        }
        panic!("{} doesn't come up", program.display());
    }

    /// What a process needs to find it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        environment(self.port)
    }

    fn is_up(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(120);
        while Instant::now() < deadline {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    fn create_bucket(&self) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(
            stream,
            "PUT /{BUCKET} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Environment variables of a client of a server at `port`.
pub fn environment(port: u16) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT", format!("http://127.0.0.1:{port}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
    ]
}

fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("REKINDLE_MOTO_SERVER") {
        return Some(PathBuf::from(path));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("moto_server"))
        .find(|program| program.is_file())
}

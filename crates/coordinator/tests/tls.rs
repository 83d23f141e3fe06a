//! With certificates: encrypted, and closed to who has none of the right signer.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{Running, soon};
use rekindle_client::{Client, Options, Tls};
use rekindle_coordinator::{CoordinatorConfig, ServeError, TlsFiles, bind};

/// Makes a CA and a certificate for 127.0.0.1 that it signed; whether the machine has what that takes.
fn make_certificates(folder: &Path) -> bool {
    let extension = "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
    std::fs::write(folder.join("leaf.ext"), extension).unwrap();
    let ec = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let steps = [
        format!("req -x509 {ec} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca"),
        format!("req {ec} -keyout leaf.key -out leaf.csr -subj /CN=test-leaf"),
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out leaf.pem -days 2 -extfile leaf.ext".into(),
    ];
    steps.iter().all(|step| {
        let mut openssl = Command::new("openssl");
        let run = openssl.current_dir(folder).args(step.split(' ')).output();
        run.is_ok_and(|output| output.status.success())
    })
}

fn config(folder: &Path, client_ca: bool) -> CoordinatorConfig {
    CoordinatorConfig {
        tls: Some(TlsFiles {
            cert: folder.join("leaf.pem"),
            key: folder.join("leaf.key"),
            client_ca: client_ca.then(|| folder.join("ca.pem")),
        }),
        ..CoordinatorConfig::new("127.0.0.1:0".parse().unwrap(), folder.join("state"))
    }
}

#[tokio::test]
async fn only_the_right_certificates_connect() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    if !make_certificates(path) {
        eprintln!("no usable openssl command here: connections with certificates are NOT tested");
        return;
    }
    let coordinator = Running::start_with(config(path, true)).await;
    let ca_pem = std::fs::read(path.join("ca.pem")).unwrap();
    let pair = (
        std::fs::read(path.join("leaf.pem")).unwrap(),
        std::fs::read(path.join("leaf.key")).unwrap(),
    );
    let with = |identity_pem| Options {
        tls: Some(Tls {
            ca_pem: ca_pem.clone(),
            identity_pem,
            domain: None,
        }),
        attempts: 1,
        ..Options::default()
    };
    let address = coordinator.address.to_string();
    let known = Client::connect(&address, with(Some(pair))).await.unwrap();
    soon("an answer", known.cluster()).await.unwrap();
    let refused = async |options| match Client::connect(&address, options).await {
        Ok(client) => soon("an answer", client.cluster()).await.is_err(),
        Err(_) => true,
    };
    assert!(refused(with(None)).await, "a client without a certificate");
    let plain = Options {
        attempts: 1,
        ..Options::default()
    };
    assert!(refused(plain).await, "a client without TLS");
    coordinator.stop().await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = bind(config(folder.path(), false)).await.unwrap_err();
    assert!(matches!(error, ServeError::TlsFile { .. }));
    assert!(error.to_string().contains("leaf.pem"), "{error}");
    for name in ["leaf.pem", "leaf.key"] {
        std::fs::write(folder.path().join(name), "no certificate").unwrap();
    }
    let run = async {
        bind(config(folder.path(), false))
            .await?
            .run(<_>::default())
            .await
    };
    let error = soon("a refusal", run).await.unwrap_err();
    assert!(matches!(error, ServeError::Tls { .. }), "{error}");
}

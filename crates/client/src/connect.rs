//! Where the coordinator is, and the channel to it.

use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::ClientError;
use crate::error::causes;

/// How to speak with the coordinator.
#[derive(Debug, Clone)]
pub struct Options {
    /// Deadline of a connection attempt.
    pub connect_timeout: Duration,
    /// Deadline of a unary call.
    pub timeout: Duration,
    /// Deadline of a submission.
    pub submit_timeout: Duration,
    /// How often a call that may be made again is made at most.
    pub attempts: u32,
    /// How long a broken stream is tried to be opened again.
    pub reconnect_limit: Duration,
    /// Certificates; none: without TLS.
    pub tls: Option<Tls>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            submit_timeout: Duration::from_secs(60),
            attempts: 4,
            reconnect_limit: Duration::from_secs(60),
            tls: None,
        }
    }
}

/// Certificates in PEM.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Who signed the coordinator's certificate.
    pub ca_pem: Vec<u8>,
    /// Our certificate and key, where the coordinator asks for one.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in the coordinator's certificate, where it isn't the host of the endpoint.
    pub domain: Option<String>,
}

/// A connection to a coordinator. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) channel: Channel,
    pub(crate) endpoint: String,
    pub(crate) options: Options,
}

impl Client {
    /// Connects to the coordinator at `endpoint` (`http://HOST:PORT`, `https://HOST:PORT` or `HOST:PORT`).
    ///
    /// # Errors
    /// [`ClientError`]: an impossible address, or nothing that answers there.
    pub async fn connect(endpoint: &str, options: Options) -> Result<Self, ClientError> {
        let (url, target) = target(endpoint, &options)?;
        let channel = target.connect().await.map_err(|e| ClientError::Unreachable {
            endpoint: url.clone(),
            why: causes(&e),
        })?;
        Ok(Self {
            channel,
            endpoint: url,
            options,
        })
    }

    /// The coordinator's address.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// The full address and what tonic makes of it.
fn target(endpoint: &str, options: &Options) -> Result<(String, Endpoint), ClientError> {
    let bad = |why: String| ClientError::BadEndpoint {
        endpoint: endpoint.to_owned(),
        why,
    };
    let url = match (endpoint.contains("://"), &options.tls) {
        (true, _) => endpoint.to_owned(),
        (false, None) => format!("http://{endpoint}"),
        (false, Some(_)) => format!("https://{endpoint}"),
    };
    let target = Endpoint::from_shared(url.clone()).map_err(|e| bad(causes(&e)))?;
    let uri = target.uri();
    if uri.host().is_none_or(str::is_empty) || uri.port().is_none() {
        return Err(bad("it has no host or no port".to_owned()));
    }
    let scheme = uri.scheme_str().unwrap_or_default().to_owned();
    let target = target
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    match (scheme.as_str(), &options.tls) {
        ("http", None) => Ok((url, target)),
        ("https", Some(tls)) => {
            let target = target
                .tls_config(tls_config(tls))
                .map_err(|e| ClientError::BadTls {
                    endpoint: url.clone(),
                    why: causes(&e),
                })?;
            Ok((url, target))
        }
        ("http", Some(_)) => Err(bad(
            "certificates were given, but http is not encrypted; use https".into(),
        )),
        ("https", None) => Err(bad(
            "https needs the certificate of who signed the coordinator's (a CA file)".into(),
        )),
        _ => Err(bad(format!("{scheme} is neither http nor https"))),
    }
}

fn tls_config(tls: &Tls) -> ClientTlsConfig {
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca_pem));
    if let Some((cert, key)) = &tls.identity_pem {
        config = config.identity(Identity::from_pem(cert, key));
    }
    if let Some(domain) = &tls.domain {
        config = config.domain_name(domain);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed_or_refused_with_a_reason() {
        let plain = Options::default();
        let secure = Options {
            tls: Some(Tls::default()),
            ..Options::default()
        };
        assert_eq!(
            target("127.0.0.1:7070", &plain).unwrap().0,
            "http://127.0.0.1:7070"
        );
        for (endpoint, options, why) in [
            ("localhost", &plain, "no port"),
            ("ftp://localhost:1", &plain, "neither http nor https"),
            ("https://localhost:1", &plain, "CA file"),
            ("http://localhost:1", &secure, "not encrypted"),
            ("", &plain, "no coordinator address"),
        ] {
            let error = target(endpoint, options).unwrap_err().to_string();
            assert!(error.contains(why), "{endpoint}: {error}");
        }
    }
}

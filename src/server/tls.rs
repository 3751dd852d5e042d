//! TLS, by rustls: 1.2 and 1.3.

use std::{fmt, time::Duration};

use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The certificate of a server, for [`Listener::with_tls`](crate::Listener::with_tls).
#[derive(Clone)]
pub struct Tls(pub(super) ServerTlsConfig);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Why a server cannot have a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be used for TLS: {0}")]
pub struct BadTls(String);

impl Tls {
    /// A certificate, with those that lead to its issuer behind it, and its private key, both as PEM.
    ///
    /// # Errors
    /// [`BadTls`] if there is none in them, or they do not belong together.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Tls, BadTls> {
        let config = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificates, key))
            .timeout(HANDSHAKE_TIMEOUT);
        Tls(config).checked()
    }

    /// Asks whoever connects for a certificate of this issuer, PEM as well. Who has none may bring a token.
    ///
    /// # Errors
    /// [`BadTls`] if there is none in it.
    pub fn asking_for_certificates_of(self, issuer: &[u8]) -> Result<Tls, BadTls> {
        let issuer = Certificate::from_pem(issuer);
        Tls(self.0.client_ca_root(issuer).client_auth_optional(true)).checked()
    }

    /// What a server would say that is started with it.
    fn checked(self) -> Result<Tls, BadTls> {
        let started = Server::builder().tls_config(self.0.clone());
        started.map_err(|error| BadTls(root_cause(&error)))?;
        Ok(self)
    }
}

fn root_cause(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

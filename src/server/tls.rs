//! TLS 1.2 and 1.3, by rustls.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    },
};

/// The protocol that a client must offer by ALPN. A client that does not is refused in the handshake.
pub(super) type Protocol = &'static [u8];
/// HTTP/2, which gRPC needs.
pub(super) const HTTP2: Protocol = b"h2";
/// HTTP/1.1.
#[cfg(feature = "http")]
pub(super) const HTTP1: Protocol = b"http/1.1";

/// The certificate of a server, for [`Listener::with_tls`](crate::Listener::with_tls). Clones share it: [`Tls::replace`] changes
/// all of them.
#[derive(Clone)]
pub struct Tls {
    current: Arc<RwLock<Arc<ServerConfig>>>,
    certificates: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Why a server cannot use a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be used for TLS: {0}")]
pub struct BadTls(String);

impl BadTls {
    fn because(error: &impl fmt::Display) -> BadTls {
        BadTls(error.to_string())
    }
}

impl Tls {
    /// A certificate, followed by those that lead to its issuer, and its private key, both as PEM.
    ///
    /// # Errors
    /// [`BadTls`] if the PEM holds none, or the key belongs to another certificate.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Tls, BadTls> {
        let certificates = certificates_in(certificates)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| BadTls(format!("no private key is in it: {error}")))?;
        let no_certificates = WebPkiClientVerifier::no_client_auth();
        let config = config(&certificates, &key, no_certificates)?;
        Ok(Tls {
            current: Arc::new(RwLock::new(config)),
            certificates,
            key: Arc::new(key),
        })
    }

    /// Asks clients for a certificate of this issuer, which is PEM, too. A client without one may send a token.
    ///
    /// # Errors
    /// [`BadTls`] if the PEM holds no certificate.
    pub fn asking_for_certificates_of(self, issuer: &[u8]) -> Result<Tls, BadTls> {
        let mut issuers = RootCertStore::empty();
        for certificate in certificates_in(issuer)? {
            let added = issuers.add(certificate);
            added.map_err(|error| BadTls::because(&error))?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(issuers), provider().into())
                .allow_unauthenticated()
                .build()
                .map_err(|error| BadTls::because(&error))?;
        let config = config(&self.certificates, &self.key, verifier)?;
        Ok(Tls {
            current: Arc::new(RwLock::new(config)),
            ..self
        })
    }

    /// Replaces the certificate for new connections, also on servers that run already. Open connections go on.
    pub fn replace(&self, with: &Tls) {
        let config = with.config();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Makes TLS connections on which this protocol is spoken.
    pub(super) fn acceptor(&self, protocol: Protocol) -> TlsAcceptor {
        let config = self.config();
        // The configuration is copied only if its protocol differs.
        if config.alpn_protocols == [protocol] {
            return TlsAcceptor::from(config);
        }
        let mut config = (*config).clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    fn config(&self) -> Arc<ServerConfig> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }
}

/// The provider that is compiled in, whatever the surrounding program uses by default.
fn provider() -> CryptoProvider {
    ring::default_provider()
}

fn certificates_in(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadTls> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| BadTls::because(&error))?;
    if certificates.is_empty() {
        return Err(BadTls("no certificate is in it".into()));
    }
    Ok(certificates)
}

fn config(
    certificates: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<Arc<ServerConfig>, BadTls> {
    let mut config = ServerConfig::builder_with_provider(provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| BadTls::because(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates.to_vec(), key.clone_key())
        .map_err(|error| BadTls::because(&error))?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(Arc::new(config))
}

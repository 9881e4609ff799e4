//! Which client certificates a TLS handshake takes: those that the file of callers names by their hash, and those that
//! the configured authority has signed. A client without one goes on, and shows a token.

use std::fmt;
use std::sync::{Arc, Weak};

use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
};

use super::papers::Gate;
use crate::api::auth::Certificate;

/// The verifier of one listener.
pub(super) struct Clients {
    provider: Arc<CryptoProvider>,
    authority: Option<Arc<dyn ClientCertVerifier>>,
    gate: Weak<Gate>,
}

impl Clients {
    pub(super) fn new(
        provider: Arc<CryptoProvider>,
        authority: Option<Arc<dyn ClientCertVerifier>>,
        gate: &Arc<Gate>,
    ) -> Self {
        Clients { provider, authority, gate: Arc::downgrade(gate) }
    }

    /// Whether the file of callers names it by its hash.
    fn is_named(&self, certificate: &CertificateDer<'_>) -> bool {
        let hash = Certificate::hash(certificate);
        self.gate.upgrade().is_some_and(|gate| gate.callers().has_certificate(&hash))
    }

    /// The certificate of a client whose handshake was taken.
    pub(super) fn read(&self, chain: &[CertificateDer<'_>]) -> Option<Certificate> {
        let (first, rest) = chain.split_first()?;
        let signed = self
            .authority
            .as_ref()
            .is_some_and(|authority| authority.verify_client_cert(first, rest, UnixTime::now()).is_ok());
        Some(Certificate::of(first, signed))
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Certificates that are named by their hash may be of any authority.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.is_named(end_entity) {
            return Ok(ClientCertVerified::assertion());
        }
        match &self.authority {
            Some(authority) => authority.verify_client_cert(end_entity, intermediates, now),
            None => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("authority", &self.authority.is_some()).finish_non_exhaustive()
    }
}

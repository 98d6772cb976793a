//! TLS settings from values: the public roots, given certificates, or none of it for hosts that are configured insecure.

use std::sync::Arc;

use super::ClientCertificate;
use base64::Engine as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// A configuration that trusts nobody, for clients that speak plain http only: making it costs nothing.
pub(crate) fn nobody() -> Result<ClientConfig, String> {
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// A configuration that trusts the public roots and `extra` (PEM), and shows `own` certificates to those who ask.
pub(crate) fn trusting(extra: impl Iterator<Item = impl AsRef<[u8]>>, own: &[ClientCertificate]) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    for pem in extra {
        // Bundles of real machines hold the odd certificate that webpki does not take; the others still count.
        let (_, _) = roots.add_parsable_certificates(certificates(pem.as_ref())?);
    }
    showing(builder()?.with_root_certificates(roots), own)
}

/// A configuration that takes every certificate, and shows `own` ones to those who ask.
pub(crate) fn anybody(own: &[ClientCertificate]) -> Result<ClientConfig, String> {
    let provider = provider();
    showing(builder()?.dangerous().with_custom_certificate_verifier(Arc::new(TakesAll(provider))), own)
}

fn showing(builder: rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, own: &[ClientCertificate]) -> Result<ClientConfig, String> {
    // A server asks for one; which one of several it would take, it does not say in a way that is worth following.
    let Some(own) = own.first() else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(&own.certificate)?;
    let key =
        PrivateKeyDer::from_pem_slice(&own.key).map_err(|e| format!("the key of its client certificate cannot be read (PEM is expected): {e}"))?;
    builder.with_client_auth_cert(chain, key).map_err(|e| format!("its client certificate cannot be used: {e}"))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, String> {
    ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(|e| e.to_string())
}

/// The certificates in a PEM file.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let text = String::from_utf8_lossy(pem);
    let mut found = Vec::new();
    let mut rest = &text[..];
    while let Some(start) = rest.find(BEGIN) {
        let body = &rest[start + BEGIN.len()..];
        let end = body.find(END).ok_or("a certificate in its CA file has no end")?;
        let digits: String = body[..end].chars().filter(|c| !c.is_whitespace()).collect();
        let der = base64::engine::general_purpose::STANDARD.decode(digits).map_err(|e| format!("a certificate in its CA file is damaged: {e}"))?;
        found.push(CertificateDer::from(der));
        rest = &body[end + END.len()..];
    }
    if found.is_empty() {
        return Err("its CA file holds no certificate (PEM is expected)".into());
    }
    Ok(found)
}

/// Takes every certificate, but still wants the handshake signed with its key.
#[derive(Debug)]
struct TakesAll(Arc<CryptoProvider>);

impl ServerCertVerifier for TakesAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

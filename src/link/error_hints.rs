//! The usual mistakes on the way to the upstream, in a sentence that says what to change. The library's own words stay
//! behind it, for what is not usual.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// What went wrong in a TLS handshake in which the certificate must be for `name`.
pub(super) fn of_handshake(error: &io::Error, name: &str) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(tls) => of_tls(tls, name),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it closed the connection in the handshake: is this a port without TLS (then redis://, not rediss://)?"
                .to_owned()
        }
        None => error.to_string(),
    }
}

/// No answer to the first message of TLS.
pub(super) const SILENT_HANDSHAKE: &str =
    "TLS: no answer to the handshake: is this a port without TLS (then redis://, not rediss://)?";

fn of_tls(error: &Error, name: &str) -> String {
    let hint = match error {
        Error::InvalidCertificate(why) => of_certificate(why, name),
        Error::InvalidMessage(_) => {
            Some("this is no TLS: a port without it (then redis://, not rediss://)?".to_owned())
        }
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::PeerIncompatible(_) => Some("no version or cipher in common (tls.min_version)".to_owned()),
        _ => None,
    };
    hint.map_or_else(|| error.to_string(), |hint| format!("{hint} ({error})"))
}

fn of_certificate(why: &CertificateError, name: &str) -> Option<String> {
    use CertificateError as Is;
    Some(match why {
        Is::UnknownIssuer => {
            "no authority in upstream.tls_ca_file (without it: in the system's list) has signed the upstream's certificate"
                .to_owned()
        }
        Is::NotValidForName | Is::NotValidForNameContext { .. } => {
            format!("the upstream's certificate is not for {name:?}: set upstream.tls_server_name to a name that is in it")
        }
        Is::Expired | Is::ExpiredContext { .. } => "the upstream's certificate has expired".to_owned(),
        Is::NotValidYet | Is::NotValidYetContext { .. } => {
            "the upstream's certificate is not valid yet: is a clock wrong?".to_owned()
        }
        Is::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "the upstream shows an authority's certificate (self-signed): give it one that is signed by that authority, \
             and put the authority's into upstream.tls_ca_file"
                .to_owned()
        }
        _ => return None,
    })
}

fn of_alert(alert: AlertDescription) -> Option<String> {
    use AlertDescription as Is;
    Some(match alert {
        Is::CertificateRequired | Is::HandshakeFailure | Is::NoCertificate => {
            "the upstream wants a certificate of ours: set upstream.tls_cert_file and upstream.tls_key_file".to_owned()
        }
        Is::BadCertificate | Is::UnknownCA | Is::CertificateUnknown | Is::CertificateExpired => {
            "the upstream does not accept the certificate in upstream.tls_cert_file".to_owned()
        }
        Is::ProtocolVersion => "the upstream speaks no version of TLS that tls.min_version allows".to_owned(),
        _ => return None,
    })
}

/// What went wrong before the upstream was known to be a server; `tls` if that is spoken.
pub(super) fn of_greeting(error: &io::Error, tls: bool) -> String {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return format!("TLS: {}", of_tls(error, ""));
    }
    let text = error.to_string();
    let hint = match () {
        // The record type of an alert, and of a handshake.
        () if text.ends_with("byte 0x15") || text.ends_with("byte 0x16") => "it speaks TLS there: use rediss://",
        // "HTTP/1.1 400", "<html>".
        () if text.ends_with("byte 0x48") || text.ends_with("byte 0x3c") => {
            "it answers like a web server: is this the wrong port?"
        }
        () if error.kind() == io::ErrorKind::InvalidData => "it does not answer like a Redis server",
        () if !tls && matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            "it closed the connection at once: does this port want TLS (then rediss://, not redis://)?"
        }
        () => return text,
    };
    format!("{hint} ({text})")
}

//! The tokens and the certificate of a server: read at the start, and again on SIGHUP.

use std::{os::unix::fs::MetadataExt, path::Path};

use tokio::signal::unix::{SignalKind, signal};

use super::{Args, Error};
use crate::{Access, Tls, Tokens};

/// The bit of a file's mode that lets others read the file.
const READABLE_BY_OTHERS: u32 = 0o004;
/// The tokens and the certificate, which are read again on SIGHUP.
pub(super) struct Identity {
    /// Who may call: the bearers of the tokens in the file, or everybody who can connect.
    pub(super) access: Access,
    pub(super) tls: Option<Tls>,
}

impl Identity {
    /// # Errors
    /// Which file is wrong, and why.
    pub(super) fn read(args: &Args) -> Result<Identity, Error> {
        Ok(Identity {
            access: match &args.tokens {
                Some(file) => Access::with_tokens(tokens(file).map_err(Error::Failed)?),
                None => Access::default(),
            },
            tls: tls(args).map_err(Error::Failed)?,
        })
    }

    /// Reads the files again, which SIGHUP asks for. A file that is wrong changes nothing.
    pub(super) fn follow(&self, args: &Args) -> Result<(), Error> {
        let failed = |error: std::io::Error| Error::Failed(format!("could not start: {error}"));
        let mut hangups = signal(SignalKind::hangup()).map_err(failed)?;
        let (access, current) = (self.access.clone(), self.tls.clone());
        let args = args.clone();
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                match args.tokens.as_deref().map(tokens).transpose() {
                    Ok(Some(tokens)) => {
                        tracing::info!(tokens = tokens.len(), "the tokens were read again");
                        access.replace_tokens(tokens);
                    }
                    Ok(None) => {}
                    Err(why) => tracing::error!(%why, "the tokens stay as they were"),
                }
                match tls(&args) {
                    Ok(new) => {
                        if let (Some(current), Some(new)) = (&current, new) {
                            tracing::info!("the certificate was read again");
                            current.replace(&new);
                        }
                    }
                    Err(why) => tracing::error!(%why, "the certificate stays as it was"),
                }
            }
        });
        Ok(())
    }
}

fn tokens(file: &Path) -> Result<Tokens, String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| format!("{shown} cannot be read: {error}"))?;
    Tokens::parse(&text).map_err(|wrong| format!("{shown}: {wrong}"))
}

/// The certificate, if TLS is used.
fn tls(args: &Args) -> Result<Option<Tls>, String> {
    let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) else {
        return Ok(None);
    };
    let read = |file: &Path| {
        std::fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
    };
    let (certificate_pem, key_pem) = (read(certificate)?, read(key)?);
    let mode = std::fs::metadata(key).map_or(0, |metadata| metadata.mode());
    if mode & READABLE_BY_OTHERS != 0 {
        return Err(format!(
            "{} can be read by others: chmod 600 it, and think of another key",
            key.display()
        ));
    }
    let unusable = |files: &[&Path], error: &dyn std::fmt::Display| {
        let files: Vec<_> = files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        format!("{}: {error}", files.join(" with "))
    };
    let tls = Tls::from_pem(&certificate_pem, &key_pem)
        .map_err(|error| unusable(&[certificate, key], &error))?;
    let Some(issuer) = &args.tls_client_ca else {
        return Ok(Some(tls));
    };
    let tls = tls.asking_for_certificates_of(&read(issuer)?);
    tls.map(Some).map_err(|error| unusable(&[issuer], &error))
}

//! How commands reach a server: `--server`, `--project`, and the channel.

use std::{
    fs,
    future::Future,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tonic::{
    Request, Status,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{self, ClientTlsConfig, Endpoint},
};

use super::{
    Error,
    context::{Config, Context},
};
use crate::freezer_json::Documented;

/// How long to wait for a server to take the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for one answer. This is longer than the server lets a write wait.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// With this window a page of 3 MiB arrives without waiting. gRPC's default of 64 KiB halves the rate.
const WINDOW_BYTES: u32 = 4 << 20;

/// The server's address if nothing else names it.
const SERVER_DEFAULT: &str = "127.0.0.1:50051";

/// Which server to call, and which project to work in.
#[derive(clap::Args, Debug, Clone)]
pub struct Connection {
    /// The server: host:port, http://host:port, https://host:port or unix:PATH (default: the context's, or 127.0.0.1:50051)
    #[arg(long, value_name = "ADDR", env = "ICEBOX_SERVER")]
    server: Option<String>,
    /// The project to work in; in lists "-" means every project (default: the context's)
    #[arg(long, value_name = "ID", env = "ICEBOX_PROJECT")]
    project: Option<String>,
    /// The file with the token for the server (default: the context's; or set the token itself in `$ICEBOX_TOKEN`)
    #[arg(long, value_name = "FILE", env = "ICEBOX_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The certificate to show the server, PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "ICEBOX_CLIENT_CERT",
        requires = "client_key"
    )]
    client_cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "ICEBOX_CLIENT_KEY",
        requires = "client_cert"
    )]
    client_key: Option<PathBuf>,
    /// Which context's server, project and token to take; see `icebox context`
    #[arg(long, value_name = "NAME", env = "ICEBOX_CONTEXT")]
    context: Option<String>,
}

/// A channel to a server. It adds the caller's token to each call, if there is one.
pub type Channel = InterceptedService<transport::Channel, Bearer>;

/// A caller's token.
#[derive(Clone)]
pub struct Bearer(Option<AsciiMetadataValue>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(bearer) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}

/// The address in the form that an endpoint takes.
fn parse(server: &str) -> Result<String, Error> {
    let usage = |reason: &str| Error::Usage(format!("--server {server}: {reason}"));
    if let Some(path) = server.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return if path.is_empty() {
            Err(usage("names no socket"))
        } else {
            Ok(format!("unix:{path}"))
        };
    }
    let (scheme, authority) = server.split_once("://").unwrap_or(("http", server));
    let authority = authority.trim_end_matches('/');
    match authority.rsplit_once(':') {
        Some((host, port))
            if matches!(scheme, "http" | "https")
                && !host.is_empty()
                && !host.contains('/')
                && port.parse::<u16>().is_ok() =>
        {
            Ok(format!("{scheme}://{authority}"))
        }
        _ => Err(usage(
            "must be host:port, http://host:port, https://host:port or unix:PATH",
        )),
    }
}

impl Connection {
    /// The context that is named, or else the one in use.
    fn context(&self) -> Result<Context, Error> {
        Config::read()?.context(self.context.as_deref().filter(|name| !name.is_empty()))
    }

    /// The server's address.
    fn server(&self) -> Result<String, Error> {
        // An empty environment variable counts as not set.
        if let Some(server) = self.server.as_ref().filter(|server| !server.is_empty()) {
            return Ok(server.clone());
        }
        Ok(self
            .context()?
            .server
            .unwrap_or_else(|| SERVER_DEFAULT.to_owned()))
    }

    /// Connects to the server.
    ///
    /// # Errors
    /// If the address is not valid, or nobody answers there.
    pub async fn connect(&self) -> Result<Channel, Error> {
        let server = self.server()?;
        let bearer = self.bearer()?;
        let usage = |error| Error::Usage(format!("--server {server}: {error}"));
        let address = parse(&server)?;
        let is_local = is_local(&address);
        let mut endpoint = Endpoint::from_shared(address)
            .map_err(usage)?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let secure = server.starts_with("https://");
        if bearer.0.is_some() && !secure && !is_local {
            return Err(Error::Usage(format!(
                "--server {server}: others could read the token on its way: reach the server at https://"
            )));
        }
        if self.client_cert.is_some() && !secure {
            return Err(Error::Usage(format!(
                "--server {server}: a certificate is shown over TLS only: reach the server at https://"
            )));
        }
        if secure {
            endpoint = endpoint.tls_config(self.tls()?).map_err(usage)?;
        }
        let channel = endpoint.connect().await.map_err(|error| {
            let cause = root_cause(&error);
            Error::Failed(if secure {
                format!("no trusted server answers at {server} ({cause}): trust its issuer on this machine")
            } else {
                format!(
                    "no server answers at {server} ({cause}): start one with `icebox serve`, or name another with --server"
                )
            })
        })?;
        Ok(InterceptedService::new(channel, bearer))
    }

    /// Trusts the certificate authorities that this machine trusts, and shows the client certificate, if there is one.
    ///
    /// # Errors
    /// If a file cannot be read.
    fn tls(&self) -> Result<ClientTlsConfig, Error> {
        let tls = ClientTlsConfig::new().with_native_roots();
        let (Some(certificate), Some(key)) = (&self.client_cert, &self.client_key) else {
            return Ok(tls);
        };
        let (certificate, key) = (read_text(certificate)?, read_text(key)?);
        Ok(tls.identity(transport::Identity::from_pem(certificate, key)))
    }

    /// The token, if there is one.
    ///
    /// # Errors
    /// If its file cannot be read, or is empty.
    fn bearer(&self) -> Result<Bearer, Error> {
        let file = self
            .token_file
            .clone()
            .filter(|file| !file.as_os_str().is_empty());
        let set = std::env::var("ICEBOX_TOKEN")
            .ok()
            .filter(|token| !token.is_empty());
        let token = match (file, set) {
            (Some(file), _) => Some(read_text(&file)?),
            (None, Some(token)) => Some(token),
            (None, None) => {
                let file = self.context()?.token_file;
                file.as_deref().map(read_text).transpose()?
            }
        };
        let Some(token) = token else {
            return Ok(Bearer(None));
        };
        let bearer = AsciiMetadataValue::try_from(format!("Bearer {}", token.trim()));
        let mut bearer =
            bearer.map_err(|_| Error::Usage("the token holds what no token does".into()))?;
        // This keeps it out of every log.
        bearer.set_sensitive(true);
        Ok(Bearer(Some(bearer)))
    }

    /// The project that the command works in.
    ///
    /// # Errors
    /// If no project is named.
    pub fn project(&self) -> Result<String, Error> {
        self.project_if_named()?.ok_or_else(|| {
            Error::Usage("which project? Name it with --project, or set ICEBOX_PROJECT".into())
        })
    }

    /// The project that the command works in, if one is named.
    ///
    /// # Errors
    /// If the configuration cannot be read.
    pub fn project_if_named(&self) -> Result<Option<String>, Error> {
        match self.project.as_ref().filter(|project| !project.is_empty()) {
            Some(project) => Ok(Some(project.clone())),
            None => Ok(self.context()?.project),
        }
    }
}

fn read_text(file: &Path) -> Result<String, Error> {
    fs::read_to_string(file)
        .map_err(|error| Error::Failed(format!("{} cannot be read: {error}", file.display())))
}

/// Whether only this machine can be reached at a parsed address.
fn is_local(address: &str) -> bool {
    let Some((_, authority)) = address.split_once("://") else {
        return true;
    };
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
pub(super) fn without_token(channel: transport::Channel) -> Channel {
    InterceptedService::new(channel, Bearer(None))
}

/// Chooses the project of a document that may name a project itself.
#[derive(clap::Args, Debug, Clone, Default)]
pub(super) struct Placing {
    /// Put it into this project, whichever the document names
    #[arg(long, value_name = "ID")]
    into_project: Option<String>,
}

impl Placing {
    #[cfg(test)]
    pub(super) fn into(project: &str) -> Self {
        Placing {
            into_project: Some(project.to_owned()),
        }
    }

    /// Puts a resource into its project.
    ///
    /// # Errors
    /// If no project is named, or more than one is.
    pub(super) fn place<R: Documented>(
        &self,
        resource: &mut R,
        meant: Option<&str>,
    ) -> Result<(), String> {
        let project = self.project(resource.project_id(), meant)?;
        if self.into_project.is_some() {
            resource.belong_to(&project);
        } else {
            resource.set_project_id(&project);
        }
        Ok(())
    }

    /// The project for a document that names `own` (empty if it names none), in a command that works in `meant`.
    ///
    /// # Errors
    /// If they disagree, or neither is given.
    fn project(&self, own: &str, meant: Option<&str>) -> Result<String, String> {
        let meant = meant.filter(|project| *project != "-");
        match (&self.into_project, own, meant) {
            (Some(into), _, _) => Ok(into.clone()),
            (None, "", Some(meant)) => Ok(meant.to_owned()),
            (None, "", None) => Err(
                "project_id is missing: name the project with --project or ICEBOX_PROJECT".into(),
            ),
            (None, own, Some(meant)) if own != meant => Err(format!(
                "the document names project {own}, and the command {meant}: say --into-project {meant} to put it \
                 there all the same, or --project {own}"
            )),
            (None, own, _) => Ok(own.to_owned()),
        }
    }
}

/// The innermost cause: the errors around it only say that the connection failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Runs one command to its end.
pub(super) fn block_on(command: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Failed(format!("could not start: {error}")))?
        .block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_understood_or_refused() {
        let tcp = |uri: &str| Some(uri.to_owned());
        let unix = |path: &str| Some(format!("unix:{path}"));
        for (text, expected) in [
            ("127.0.0.1:50051", tcp("http://127.0.0.1:50051")),
            (
                "http://catalog.example:50051/",
                tcp("http://catalog.example:50051"),
            ),
            ("[::1]:1", tcp("http://[::1]:1")),
            ("unix:/run/icebox.sock", unix("/run/icebox.sock")),
            ("unix:///run/icebox.sock", unix("/run/icebox.sock")),
            ("unix:icebox.sock", unix("icebox.sock")),
            ("unix:", None),
            (
                "https://catalog.example:50051",
                tcp("https://catalog.example:50051"),
            ),
            ("ftp://catalog.example:50051", None),
            ("catalog.example", None),
            (":50051", None),
            ("host:port", None),
            ("", None),
        ] {
            assert_eq!(parse(text).ok(), expected, "{text}");
        }
    }
}

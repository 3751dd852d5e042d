//! Who calls, and what each may: roles, the tokens that prove them, and one table of what each role may call.

mod policy;
mod tokens;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    calls::{Authority, Behalf},
    catalog::Author,
    clock,
    resource::User,
};

#[cfg(test)]
pub(crate) use policy::POLICY;
pub(crate) use policy::{Row, Rpc, Shape, rpc};
#[cfg(any(feature = "cli", test))]
pub(crate) use tokens::sha256_hex;
#[cfg(feature = "cli")]
pub(crate) use tokens::wrong_in_toml;
pub use tokens::{BadTokens, Tokens};

/// How often the clock is looked at while a stream waits for its token to expire.
const CLOCK_LOOK: Duration = Duration::from_secs(60);

/// What somebody may do. [`policy`] has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Everything, in every project.
    Admin,
    /// Reads and writes in its projects.
    Member,
    /// Reads in its projects.
    Reader,
    /// Records backups as one client, and reads and reports on that client's jobs.
    Agent,
}

/// Who calls.
#[derive(Debug)]
pub(crate) struct Caller {
    /// What they are known by, where they were asked.
    key: Option<tokens::Key>,
    /// What to call them where it is logged.
    pub(crate) name: Arc<str>,
    pub(crate) role: Role,
    pub(crate) authority: Arc<Authority>,
    /// From when on they are nobody, milliseconds since the Unix epoch.
    pub(crate) expires_ms: Option<u64>,
    /// Whether it is one among others, so that it must leave room for them.
    is_one_of_many: bool,
    load: Load,
}

/// What a caller has under way.
#[derive(Debug, Default)]
struct Load {
    calls: AtomicUsize,
    streams: AtomicUsize,
}

/// A caller's call or stream that is under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    caller: Arc<Caller>,
    is_stream: bool,
}

impl Share {
    /// One more, if the caller has fewer than so many.
    pub(crate) fn of(caller: &Arc<Caller>, is_stream: bool, max: usize) -> Option<Share> {
        let share = Share {
            caller: caller.clone(),
            is_stream,
        };
        // It is given back when it is dropped.
        let before = share.count().fetch_add(1, Ordering::Relaxed);
        (before < max || !caller.is_one_of_many).then_some(share)
    }

    fn count(&self) -> &AtomicUsize {
        let load = &self.caller.load;
        if self.is_stream {
            &load.streams
        } else {
            &load.calls
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.count().fetch_sub(1, Ordering::Relaxed);
    }
}

impl Caller {
    /// That of calls that come from there.
    pub(crate) fn behalf(&self, peer: Arc<str>) -> Behalf {
        Behalf {
            authority: self.authority.clone(),
            author: Some(Author {
                caller: self.name.clone(),
                peer,
            }),
        }
    }

    /// Whoever can reach a server that asks nobody who they are.
    fn local() -> Arc<Caller> {
        Arc::new(Caller {
            key: None,
            name: "local".into(),
            role: Role::Admin,
            authority: Arc::default(),
            expires_ms: None,
            is_one_of_many: false,
            load: Load::default(),
        })
    }
}

/// Who may call a server.
#[derive(Clone, Debug)]
pub struct Access(Arc<Asks>);

#[derive(Debug)]
enum Asks {
    /// Nobody is asked: whoever can connect is this one.
    Nobody(Arc<Caller>),
    /// Everybody is asked for a token.
    Everybody(watch::Sender<Arc<Tokens>>),
}

impl Default for Access {
    /// Whoever can connect may do everything.
    fn default() -> Self {
        Access(Arc::new(Asks::Nobody(Caller::local())))
    }
}

/// Why somebody is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// No token was brought.
    NoToken,
    /// More than one was, or what was brought is no bearer token, or none that is known or still valid; or no name in the
    /// certificate is.
    BadToken,
}

impl Access {
    /// Whoever brings one of these tokens, as `authorization: Bearer …`, may do what is said of it.
    #[must_use]
    pub fn with_tokens(tokens: Tokens) -> Access {
        Access(Arc::new(Asks::Everybody(watch::Sender::new(Arc::new(
            tokens,
        )))))
    }

    /// Whether anybody is asked for a token.
    #[cfg(feature = "http")]
    pub(crate) fn asks(&self) -> bool {
        matches!(*self.0, Asks::Everybody(_))
    }

    /// From now on these tokens count, for servers that are at work as well. Calls that are under way go on, but for streams of those
    /// who are no longer known. Where nobody is asked, nobody is.
    pub fn replace_tokens(&self, tokens: Tokens) {
        if let Asks::Everybody(place) = &*self.0 {
            place.send_replace(Arc::new(tokens));
        }
    }

    /// Who calls, by the values of the header `authorization`, or, where there is none, by the names in the certificate that they
    /// have.
    ///
    /// # Errors
    /// If that is nobody.
    pub(crate) fn caller<'a>(
        &self,
        authorizations: impl Iterator<Item = &'a [u8]>,
        certified: &[String],
    ) -> Result<Arc<Caller>, Unknown> {
        let tokens = match &*self.0 {
            Asks::Nobody(local) => return Ok(local.clone()),
            Asks::Everybody(tokens) => tokens.borrow().clone(),
        };
        let mut authorizations = authorizations.peekable();
        let known = if authorizations.peek().is_some() {
            bearer(authorizations).and_then(|token| tokens.caller(token))
        } else {
            if certified.is_empty() {
                return Err(Unknown::NoToken);
            }
            certified.iter().find_map(|name| tokens.certified(name))
        };
        let now_ms = clock::now_ms();
        let valid = known.filter(|caller| caller.expires_ms.is_none_or(|expires| expires > now_ms));
        valid.cloned().ok_or(Unknown::BadToken)
    }

    /// Waits until somebody is no longer who they were: their token has expired, is gone, or is good for something else.
    pub(crate) async fn lost(self, caller: Arc<Caller>) {
        let Asks::Everybody(tokens) = &*self.0 else {
            return std::future::pending().await;
        };
        let mut tokens = tokens.subscribe();
        let replaced = async {
            // It is never closed while this has it.
            let _ = tokens.wait_for(|tokens| !tokens.know(&caller)).await;
        };
        let expired = async {
            loop {
                match caller
                    .expires_ms
                    .map(|expires| expires.checked_sub(clock::now_ms()))
                {
                    None => return std::future::pending().await,
                    Some(None | Some(0)) => return,
                    // The clock may be set meanwhile.
                    Some(Some(left_ms)) => {
                        tokio::time::sleep(Duration::from_millis(left_ms).min(CLOCK_LOOK)).await;
                    }
                }
            }
        };
        tokio::select! {
            () = replaced => {}
            () = expired => {}
        }
    }
}

/// The token, if there is just one.
fn bearer<'a>(mut authorizations: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    let (scheme, token) = authorizations.next()?.split_at_checked(BEARER.len())?;
    let is_one = authorizations.next().is_none() && scheme.eq_ignore_ascii_case(BEARER);
    is_one.then_some(token)
}

const BEARER: &[u8] = b"Bearer ";

/// The user that somebody is named as in what they store; an administrator stores what others have made.
fn user_of(role: Role, id: String, name: String) -> Option<User> {
    (role != Role::Admin).then_some(User { id, name })
}

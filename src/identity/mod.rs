//! Who calls, and what each caller may do: roles, the tokens that prove them, and one table of what each role may call.

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

/// How often the clock is read while a stream waits for its token to expire.
const CLOCK_LOOK: Duration = Duration::from_secs(60);

/// What a caller may do. The table is in [`policy`].
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

/// A caller.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The token or certificate by which the caller is known. `None` if nobody is asked for one.
    key: Option<tokens::Key>,
    /// The caller's name in logs.
    pub(crate) name: Arc<str>,
    pub(crate) role: Role,
    pub(crate) authority: Arc<Authority>,
    /// When the token expires, in milliseconds since the Unix epoch.
    pub(crate) expires_ms: Option<u64>,
    /// Whether there are other callers, for whom this one must leave room.
    is_one_of_many: bool,
    load: Load,
}

/// How many calls and streams a caller has under way.
#[derive(Debug, Default)]
struct Load {
    calls: AtomicUsize,
    streams: AtomicUsize,
}

/// One call or stream of a caller. It counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    caller: Arc<Caller>,
    is_stream: bool,
}

impl Share {
    /// Counts one more, if the caller has fewer than `max`.
    pub(crate) fn of(caller: &Arc<Caller>, is_stream: bool, max: usize) -> Option<Share> {
        let share = Share {
            caller: caller.clone(),
            is_stream,
        };
        // The drop takes this back.
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
    /// The caller and its address, as calls take them.
    pub(crate) fn behalf(&self, peer: Arc<str>) -> Behalf {
        Behalf {
            authority: self.authority.clone(),
            author: Some(Author {
                caller: self.name.clone(),
                peer,
            }),
        }
    }

    /// The caller that stands for everybody, on a server that asks nobody for a token.
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
    /// Nobody is asked for a token: everybody who can connect is this caller.
    Nobody(Arc<Caller>),
    /// Everybody is asked for a token.
    Everybody(watch::Sender<Arc<Tokens>>),
}

impl Default for Access {
    /// Everybody who can connect may do everything.
    fn default() -> Self {
        Access(Arc::new(Asks::Nobody(Caller::local())))
    }
}

/// Why a caller is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// No token was brought.
    NoToken,
    /// There is more than one token, or it is not a bearer token, or it is unknown or expired; or the certificate has no known
    /// name.
    BadToken,
}

impl Access {
    /// Lets in the bearers of these tokens, who send `authorization: Bearer …`. Each may do what its entry says.
    #[must_use]
    pub fn with_tokens(tokens: Tokens) -> Access {
        Access(Arc::new(Asks::Everybody(watch::Sender::new(Arc::new(
            tokens,
        )))))
    }

    /// Whether callers are asked for a token.
    #[cfg(feature = "http")]
    pub(crate) fn asks(&self) -> bool {
        matches!(*self.0, Asks::Everybody(_))
    }

    /// Replaces the tokens, also for servers that run already. Calls under way go on; streams of callers that are no longer known
    /// end. Where nobody is asked for a token, nothing changes.
    pub fn replace_tokens(&self, tokens: Tokens) {
        if let Asks::Everybody(place) = &*self.0 {
            place.send_replace(Arc::new(tokens));
        }
    }

    /// The caller with this `authorization` header. Without one, the caller with one of these names in its certificate.
    ///
    /// # Errors
    /// If there is no such caller.
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

    /// Waits until the caller's token has expired, has been removed, or has got other rights.
    pub(crate) async fn lost(self, caller: Arc<Caller>) {
        let Asks::Everybody(tokens) = &*self.0 else {
            return std::future::pending().await;
        };
        let mut tokens = tokens.subscribe();
        let replaced = async {
            // The channel stays open as long as this holds it.
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
                    // The clock may be changed while this waits.
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

/// The token, if there is exactly one.
fn bearer<'a>(mut authorizations: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    let (scheme, token) = authorizations.next()?.split_at_checked(BEARER.len())?;
    let is_one = authorizations.next().is_none() && scheme.eq_ignore_ascii_case(BEARER);
    is_one.then_some(token)
}

const BEARER: &[u8] = b"Bearer ";

/// The user to name in what a caller stores. An administrator keeps the names that others have written.
fn user_of(role: Role, id: String, name: String) -> Option<User> {
    (role != Role::Admin).then_some(User { id, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_no_more_than_its_share_and_gives_back_what_it_has() {
        let caller = Arc::new(Caller {
            is_one_of_many: true,
            ..Arc::into_inner(Caller::local()).expect("nobody else has it")
        });
        let first = Share::of(&caller, false, 2).expect("one of two");
        let _second = Share::of(&caller, false, 2).expect("two of two");
        assert!(Share::of(&caller, false, 2).is_none());
        let _stream = Share::of(&caller, true, 1).expect("streams count apart");
        assert!(Share::of(&caller, true, 1).is_none());
        drop(first);
        let _third = Share::of(&caller, false, 2).expect("one was given back");
        assert!(Share::of(&caller, false, 2).is_none(), "and no more");
    }

    #[test]
    fn the_only_caller_of_a_server_leaves_no_room_for_others() {
        let caller = Caller::local();
        let shares: Vec<_> = (0..3).map(|_| Share::of(&caller, false, 1)).collect();
        assert!(shares.iter().all(Option::is_some));
    }

    #[test]
    fn only_a_server_with_tokens_asks_for_one() {
        assert!(!Access::default().asks());
        assert!(Access::with_tokens(Tokens::default()).asks());
    }
}

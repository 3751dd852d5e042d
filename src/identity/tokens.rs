//! The file of tokens. Each entry has the hash of a token, or a name in a certificate, and tells who the caller is.

use std::{collections::HashMap, fmt, sync::Arc};

use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Caller, Load, Role, user_of};
use crate::{calls::Authority, resource::ProjectId};

type Hash = [u8; 32];

/// Tokens, known by their hashes: nobody can call with what is in the file.
///
/// The file is TOML, with a table for each token:
///
/// ```toml
/// [[token]]
/// sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
/// # or: certificate = "node1.example.org", a name in a certificate that the caller has
/// user_id = "a387de3311484ce58c4560486bc153f1"
/// user_name = "os_backup"
/// role = "agent"                    # admin, member, reader or agent
/// projects = ["demo"]               # for all but an admin
/// client_id = "backup-node1"        # for an agent
/// expires = 2027-01-01T00:00:00Z    # may be left out
/// ```
#[derive(Debug, Default)]
pub struct Tokens(HashMap<Key, Arc<Caller>>);

/// What identifies a caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The hash of the caller's token.
    Token(Hash),
    /// A DNS name or URI in the caller's certificate.
    Certificate(String),
}

/// Everything that is wrong with a file of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTokens(Vec<String>);

impl fmt::Display for BadTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for BadTokens {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    token: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    sha256: String,
    #[serde(default)]
    certificate: String,
    user_id: String,
    #[serde(default)]
    user_name: String,
    role: Role,
    #[serde(default)]
    projects: Vec<String>,
    #[serde(default)]
    client_id: String,
    expires: Option<toml::value::Datetime>,
}

impl Tokens {
    /// Reads the text of a file of tokens.
    ///
    /// # Errors
    /// [`BadTokens`] with everything that is wrong. It shows no token and no hash.
    pub fn parse(text: &str) -> Result<Tokens, BadTokens> {
        let document: Document =
            toml::from_str(text).map_err(|error| BadTokens(vec![wrong_in_toml(text, &error)]))?;
        let mut wrong = Vec::new();
        let mut tokens = HashMap::new();
        for (n, entry) in document.token.into_iter().enumerate() {
            let mut wrong_in = Vec::new();
            if let Some((key, caller)) = entry.read(&mut wrong_in)
                && tokens.insert(key, Arc::new(caller)).is_some()
            {
                wrong_in.push("sha256 or certificate is that of another as well".to_owned());
            }
            wrong.extend(
                wrong_in
                    .iter()
                    .map(|what| format!("token {}: {what}", n + 1)),
            );
        }
        if wrong.is_empty() {
            Ok(Tokens(tokens))
        } else {
            Err(BadTokens(wrong))
        }
    }

    /// The number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no tokens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The caller with this token.
    pub(super) fn caller(&self, token: &[u8]) -> Option<&Arc<Caller>> {
        // No caller can choose the hash that is compared, so that the time of the comparison tells nothing.
        self.0.get(&Key::Token(Sha256::digest(token).into()))
    }

    /// Whether a caller is still known and still has the same rights.
    pub(super) fn know(&self, caller: &Caller) -> bool {
        let known = caller.key.as_ref().and_then(|key| self.0.get(key));
        known
            .is_some_and(|known| (known.role, &known.authority) == (caller.role, &caller.authority))
    }

    /// The caller whose certificate has this name.
    pub(super) fn certified(&self, name: &str) -> Option<&Arc<Caller>> {
        self.0.get(&Key::Certificate(name.to_ascii_lowercase()))
    }
}

/// What is wrong with a TOML text, and in which line. The error's own text would quote the line, which may hold a secret.
pub(crate) fn wrong_in_toml(text: &str, error: &toml::de::Error) -> String {
    let place = error.span().map_or(0, |span| span.start);
    let line = text[..place.min(text.len())].matches('\n').count() + 1;
    format!("line {line}: {}", error.message())
}

impl Entry {
    /// The key and the caller of an entry, if nothing is wrong with it.
    fn read(self, wrong: &mut Vec<String>) -> Option<(Key, Caller)> {
        let key = match (&*self.sha256, &*self.certificate) {
            ("", "") => Err("sha256 or certificate must say what they are known by"),
            ("", name) => Ok(Key::Certificate(name.to_ascii_lowercase())),
            (hash, "") => parse_hash(hash)
                .map(Key::Token)
                .ok_or("sha256 must be 64 hex digits"),
            _ => Err("sha256 and certificate must not be said together: make two entries"),
        };
        if let Err(what) = key {
            wrong.push(what.into());
        }
        if self.user_id.is_empty() || self.user_id.len() > 4096 {
            wrong.push("user_id must be 1 to 4,096 bytes".into());
        }
        let (is_admin, is_agent) = (self.role == Role::Admin, self.role == Role::Agent);
        if is_admin != self.projects.is_empty() {
            wrong.push(if is_admin {
                "projects must be left out: every one is an admin's".into()
            } else {
                "projects must name at least one".into()
            });
        }
        for project in &self.projects {
            if ProjectId::parse("project", project).is_err() {
                wrong.push(format!("projects: {project:?} is no project's id"));
            }
        }
        if is_agent == self.client_id.is_empty() {
            wrong.push(if is_agent {
                "client_id is missing: whose agent is it?".into()
            } else {
                "client_id must be left out: only an agent has one".into()
            });
        }
        let expires_ms = self.expires.map(|expires| {
            let expires: Option<Timestamp> = expires.to_string().parse().ok();
            expires.and_then(|expires| u64::try_from(expires.as_millisecond()).ok())
        });
        if expires_ms == Some(None) {
            wrong.push(
                "expires must have a date, a time and an offset, as 2027-01-01T00:00:00Z".into(),
            );
        }
        let key = key.ok().filter(|_| wrong.is_empty())?;
        let authority = Authority {
            projects: (!is_admin).then_some(self.projects),
            client_id: is_agent.then_some(self.client_id),
            user: user_of(self.role, self.user_id.clone(), self.user_name),
        };
        let caller = Caller {
            key: Some(key.clone()),
            name: self.user_id.into(),
            role: self.role,
            authority: Arc::new(authority),
            expires_ms: expires_ms.flatten(),
            is_one_of_many: true,
            load: Load::default(),
        };
        Some((key, caller))
    }
}

fn parse_hash(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let value = digit(digits[0])? * 16 + digit(digits[1])?;
        *byte = u8::try_from(value).expect("two digits");
    }
    Some(hash)
}

/// The hash of a token as the file has it: 64 hex digits.
#[cfg(any(feature = "cli", test))]
#[must_use]
pub(crate) fn sha256_hex(token: &str) -> String {
    use std::fmt::Write as _;

    let mut text = String::new();
    for byte in Sha256::digest(token) {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [[token]]
        sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
        user_id = "u"
        user_name = "os_backup"
        role = "agent"
        projects = ["demo", "other"]
        client_id = "node1"
        expires = 2027-01-01T00:00:00Z
        [[token]]
        sha256 = "4E07408562BEDB8B60CE05C1DECFE3AD16B72230967DE01F640B7E4729B49FCE"
        user_id = "root"
        role = "admin"
    "#;

    #[test]
    fn a_token_is_known_by_its_hash() {
        let tokens = Tokens::parse(GOOD).unwrap();
        assert_eq!(tokens.len(), 2);
        let agent = tokens.caller(b"test").unwrap();
        assert_eq!(
            (agent.role, agent.expires_ms),
            (Role::Agent, Some(1_798_761_600_000))
        );
        let Authority {
            projects,
            client_id,
            user,
        } = &*agent.authority;
        assert_eq!(
            projects.as_deref(),
            Some(&["demo".to_owned(), "other".to_owned()][..])
        );
        assert_eq!(client_id.as_deref(), Some("node1"));
        assert_eq!(user.as_ref().unwrap().name, "os_backup");
        assert_eq!(
            *tokens.caller(b"3").unwrap().authority,
            Authority::default()
        );
        assert!(tokens.caller(b"tes").is_none());
        assert_eq!(
            sha256_hex("test"),
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
        );
    }

    #[test]
    fn a_certificate_is_known_by_a_name_in_it() {
        let entry =
            "[[token]]\ncertificate = \"Node1.example.org\"\nuser_id = \"u\"\nrole = \"admin\"\n";
        let tokens = Tokens::parse(entry).unwrap();
        assert!(tokens.certified("NODE1.example.org").is_some());
        assert!(tokens.certified("node2.example.org").is_none());
        assert!(tokens.caller(b"Node1.example.org").is_none());
        for (wrong, what) in [
            (entry.replace("certificate", "sha256"), "64 hex digits"),
            (
                entry.replace("Node1.example.org", ""),
                "must say what they are known by",
            ),
            (format!("{entry}sha256 = \"ab\""), "not be said together"),
        ] {
            let said = Tokens::parse(&wrong).unwrap_err().to_string();
            assert!(said.contains(what), "{said}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told_and_no_hash() {
        let said = |text: &str| Tokens::parse(text).unwrap_err().to_string();
        let all = said(
            r#"
            [[token]]
            sha256 = "abc"
            user_id = ""
            role = "member"
            projects = ["a b"]
            client_id = "c"
            expires = 2027-01-01
            [[token]]
            sha256 = "4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce"
            user_id = "u"
            role = "agent"
            "#,
        );
        for what in [
            "token 1: sha256 must be",
            "token 1: user_id must be",
            "token 1: projects: \"a b\"",
            "token 1: client_id must be left out",
            "token 1: expires must",
            "token 2: projects must name",
            "token 2: client_id is missing",
        ] {
            assert!(all.contains(what), "{what}: {all}");
        }
        assert!(!all.contains("4e07"), "{all}");
        let unknown = said(&GOOD.replace("user_name", "username"));
        assert!(
            unknown.contains("line 5") && unknown.contains("username"),
            "{unknown}"
        );
        assert!(!unknown.contains("9f86"), "{unknown}");
        let twice = said(&format!("{GOOD}{GOOD}"));
        assert!(
            twice.contains("token 3: sha256 or certificate is that of another"),
            "{twice}"
        );
        assert!(Tokens::parse("").unwrap().is_empty());
    }

    #[test]
    fn a_caller_is_known_as_long_as_its_entry_gives_it_the_same_rights() {
        let tokens = Tokens::parse(GOOD).expect("good");
        let caller = tokens.caller(b"test").expect("known").clone();
        assert!(tokens.know(&caller) && !tokens.is_empty());
        let none = Tokens::default();
        assert!(!none.know(&caller) && none.is_empty());
        for (was, is) in [
            (r#""demo", "other""#, r#""demo""#),
            (r#"client_id = "node1""#, r#"client_id = "node2""#),
        ] {
            let changed = Tokens::parse(&GOOD.replace(was, is)).expect("good");
            assert!(!changed.know(&caller), "{is}");
        }
        let renamed = GOOD.replace("os_backup", "another name");
        let reader = GOOD
            .replace(r#""agent""#, r#""reader""#)
            .replace(r#"client_id = "node1""#, "");
        assert!(!Tokens::parse(&reader).expect("good").know(&caller));
        assert!(!Tokens::parse(&renamed).expect("good").know(&caller));
    }
}

//! Who may reach the admin API, and where.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Settings of the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where it listens; by default 127.0.0.1:9900. Anything but a loopback address needs a token.
    pub address: SocketAddr,
    /// Who may call it; by default empty, and the API is open, which only a loopback address may
    /// be. Holds the tokens of `tokens_file` too.
    pub tokens: Vec<Token>,
    /// The file that some of `tokens` were read from.
    pub tokens_file: Option<PathBuf>,
    /// Values of `Host` that are accepted beside the address itself and the names of the loopback;
    /// without a port any port matches. By default empty.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may call the API beside its own, as `scheme://host[:port]`; by
    /// default empty.
    pub allowed_origins: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9900)),
            tokens: Vec::new(),
            tokens_file: None,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
        }
    }
}

/// One caller of the admin API. The token itself is nowhere; only its digest is known.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What the journal calls the caller; unique.
    pub name: String,
    /// What the caller may do.
    pub role: Role,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
}

/// Without the digest: not even that belongs into a log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// What a caller may do. Each role includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Read everything.
    View,
    /// Set weights, roll back, drive releases.
    Operate,
    /// Pass the gates of releases.
    Approve,
    /// Everything.
    Admin,
}

impl Role {
    /// Every role, the least first.
    pub const ALL: [Role; 4] = [Role::View, Role::Operate, Role::Approve, Role::Admin];

    /// The role's name, as written in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::View => "view",
            Role::Operate => "operate",
            Role::Approve => "approve",
            Role::Admin => "admin",
        }
    }
}

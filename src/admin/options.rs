//! Settings of the admin API: address, tokens, allowed hosts and origins.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Settings of the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Listen address; by default 127.0.0.1:9900. A non-loopback address requires a token.
    pub address: SocketAddr,
    /// Accepted tokens, including those of `tokens_file`. By default empty: the API is open, which
    /// only a loopback address allows.
    pub tokens: Vec<Token>,
    /// File that some of `tokens` were read from.
    pub tokens_file: Option<PathBuf>,
    /// `Host` values accepted besides the listen address and loopback names; without a port any
    /// port matches. By default empty.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may call the API besides its own, as `scheme://host[:port]`; by
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

/// Token of a caller of the admin API. Only the digest of the secret is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Name of the caller in the journal; unique.
    pub name: String,
    /// Role of the caller.
    pub role: Role,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
}

/// Omits the digest, which must not be logged either.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// Permissions of a caller. Each role includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Read everything.
    View,
    /// Set weights, roll back, control releases.
    Operate,
    /// Approve gates of releases.
    Approve,
    /// All permissions.
    Admin,
}

impl Role {
    /// All roles, the lowest first.
    pub const ALL: [Role; 4] = [Role::View, Role::Operate, Role::Approve, Role::Admin];

    /// Name of the role in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::View => "view",
            Role::Operate => "operate",
            Role::Approve => "approve",
            Role::Admin => "admin",
        }
    }
}

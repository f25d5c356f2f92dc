//! Listening sockets.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// The listen backlog: connections that the kernel queues for one socket.
const BACKLOG: i32 = 4096;

/// The sockets of one listener, for as many threads to accept from: the kernel spreads connections
/// over them (SO_REUSEPORT).
#[derive(Debug)]
pub struct Sockets {
    address: SocketAddr,
    sockets: Vec<TcpListener>,
}

impl Sockets {
    /// Binds `count` sockets to one address. With port 0 all get the port that the first was given.
    ///
    /// # Errors
    ///
    /// The address is in use, or not this machine's, or the operating system refuses for another
    /// reason.
    pub fn bind(address: SocketAddr, count: usize) -> io::Result<Sockets> {
        // Sockets that share a port share it with other processes too. A second proxy on the same
        // address is a mistake, so it is asked for alone first; and a single socket has nothing to
        // share.
        let alone = bind_one(address, false)?;
        if count == 1 {
            return Sockets::inherit(vec![alone], 1);
        }
        drop(alone);
        let first = bind_one(address, true)?;
        let address = first.local_addr()?;
        let mut all = vec![first];
        while all.len() < count {
            all.push(bind_one(address, true)?);
        }
        Sockets::inherit(all, count)
    }

    /// Takes over sockets that are bound already, all to one address, such as those of a process
    /// before this one; `count` threads accept from them, so some may share one.
    ///
    /// # Errors
    ///
    /// There is none, or they are not bound to the same address.
    pub fn inherit(mut sockets: Vec<TcpListener>, count: usize) -> io::Result<Sockets> {
        let none = || io::Error::new(io::ErrorKind::InvalidInput, "no socket to listen on");
        let address = sockets.first().ok_or_else(none)?.local_addr()?;
        for socket in &sockets {
            if socket.local_addr()? != address {
                let error = "the sockets of a listener are bound to different addresses";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
            }
            socket.set_nonblocking(true)?;
        }
        let distinct = sockets.len();
        while sockets.len() < count {
            let twin = sockets.get(sockets.len() % distinct).ok_or_else(none)?;
            sockets.push(twin.try_clone()?);
        }
        Ok(Sockets { address, sockets })
    }

    /// The address that they are bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl IntoIterator for Sockets {
    type Item = TcpListener;
    type IntoIter = std::vec::IntoIter<TcpListener>;

    fn into_iter(self) -> Self::IntoIter {
        self.sockets.into_iter()
    }
}

fn bind_one(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    fn ports(sockets: &Sockets) -> Vec<u16> {
        let ports = sockets.sockets.iter();
        ports
            .map(|socket| socket.local_addr().unwrap().port())
            .collect()
    }

    #[test]
    fn all_sockets_of_a_listener_share_one_port() {
        let sockets = Sockets::bind(ANY, 3).unwrap();
        let port = sockets.address().port();
        assert!(port != 0);
        assert_eq!(ports(&sockets), [port; 3]);
        let taken = Sockets::bind(sockets.address(), 1).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn inherited_sockets_are_shared_where_there_are_fewer_than_threads() {
        let socket = TcpListener::bind(ANY).unwrap();
        let address = socket.local_addr().unwrap();
        let sockets = Sockets::inherit(vec![socket], 3).unwrap();
        assert_eq!(sockets.address(), address);
        assert_eq!(ports(&sockets), [address.port(); 3]);
    }

    #[test]
    fn inherited_sockets_of_different_addresses_are_refused() {
        let sockets = vec![
            TcpListener::bind(ANY).unwrap(),
            TcpListener::bind(ANY).unwrap(),
        ];
        let refused = Sockets::inherit(sockets, 2).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        assert!(Sockets::inherit(Vec::new(), 1).is_err());
    }
}

//! Listening sockets.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// The listen backlog: connections that the kernel queues for one socket.
const BACKLOG: i32 = 4096;

/// Binds `count` sockets to one address, for as many threads to accept from: the kernel spreads
/// connections over them (SO_REUSEPORT). With port 0 all get the port that the first was given.
///
/// # Errors
///
/// The address is in use, or not this machine's, or the operating system refuses for another
/// reason.
pub fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    // Sockets that share a port share it with other processes too. A second proxy on the same
    // address is a mistake, so it is asked for alone first; and a single socket has nothing to
    // share.
    let alone = bind_one(address, false)?;
    if count == 1 {
        return Ok(vec![alone]);
    }
    drop(alone);
    let first = bind_one(address, true)?;
    let address = first.local_addr()?;
    let mut all = vec![first];
    while all.len() < count {
        all.push(bind_one(address, true)?);
    }
    Ok(all)
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

    #[test]
    fn all_sockets_of_a_listener_share_one_port() {
        let sockets = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 3).unwrap();
        let ports: Vec<u16> = sockets
            .iter()
            .map(|socket| socket.local_addr().unwrap().port())
            .collect();
        assert_eq!(ports.len(), 3);
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]));
        let taken = SocketAddr::from(([127, 0, 0, 1], ports[0]));
        assert_eq!(bind(taken, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}

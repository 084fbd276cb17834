//! Addresses and listeners. Making one is rare, so it uses the standard library and blocks.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Addr {
    /// TCP.
    Inet(SocketAddr),
    /// A unix stream socket.
    Unix(PathBuf),
}

/// Listens on a TCP address (with `SO_REUSEADDR`); returns the address with the real port.
pub fn listen_tcp(addr: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let listener = TcpListener::bind(addr)?;
    let addr = listener.local_addr()?;
    Ok((listener.into(), addr))
}

/// Listens on a unix socket that only this user may connect to. A socket file that nobody
/// answers on is a leftover of a killed process and is replaced; one with a living listener, or
/// any other file, is an error.
pub fn listen_unix(path: &Path) -> io::Result<OwnedFd> {
    let listener = match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_stale(path)? => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        other => other?,
    };
    // Between the two calls the folder protects it: folders of sockets have mode 0700.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener.into())
}

fn is_stale(path: &Path) -> io::Result<bool> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    Ok(matches!(UnixStream::connect(path), Err(e) if e.kind() == io::ErrorKind::ConnectionRefused))
}

/// A UDP socket; returns the address with the real port.
pub fn bind_udp(addr: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = UdpSocket::bind(addr)?;
    let addr = socket.local_addr()?;
    Ok((socket.into(), addr))
}

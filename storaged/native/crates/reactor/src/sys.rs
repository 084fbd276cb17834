//! The few system calls that the standard library does not offer.
#![allow(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Takes ownership of a descriptor that the kernel has just made for us.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: every caller passes a number that a system call or a completion has just returned
    // as a new descriptor, and passes it once; nobody else knows or closes it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are involved.
    check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }).map(own)
}

/// Wakes the reader. The counter cannot overflow: each sleep is signalled at most once.
pub(crate) fn eventfd_signal(fd: &OwnedFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the pointer and length describe `one`, which lives through the call.
    let _ = unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Microseconds of the monotonic clock: the time base of every core in the process.
pub(crate) fn now_us() -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid place for the answer; this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut ts) };
    ts.tv_sec.unsigned_abs() * 1_000_000 + ts.tv_nsec.unsigned_abs() / 1_000
}

/// A stream socket that blocks: the ring waits for readiness itself, and a non-blocking one
/// would make it answer EAGAIN instead.
pub(crate) fn stream_socket(family: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are involved.
    check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) }).map(own)
}

/// Small answers must not wait for more data. Ignored where it does not apply (unix sockets).
pub(crate) fn set_nodelay(fd: RawFd) {
    let on: libc::c_int = 1;
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `on`, which lives through the call.
    let _ = unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, (&raw const on).cast(), len) };
}

/// How long the kernel tries to get something to the other end of a connection before it gives it up. More than any
/// dialer waits, who has another connection by then; without it what is left of the old one would stay for minutes.
const UNSENT_MAX_MS: libc::c_int = 10_000;
/// An idle connection is looked at this often, so that the end of a machine is noticed without any traffic.
const IDLE_LOOK_S: libc::c_int = 10;

/// Ends a connection whose other end has vanished without a word. Ignored where it does not apply (unix sockets).
pub(crate) fn set_liveness(fd: RawFd) {
    let options = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, IDLE_LOOK_S),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, IDLE_LOOK_S / 2),
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, UNSENT_MAX_MS),
    ];
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    for (level, name, value) in options {
        // SAFETY: the pointer and length describe `value`, which lives through the call.
        let _ = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) };
    }
}

/// Takes the system's congestion control off a connection within this host: there is nothing to
/// probe, and one that paces (BBR) would spread a burst over milliseconds. Reno is always built in
/// and open to every user; between hosts the administrator's choice stands.
pub(crate) fn no_pacing(fd: RawFd) {
    let name = b"reno";
    let len = name.len() as libc::socklen_t;
    // SAFETY: the pointer and length describe `name`, which lives through the call.
    let _ = unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, name.as_ptr().cast(), len) };
}

/// Whether the other end of a connection is a loopback address.
pub(crate) fn peer_is_loopback(fd: RawFd) -> bool {
    let mut peer = SockAddr::empty();
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the pointers lead to `peer`, which is as large as `len` says, and to `len`.
    let known = unsafe { libc::getpeername(fd, peer.as_mut_ptr(), &raw mut len) } == 0;
    known && peer.to_inet().is_some_and(|addr| addr.ip().is_loopback())
}

/// Clears `O_NONBLOCK`: with it the ring answers EAGAIN instead of waiting.
pub(crate) fn set_blocking(fd: RawFd) {
    // SAFETY: no pointers are involved; a wrong descriptor is an error code.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        if flags >= 0 && flags & libc::O_NONBLOCK != 0 {
            libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK);
        }
    }
}

/// `PR_SET_IO_FLUSHER`, absent from older header sets.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

pub(crate) fn io_flusher() -> io::Result<()> {
    // SAFETY: no pointers are involved.
    check(unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) }).map(drop)
}

pub(crate) fn lock_memory() -> io::Result<()> {
    // SAFETY: no pointers are involved.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) }).map(drop)
}

pub(crate) fn give_back_memory() {
    // SAFETY: the call takes no pointers and works on the allocator's own free lists.
    unsafe { libc::malloc_trim(0) };
}

pub(crate) fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: all-zero bytes are an empty set; `cpu` is below its size (checked); the pointer
    // and size describe `set`, which lives through the call; 0 means this thread.
    check(unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    })
    .map(drop)
}

/// Locks the whole file for this open file, alone or together with others that share; `false` when somebody else
/// holds it.
pub(crate) fn try_lock(fd: &impl AsRawFd, shared: bool) -> io::Result<bool> {
    let kind = if shared { libc::LOCK_SH } else { libc::LOCK_EX };
    // SAFETY: no pointers are involved.
    match check(unsafe { libc::flock(fd.as_raw_fd(), kind | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EWOULDBLOCK) => Ok(false),
        Err(e) => Err(e),
    }
}

/// `BLKSSZGET`; the same number on every architecture Linux has this call on.
const BLKSSZGET: libc::c_ulong = 0x1268;

/// Logical sector size of a block device.
pub(crate) fn sector_size(fd: &impl AsRawFd) -> io::Result<u32> {
    let mut size: libc::c_int = 0;
    // SAFETY: the call writes one int, and `size` is one.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), BLKSSZGET as _, &raw mut size) })?;
    Ok(size.unsigned_abs())
}

/// `lseek` with `SEEK_HOLE` or `SEEK_DATA`; `None`: no such place up to the end of the file.
pub(crate) fn seek(fd: RawFd, from: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    let from = libc::off_t::try_from(from).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: no pointers are involved; the file position this moves is used by nobody.
    let at = unsafe { libc::lseek(fd, from, whence) };
    match u64::try_from(at) {
        Ok(at) => Ok(Some(at)),
        Err(_) => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            e => Err(e),
        },
    }
}

/// A socket address in the shape the kernel reads and writes.
pub(crate) struct SockAddr {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl SockAddr {
    fn empty() -> SockAddr {
        // SAFETY: all-zero bytes are a valid sockaddr_storage (AF_UNSPEC).
        let storage = unsafe { std::mem::zeroed() };
        SockAddr { storage, len: size_of::<libc::sockaddr_storage>() as libc::socklen_t }
    }

    /// Copies `value`, one of the sockaddr_* structures, into the storage.
    fn from_raw<T: Copy>(value: T) -> SockAddr {
        let mut addr = SockAddr::empty();
        const { assert!(size_of::<T>() <= size_of::<libc::sockaddr_storage>()) };
        // SAFETY: the storage is at least as large (asserted) and as aligned as any sockaddr_*.
        unsafe { (&raw mut addr.storage).cast::<T>().write(value) };
        addr.len = size_of::<T>() as libc::socklen_t;
        addr
    }

    pub fn inet(addr: SocketAddr) -> SockAddr {
        match addr {
            SocketAddr::V4(v4) => SockAddr::from_raw(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(v6) => SockAddr::from_raw(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            }),
        }
    }

    pub fn unix(path: &Path) -> io::Result<SockAddr> {
        let mut raw = libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
        let bytes = path.as_os_str().as_bytes();
        if bytes.is_empty() || bytes.len() >= raw.sun_path.len() || bytes.contains(&0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket path has 1 to 107 bytes and no zero"));
        }
        raw.sun_path.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from as libc::c_char);
        Ok(SockAddr::from_raw(raw))
    }

    pub fn family(&self) -> libc::c_int {
        libc::c_int::from(self.storage.ss_family)
    }
    pub fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }
    fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        (&raw mut self.storage).cast()
    }
    pub fn len(&self) -> libc::socklen_t {
        self.len
    }

    /// The internet address that the kernel wrote.
    fn to_inet(&self) -> Option<SocketAddr> {
        match self.family() {
            libc::AF_INET => {
                // SAFETY: the family says the storage holds a sockaddr_in; it is large and aligned enough.
                let raw = unsafe { (&raw const self.storage).cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above, for sockaddr_in6.
                let raw = unsafe { (&raw const self.storage).cast::<libc::sockaddr_in6>().read() };
                let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), raw.sin6_flowinfo, raw.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernel_shape() {
        for text in ["127.0.0.1:80", "[::1]:8470", "[fe80::1%3]:9"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(SockAddr::inet(addr).to_inet(), Some(addr));
        }
        assert_eq!(SockAddr::empty().to_inet(), None);
    }

    #[test]
    fn a_socket_path_that_does_not_fit_is_refused() {
        assert!(SockAddr::unix(Path::new(&"x".repeat(108))).is_err());
        assert!(SockAddr::unix(Path::new("")).is_err());
        assert!(SockAddr::unix(Path::new("/run/a.sock")).is_ok());
    }
}

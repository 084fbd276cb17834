//! Which congestion control connections get: none that paces within a host.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used, clippy::panic, clippy::print_stderr)]
mod common;

use common::*;
use drystone_reactor::{listen_tcp, Addr, Ctx, FdId, OpResult, Remote, UserToken};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

const DIALLED: UserToken = UserToken::new(5, 0);

fn congestion(fd: &impl AsRawFd) -> String {
    let mut name = [0u8; 16];
    let mut len = name.len() as libc::socklen_t;
    // SAFETY: the pointers lead to `name`, which is as large as `len` says, and to `len`.
    let answer = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    assert_eq!(answer, 0, "{}", io::Error::last_os_error());
    name.iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect()
}

fn set_congestion(fd: RawFd, name: &str) -> bool {
    let len = name.len() as libc::socklen_t;
    // SAFETY: the pointer and length describe `name`, which lives through the call.
    let answer = unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, name.as_ptr().cast(), len) };
    answer == 0
}

/// What a fresh socket has, and one that is not it and not reno, if this user may choose one.
fn choices() -> Option<(String, Option<&'static str>)> {
    let probe = TcpListener::bind("127.0.0.1:0").unwrap();
    let usual = congestion(&probe);
    let other = ["bbr", "cubic", "dctcp", "vegas"].into_iter().find(|name| set_congestion(probe.as_raw_fd(), name));
    set_congestion(probe.as_raw_fd(), "reno").then_some((usual, other))
}

/// Connects to `ip`; returns the congestion control of the accepted and of the dialled end. The listener
/// has `other`, which an accepted socket inherits.
fn both_ends(ip: IpAddr, other: Option<&str>) -> (String, String) {
    let (listener, addr) = listen_tcp(SocketAddr::new(ip, 0)).unwrap();
    if let Some(name) = other {
        assert!(set_congestion(listener.as_raw_fd(), name));
    }
    let dialled = std::cell::Cell::new(None::<FdId>);
    let (mut at_accept, mut at_dial) = (None, None);
    let start = |cx: &mut Ctx, _: Remote<u64>| {
        let listener = cx.adopt(listener);
        cx.accept(listener, ACCEPT);
        dialled.set(Some(cx.connect(&Addr::Inet(addr), DIALLED).unwrap()));
    };
    run(start, |cx, what| {
        match what {
            What::Done(ACCEPT, OpResult::Accepted(fd)) => at_accept = Some(congestion(&cx.fd(fd.unwrap()).unwrap())),
            What::Done(DIALLED, OpResult::Connected(result)) => {
                result.unwrap();
                at_dial = Some(congestion(&cx.fd(dialled.get().unwrap()).unwrap()));
            }
            _ => {}
        }
        if at_accept.is_some() && at_dial.is_some() {
            cx.stop();
        }
    });
    (at_accept.unwrap(), at_dial.unwrap())
}

#[test]
fn both_ends_of_a_connection_within_the_host_are_never_paced() {
    let Some((_, other)) = choices() else {
        return eprintln!("skipped: this kernel gives no reno to this user");
    };
    for ip in ["127.0.0.1", "::1"] {
        let ip: IpAddr = ip.parse().unwrap();
        if TcpListener::bind((ip, 0)).is_err() {
            eprintln!("skipped: {ip} is not set up here");
            continue;
        }
        assert_eq!(both_ends(ip, other), ("reno".to_owned(), "reno".to_owned()));
    }
}

/// An address of this host that is not a loopback one; nothing is sent to find it.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|addr| addr.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[test]
fn between_hosts_the_choice_of_the_administrator_stands() {
    let (Some((usual, other)), Some(ip)) = (choices(), outer_address()) else {
        return eprintln!("skipped: no reno, or no address but loopback");
    };
    let inherited = other.map_or_else(|| usual.clone(), str::to_owned);
    assert_eq!(both_ends(ip, other), (inherited, usual));
}

//! Streams over real sockets.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod common;

use common::*;
use drystone_reactor::{
    listen_tcp, listen_unix, Addr, CloseReason, ConnConfig, Conns, Ctx, Event, OpResult, UserToken,
};
use drystone_types::BufMut;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

/// Echoes frames until the inbox says stop; hands each closing to `closed`.
fn echo_server(
    conns: &mut Conns<Frames>,
    cx: &mut Ctx,
    what: What,
    mut closed: impl FnMut(CloseReason<String>, &mut Ctx),
) {
    match what {
        What::Command(_) => cx.stop(),
        What::Done(_, OpResult::Accepted(fd)) => add(conns, fd.unwrap()),
        What::Done(token, result) => conns.on_completion(cx, token, result),
        What::Timer(_) => {}
        What::TurnEnd => {
            while let Some((id, event)) = conns.next(cx) {
                match event {
                    Event::Item(body) => {
                        let Some((_, out)) = conns.parts(id) else {
                            continue;
                        };
                        out.push_bytes(&(body.len() as u32).to_le_bytes());
                        out.push_buf(body);
                    }
                    Event::Closed(reason) => closed(reason, cx),
                }
            }
            conns.flush(cx);
        }
    }
}

fn echo(mut stream: impl Read + Write, sizes: &[usize]) {
    for size in sizes {
        let body: Vec<u8> = (0..*size).map(|i| (i % 253) as u8).collect();
        stream.write_all(&frame(&body)).unwrap();
        let mut back = vec![0; size + 4];
        stream.read_exact(&mut back).unwrap();
        assert!(back == frame(&body));
    }
}

#[test]
fn frames_of_any_size_are_echoed_over_tcp_and_unix() {
    let sizes = [1, 4096, 16_384, 16_385, 65_531, 65_536, 1 << 20, 5 << 20, 7];
    let path = scratch("echo.sock");
    let (tcp, addr) = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let unix = listen_unix(&path).unwrap();
    let mut conns = frames(ConnConfig::default());
    let unix_path = path.clone();
    let start = |cx: &mut Ctx, remote: drystone_reactor::Remote<u64>| {
        for fd in [tcp, unix] {
            let fd = cx.adopt(fd);
            cx.accept(fd, ACCEPT);
        }
        std::thread::spawn(move || {
            echo(TcpStream::connect(addr).unwrap(), &sizes);
            echo(UnixStream::connect(unix_path).unwrap(), &sizes);
            remote.send(0).unwrap();
        });
    };
    run(start, |cx, what| echo_server(&mut conns, cx, what, |_, _| {}));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn many_connections_are_served_at_once_and_leave_nothing_behind() {
    const CLIENTS: usize = 300;
    let path = scratch("many.sock");
    let listener = listen_unix(&path).unwrap();
    let mut conns = frames(ConnConfig { recv_buf: 32 << 10, ..ConnConfig::default() });
    let client_path = path.clone();
    let mut over = 0;
    let start = |cx: &mut Ctx, _| {
        let listener = cx.adopt(listener);
        cx.accept(listener, ACCEPT);
        std::thread::spawn(move || {
            let mut clients: Vec<_> = (0..CLIENTS).map(|_| UnixStream::connect(&client_path).unwrap()).collect();
            for round in 0..3u8 {
                clients.iter_mut().for_each(|c| c.write_all(&frame(&[round; 5000])).unwrap());
                for client in &mut clients {
                    let mut back = vec![0; 5004];
                    client.read_exact(&mut back).unwrap();
                    assert!(back == frame(&[round; 5000]));
                }
            }
        });
    };
    run(start, |cx, what| {
        echo_server(&mut conns, cx, what, |reason, cx| {
            assert!(matches!(reason, CloseReason::Eof));
            over += 1;
            if over == CLIENTS {
                // The listener, and the accept and wake-up that still run.
                assert_eq!((cx.stats().descriptors, cx.stats().in_flight), (1, 2));
                cx.stop();
            }
        });
    });
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_peer_that_dies_in_the_middle_of_a_send_frees_everything() {
    let path = scratch("killed.sock");
    let listener = listen_unix(&path).unwrap();
    let mut conns = frames(ConnConfig::default());
    let client_path = path.clone();
    let mut over = 0;
    let start = |cx: &mut Ctx, _| {
        let listener = cx.adopt(listener);
        cx.accept(listener, ACCEPT);
        std::thread::spawn(move || {
            for _ in 0..20 {
                let mut stream = UnixStream::connect(&client_path).unwrap();
                stream.write_all(&frame(&vec![1; 8 << 20])).unwrap();
                stream.read_exact(&mut [0; 10]).unwrap();
            }
        });
    };
    run(start, |cx, what| {
        echo_server(&mut conns, cx, what, |reason, cx| {
            assert!(matches!(reason, CloseReason::Io(_) | CloseReason::Eof), "{reason}");
            over += 1;
            if over == 20 {
                assert_eq!((cx.stats().descriptors, cx.stats().in_flight), (1, 2));
                cx.stop();
            }
        });
    });
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_peer_that_does_not_read_stops_itself_and_loses_nothing() {
    const FRAME: usize = 32 << 10;
    const COUNT: usize = 512;
    let config = ConnConfig { recv_buf: 64 << 10, send_max: 1 << 20, ..ConnConfig::default() };
    let path = scratch("slow.sock");
    let listener = listen_unix(&path).unwrap();
    let mut conns = frames(config);
    let client_path = path.clone();
    let (stuck, is_stuck) = mpsc::channel();
    let start = |cx: &mut Ctx, remote: drystone_reactor::Remote<u64>| {
        let listener = cx.adopt(listener);
        cx.accept(listener, ACCEPT);
        std::thread::spawn(move || {
            let mut reader = UnixStream::connect(&client_path).unwrap();
            let mut writer = reader.try_clone().unwrap();
            let writing = std::thread::spawn(move || {
                (0..COUNT).for_each(|i| writer.write_all(&frame(&[i as u8; FRAME])).unwrap());
            });
            is_stuck.recv().unwrap();
            let mut back = vec![0; FRAME + 4];
            for i in 0..COUNT {
                reader.read_exact(&mut back).unwrap();
                assert!(back == frame(&[i as u8; FRAME]));
            }
            writing.join().unwrap();
            remote.send(0).unwrap();
        });
    };
    run(start, |cx, what| {
        echo_server(&mut conns, cx, what, |_, _| {});
        for id in conns.ids().collect::<Vec<_>>() {
            let queued = conns.get(id).unwrap().queued();
            assert!(queued <= config.send_max + config.recv_buf + FRAME, "{queued} bytes are queued");
            if queued > config.send_max {
                let _ = stuck.send(());
            }
        }
    });
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_protocol_error_closes_after_the_last_word_and_goodbye_after_the_last_answer() {
    let path = scratch("last.sock");
    let listener = listen_unix(&path).unwrap();
    let mut conns = frames(ConnConfig::default());
    let client_path = path.clone();
    let mut reasons = Vec::new();
    let start = |cx: &mut Ctx, remote: drystone_reactor::Remote<u64>| {
        let listener = cx.adopt(listener);
        cx.accept(listener, ACCEPT);
        std::thread::spawn(move || {
            let mut rest = Vec::new();
            let mut stream = UnixStream::connect(&client_path).unwrap();
            stream.write_all(&u32::MAX.to_le_bytes()).unwrap();
            stream.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"too long");
            let mut stream = UnixStream::connect(&client_path).unwrap();
            let body = vec![3; 2 << 20];
            stream.write_all(&[frame(&body), vec![0; 4]].concat()).unwrap();
            rest.clear();
            stream.read_to_end(&mut rest).unwrap();
            assert!(rest == frame(&body));
            remote.send(0).unwrap();
        });
    };
    run(start, |cx, what| echo_server(&mut conns, cx, what, |reason, _| reasons.push(reason.to_string())));
    assert_eq!(reasons, ["protocol error: too long", "the peer said goodbye"]);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn connecting_works_and_a_refused_connection_says_so() {
    let (listener, addr) = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    // Bound and closed again: nobody listens there.
    let (_, nobody) = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let (mut good, mut bad) = (None, None);
    let start = |cx: &mut Ctx, _| {
        let listener = cx.adopt(listener);
        cx.accept(listener, ACCEPT);
        cx.connect(&Addr::Inet(addr), UserToken::new(5, 1)).unwrap();
        cx.connect(&Addr::Inet(nobody), UserToken::new(5, 2)).unwrap();
    };
    run(start, |cx, what| {
        match what {
            What::Done(UserToken { class: 5, id: 1 }, OpResult::Connected(result)) => good = Some(result),
            What::Done(UserToken { class: 5, id: 2 }, OpResult::Connected(result)) => bad = Some(result),
            _ => {}
        }
        if good.is_some() && bad.is_some() {
            cx.stop();
        }
    });
    assert!(good.unwrap().is_ok());
    assert_eq!(bad.unwrap().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn closing_ends_what_runs_on_it_first_and_a_stale_name_reaches_nothing() {
    let (listener, _) = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut log = Vec::new();
    let name = std::cell::Cell::new(None);
    let start = |cx: &mut Ctx, remote: drystone_reactor::Remote<u64>| {
        let listener = cx.adopt(listener);
        cx.accept(listener, ACCEPT);
        name.set(Some(listener));
        remote.send(0).unwrap();
    };
    run(start, |cx, what| match what {
        What::Command(_) => cx.close(name.get().unwrap(), UserToken::new(9, 9)),
        What::Done(ACCEPT, OpResult::Accepted(Err(_))) => log.push("accept ended"),
        What::Done(UserToken { class: 9, .. }, OpResult::Closed) => {
            log.push("closed");
            cx.recv(name.get().unwrap(), UserToken::new(8, 8), BufMut::with_len(16), 0..16, false);
        }
        What::Done(UserToken { class: 8, .. }, OpResult::Received { result, .. }) => {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(9));
            cx.stop();
        }
        _ => {}
    });
    assert_eq!(log, ["accept ended", "closed"]);
}

#[test]
fn a_socket_file_left_by_a_dead_process_is_replaced_and_a_living_one_is_not() {
    let path = scratch("stale.sock");
    drop(listen_unix(&path).unwrap());
    let alive = listen_unix(&path).unwrap();
    assert!(listen_unix(&path).is_err());
    drop(alive);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"precious").unwrap();
    assert!(listen_unix(&path).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_peer_that_never_reads_its_last_answer_is_cut_in_the_end() {
    let path = scratch("finish.sock");
    let listener = listen_unix(&path).unwrap();
    let mut conns = frames(ConnConfig { finish_us: 50_000, ..ConnConfig::default() });
    let client_path = path.clone();
    let mut client = None;
    let start = |cx: &mut Ctx, _| {
        let listener = cx.adopt(listener);
        cx.accept(listener, ACCEPT);
        let mut stream = UnixStream::connect(&client_path).unwrap();
        let body = [0; 4000];
        stream.write_all(&[frame(&body), vec![0; 4]].concat()).unwrap();
        client = Some(stream);
    };
    run(start, |cx, what| {
        // Much more than a socket takes is queued before the goodbye is seen.
        for id in conns.ids().collect::<Vec<_>>() {
            if conns.get(id).unwrap().queued() == 0 && conns.get(id).unwrap().is_open() {
                conns.parts(id).unwrap().1.push_buf(BufMut::zeroed(4 << 20).freeze());
            }
        }
        echo_server(&mut conns, cx, what, |reason, cx| {
            assert!(matches!(reason, CloseReason::Goodbye), "{reason}");
            cx.stop();
        });
    });
    drop(client);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_socket_in_non_blocking_mode_works_all_the_same() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let start = |cx: &mut Ctx, remote: drystone_reactor::Remote<u64>| {
        let fd = cx.adopt(ours.into());
        cx.recv(fd, UserToken::new(7, 7), BufMut::with_len(5), 0..5, true);
        remote.send(0).unwrap();
    };
    run(start, |cx, what| match what {
        // Only now, when the receive already waits.
        What::Command(_) => theirs.write_all(b"hello").unwrap(),
        What::Done(_, OpResult::Received { result, buf }) => {
            assert_eq!((result.unwrap(), buf.as_slice()), (5, b"hello".as_slice()));
            cx.stop();
        }
        _ => {}
    });
}

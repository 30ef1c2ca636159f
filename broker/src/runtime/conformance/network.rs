//! Listening, connecting and byte streams.

use super::{About, Site, Verdict, ensure, poll_once, start, within};
use crate::runtime::{Connection, Listener, Runtime, oneshot};
use bytes::{Bytes, BytesMut};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

/// Longer than any cancellation or segment takes.
const SETTLE: Duration = Duration::from_millis(60);

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// Bytes that tell their position, with a period that no power of two divides.
fn pattern(length: usize) -> Bytes {
    (0..length).map(|position| (position % 251) as u8).collect::<Vec<u8>>().into()
}

/// A connected pair: the accepting end, then the connecting one.
async fn pair<R: Runtime>(runtime: &R) -> Result<(R::Connection, R::Connection), String> {
    let listener = runtime.listen(any_port()).await.about("listen")?;
    let accepted = start(runtime, listener.accept());
    let outer = runtime.connect(listener.local_address()).await.about("connect")?;
    let (handle, _) = accepted.await.about("await the acceptor")?.about("accept")?;
    Ok((runtime.adopt(handle), outer))
}

/// Receives exactly `count` bytes, in steps of at most `step`.
async fn receive_exactly(
    connection: &impl Connection,
    count: usize,
    step: usize,
) -> Result<BytesMut, String> {
    let mut all = BytesMut::with_capacity(count);
    while all.len() < count {
        let (outcome, buffer) =
            connection.receive(BytesMut::with_capacity(step.min(count - all.len()))).await;
        let got = outcome.about("receive")?;
        ensure!(got == buffer.len(), "{got} bytes were announced and {} received", buffer.len());
        ensure!(got > 0, "the stream ended after {} of {count} bytes", all.len());
        all.extend_from_slice(&buffer);
    }
    Ok(all)
}

/// What a receive at the end of the stream must give.
async fn expect_end(connection: &impl Connection) -> Verdict {
    let (outcome, buffer) = connection.receive(BytesMut::with_capacity(16)).await;
    let got = outcome.about("receive at the end of the stream")?;
    ensure!(got == 0 && buffer.is_empty(), "{got} bytes came after the end of the stream");
    Ok(())
}

pub(super) async fn a_port_in_use_is_an_error<R: Runtime>(site: Site<R>) -> Verdict {
    let listener = site.runtime.listen(any_port()).await.about("listen")?;
    let address = listener.local_address();
    ensure!(address.port() != 0, "the port that was chosen is not told");
    match site.runtime.listen(address).await {
        Ok(_) => Err("a port was bound twice".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        Err(error) => Err(format!("a port in use gave {error:?}")),
    }
}

pub(super) async fn a_closed_port_refuses<R: Runtime>(site: Site<R>) -> Verdict {
    let listener = site.runtime.listen(any_port()).await.about("listen")?;
    let address = listener.local_address();
    drop(listener);
    site.runtime.sleep(SETTLE).await;
    match site.runtime.connect(address).await {
        Ok(_) => Err("a connection came about with nobody listening".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(format!("a closed port gave {error:?}")),
    }?;
    // The port is free again.
    site.runtime.listen(address).await.map(drop).about("listen where a listener was dropped")
}

pub(super) async fn both_ends_know_each_other<R: Runtime>(site: Site<R>) -> Verdict {
    let listener = site.runtime.listen(any_port()).await.about("listen")?;
    let accepted = start(&site.runtime, listener.accept());
    let outer = site.runtime.connect(listener.local_address()).await.about("connect")?;
    let (handle, peer) = accepted.await.about("await the acceptor")?.about("accept")?;
    ensure!(peer.ip() == Ipv4Addr::LOCALHOST && peer.port() != 0, "the peer's address is {peer}");
    let inner = site.runtime.adopt(handle);
    outer.send(vec![Bytes::from_static(b"ping")]).await.about("send")?;
    ensure!(receive_exactly(&inner, 4, 16).await? == "ping", "the accepting end got other bytes");
    inner.send(vec![Bytes::from_static(b"pong")]).await.about("send back")?;
    ensure!(receive_exactly(&outer, 4, 16).await? == "pong", "the connecting end got other bytes");
    Ok(())
}

pub(super) async fn receive_appends_within_capacity<R: Runtime>(site: Site<R>) -> Verdict {
    let (inner, outer) = pair(&site.runtime).await?;
    let sent = start(&site.runtime, outer.send(vec![pattern(5000)]));
    site.runtime.sleep(SETTLE).await;
    let mut buffer = BytesMut::with_capacity(64);
    buffer.extend_from_slice(b"kept");
    let room = buffer.capacity() - buffer.len();
    let (outcome, buffer) = inner.receive(buffer).await;
    let got = outcome.about("receive")?;
    ensure!(got >= 1 && got <= room, "{got} bytes were received into room for {room}");
    ensure!(buffer.len() == 4 + got, "after {got} bytes the buffer holds {}", buffer.len());
    ensure!(buffer.starts_with(b"kept"), "a receive overwrote what the buffer held");
    let expected = pattern(5000);
    ensure!(buffer[4..] == expected[..got], "a receive gave other bytes");
    let rest = receive_exactly(&inner, 5000 - got, 777).await?;
    ensure!(rest == expected[got..], "the rest of the stream differs");
    sent.await.about("await the sender")?.about("send")
}

pub(super) async fn a_big_transfer_is_held_back<R: Runtime>(site: Site<R>) -> Verdict {
    let (inner, outer) = pair(&site.runtime).await?;
    let block = pattern(251 * 256);
    let blocks = site.effort.transfer_bytes.div_ceil(block.len());
    let parts = vec![block.clone(); blocks];
    let mut sent = start(&site.runtime, async move { outer.send(parts).await });
    let early = within(&site.runtime, SETTLE * 4, &mut sent).await;
    ensure!(early.is_none(), "a send of {} bytes ended with nobody receiving", blocks * block.len());
    let (mut total, mut step) = (0_usize, 1_usize);
    while total < blocks * block.len() {
        // Buffers of all sizes, so that receives end in the middle of everything.
        step = if step > 300_000 { 1 } else { step * 3 };
        let (outcome, buffer) = inner.receive(BytesMut::with_capacity(step)).await;
        let got = outcome.about("receive")?;
        ensure!(got > 0, "the stream ended after {total} bytes");
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let at = total % block.len();
            let count = rest.len().min(block.len() - at);
            ensure!(rest[..count] == block[at..at + count], "the bytes after {total} differ");
            total += count;
            rest = &rest[count..];
        }
    }
    ensure!(total == blocks * block.len(), "{total} bytes came, more than were sent");
    sent.await.about("await the sender")?.about("send")?;
    expect_end(&inner).await
}

pub(super) async fn parts_arrive_in_order<R: Runtime>(site: Site<R>) -> Verdict {
    let (inner, outer) = pair(&site.runtime).await?;
    let (mut parts, mut expected) = (Vec::new(), Vec::new());
    for number in 0..3000_usize {
        // More parts than one system call takes, empty ones and large ones among them.
        let length = if number % 701 == 700 { 70_000 } else { number % 23 };
        let part = vec![(number % 253) as u8; length];
        expected.extend_from_slice(&part);
        parts.push(Bytes::from(part));
    }
    let sent = start(&site.runtime, async move {
        outer.send(Vec::new()).await?;
        outer.send(vec![Bytes::new(), Bytes::new()]).await?;
        outer.send(parts).await?;
        outer.send(vec![Bytes::from_static(b"end")]).await
    });
    expected.extend_from_slice(b"end");
    let got = receive_exactly(&inner, expected.len(), 10_000).await?;
    sent.await.about("await the sender")?.about("send many parts")?;
    let differs = got.iter().zip(&expected).position(|(left, right)| left != right);
    ensure!(differs.is_none(), "the stream differs from its parts at byte {differs:?}");
    Ok(())
}

pub(super) async fn both_directions_flow_together<R: Runtime>(site: Site<R>) -> Verdict {
    let (inner, outer) = pair(&site.runtime).await?;
    let block = pattern(site.effort.transfer_bytes / 8);
    let mut ends = Vec::new();
    for connection in [inner, outer] {
        let (sender, receiver) = (connection.clone(), connection);
        let parts: Vec<Bytes> = block.chunks(50_000).map(|part| block.slice_ref(part)).collect();
        let sent = start(&site.runtime, async move { sender.send(parts).await });
        let expected = block.clone();
        ends.push(start(&site.runtime, async move {
            let got = receive_exactly(&receiver, expected.len(), 40_000).await?;
            ensure!(got == expected, "a direction's bytes differ");
            sent.await.about("await the sender")?.about("send")?;
            Ok(receiver)
        }));
    }
    for end in ends {
        end.await.about("await a direction")??;
    }
    Ok(())
}

pub(super) async fn shutdown_ends_both_sides<R: Runtime>(site: Site<R>) -> Verdict {
    let (inner, outer) = pair(&site.runtime).await?;
    outer.send(vec![Bytes::from_static(b"last words")]).await.about("send")?;
    outer.shutdown();
    outer.shutdown();
    let refused = outer.send(vec![Bytes::from_static(b"more")]).await;
    ensure!(refused.is_err(), "a send after the shutdown was accepted");
    ensure!(receive_exactly(&inner, 10, 3).await? == "last words", "the last bytes differ");
    expect_end(&inner).await?;
    expect_end(&inner).await?;
    // The peer learns, after a while, that nobody takes its bytes.
    for _ in 0..100 {
        if inner.send(vec![Bytes::from_static(b"anybody there")]).await.is_err() {
            return Ok(());
        }
        site.runtime.sleep(SETTLE).await;
    }
    Err("sends to a peer that has shut down succeed for ever".to_owned())
}

pub(super) async fn shutdown_ends_operations_under_way<R: Runtime>(site: Site<R>) -> Verdict {
    let (inner, outer) = pair(&site.runtime).await?;
    let receiving = start(&site.runtime, inner.receive(BytesMut::with_capacity(100)));
    let parts = vec![pattern(1 << 20); site.effort.transfer_bytes >> 20];
    let sending = start(&site.runtime, inner.send(parts));
    site.runtime.sleep(SETTLE).await;
    inner.shutdown();
    let limit = Duration::from_secs(20);
    match within(&site.runtime, limit, receiving).await {
        Some(Ok((Ok(0) | Err(_), _))) => {}
        Some(Ok((Ok(count), _))) => return Err(format!("a receive that was shut down got {count} bytes")),
        Some(Err(oneshot::Closed)) => return Err("the receiving task went away".to_owned()),
        None => return Err("a receive under way was not ended by the shutdown".to_owned()),
    }
    match within(&site.runtime, limit, sending).await {
        Some(Ok(Err(_))) => {}
        Some(Ok(Ok(()))) => return Err("a send that nobody received succeeded".to_owned()),
        Some(Err(oneshot::Closed)) => return Err("the sending task went away".to_owned()),
        None => return Err("a send under way was not ended by the shutdown".to_owned()),
    }
    drop(outer);
    Ok(())
}

pub(super) async fn a_dropped_peer_ends_the_stream<R: Runtime>(site: Site<R>) -> Verdict {
    let (inner, outer) = pair(&site.runtime).await?;
    let clone = outer.clone();
    drop(outer);
    clone.send(vec![Bytes::from_static(b"still here")]).await.about("send over the remaining clone")?;
    ensure!(receive_exactly(&inner, 10, 64).await? == "still here", "the bytes differ");
    drop(clone);
    let end = within(&site.runtime, Duration::from_secs(20), expect_end(&inner)).await;
    end.unwrap_or_else(|| Err("the stream of a dropped peer does not end".to_owned()))
}

pub(super) async fn an_unadopted_connection_keeps_its_bytes<R: Runtime>(site: Site<R>) -> Verdict {
    let listener = site.runtime.listen(any_port()).await.about("listen")?;
    for adopt in [true, false] {
        let accepted = start(&site.runtime, listener.accept());
        let outer = site.runtime.connect(listener.local_address()).await.about("connect")?;
        outer.send(vec![Bytes::from_static(b"early")]).await.about("send")?;
        let (handle, _) = accepted.await.about("await the acceptor")?.about("accept")?;
        site.runtime.sleep(SETTLE).await;
        if adopt {
            let inner = site.runtime.adopt(handle);
            ensure!(receive_exactly(&inner, 5, 64).await? == "early", "the early bytes differ");
        } else {
            drop(handle);
            let end = outer.receive(BytesMut::with_capacity(8));
            match within(&site.runtime, Duration::from_secs(20), end).await {
                Some((Ok(0) | Err(_), _)) => {}
                Some((Ok(count), _)) => return Err(format!("{count} bytes came from nobody")),
                None => return Err("a handle was dropped and its peer never learns it".to_owned()),
            }
        }
    }
    Ok(())
}

pub(super) async fn a_released_connection_goes_on_elsewhere<R: Runtime>(site: Site<R>) -> Verdict {
    let (inner, outer) = pair(&site.runtime).await?;
    let clone = inner.clone();
    let Err(inner) = site.runtime.release(inner) else {
        return Err("a connection was given up of which there is a clone".to_owned());
    };
    drop(clone);
    outer.send(vec![Bytes::from_static(b"before")]).await.about("send")?;
    ensure!(receive_exactly(&inner, 3, 64).await? == "bef", "the first bytes differ");
    let inner = match site.runtime.release(inner) {
        Ok(handle) => {
            outer.send(vec![Bytes::from_static(b"between")]).await.about("send")?;
            site.runtime.sleep(SETTLE).await;
            site.runtime.adopt(handle)
        }
        // This machine moves no connections: it goes on where it is.
        Err(inner) => {
            outer.send(vec![Bytes::from_static(b"between")]).await.about("send")?;
            inner
        }
    };
    ensure!(receive_exactly(&inner, 10, 64).await? == "orebetween", "the bytes behind them differ");
    inner.send(vec![Bytes::from_static(b"answer")]).await.about("answer")?;
    ensure!(receive_exactly(&outer, 6, 64).await? == "answer", "the answer differs");
    drop(site.runtime.release(inner));
    let end = within(&site.runtime, Duration::from_secs(20), expect_end(&outer)).await;
    end.unwrap_or_else(|| {
        Err("a connection was given up and dropped, and its peer never learns it".to_owned())
    })
}

pub(super) async fn a_dropped_receive_loses_nothing_sent_later<R: Runtime>(site: Site<R>) -> Verdict {
    let (inner, outer) = pair(&site.runtime).await?;
    for round in 0..site.effort.rounds {
        {
            let mut receive = pin!(inner.receive(BytesMut::with_capacity(4096)));
            let early = poll_once(receive.as_mut()).await;
            ensure!(early.is_none(), "round {round}: a receive ended with nothing sent");
            if round % 2 == 1 {
                site.runtime.yield_now().await;
            }
        }
        site.runtime.sleep(SETTLE).await;
        let expected = pattern(1000 + round);
        let sent = start(&site.runtime, outer.send(vec![expected.clone()]));
        let got =
            within(&site.runtime, Duration::from_secs(20), receive_exactly(&inner, expected.len(), 4096));
        let Some(got) = got.await else {
            return Err(format!("round {round}: bytes sent after a dropped receive did not arrive"));
        };
        ensure!(got? == expected, "round {round}: bytes sent after a dropped receive differ");
        sent.await.about("await the sender")?.about("send")?;
    }
    Ok(())
}

pub(super) async fn a_dropped_accept_loses_nobody_later<R: Runtime>(site: Site<R>) -> Verdict {
    let listener = site.runtime.listen(any_port()).await.about("listen")?;
    {
        let mut accept = pin!(listener.accept());
        ensure!(poll_once(accept.as_mut()).await.is_none(), "somebody was accepted before anybody connected");
    }
    site.runtime.sleep(SETTLE).await;
    let outer = site.runtime.connect(listener.local_address()).await.about("connect")?;
    let accepted = within(&site.runtime, Duration::from_secs(20), listener.accept()).await;
    let Some(accepted) = accepted else {
        return Err("after a dropped accept the next connection was not accepted".to_owned());
    };
    let inner = site.runtime.adopt(accepted.about("accept")?.0);
    inner.send(vec![Bytes::from_static(b"hello")]).await.about("send")?;
    ensure!(receive_exactly(&outer, 5, 64).await? == "hello", "the bytes differ");
    Ok(())
}

pub(super) async fn many_connections_at_once<R: Runtime>(site: Site<R>) -> Verdict {
    let listener = site.runtime.listen(any_port()).await.about("listen")?;
    let address = listener.local_address();
    let count = (site.effort.operations / 10).max(2);
    let runtime = site.runtime.clone();
    let served = start(&site.runtime, async move {
        for _ in 0..count {
            let (handle, _) = listener.accept().await.about("accept")?;
            let connection = runtime.adopt(handle);
            runtime.spawn(async move {
                // An echo of 8 bytes; a failure shows at the other end.
                if let Ok(bytes) = receive_exactly(&connection, 8, 3).await {
                    let _ = connection.send(vec![bytes.freeze()]).await;
                }
            });
        }
        Ok::<(), String>(())
    });
    let mut ends = Vec::new();
    for number in 0..count {
        let runtime = site.runtime.clone();
        ends.push(start(&site.runtime, async move {
            let connection = runtime.connect(address).await.about("connect")?;
            let word = Bytes::from((number as u64).to_be_bytes().to_vec());
            connection.send(vec![word.clone()]).await.about("send")?;
            let got = receive_exactly(&connection, 8, 8).await?;
            ensure!(got == word, "connection {number} got another one's bytes");
            Ok(())
        }));
    }
    for end in ends {
        end.await.about("await a client")??;
    }
    served.await.about("await the server")?
}

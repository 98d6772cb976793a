//! Runs a command beside a name server on the loopback address that systemd-resolved listens on. Every name has one address: `with-resolver ADDRESS COMMAND …`.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Command, ExitCode};

/// Bytes before the questions.
const HEADER: usize = 12;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let address: Ipv4Addr = words.next().and_then(|word| word.to_str()?.parse().ok()).expect("an IPv4 address");
    let program = words.next().expect("a command");
    // Before the command starts, so that it finds the server.
    let socket = UdpSocket::bind("127.0.0.53:53").expect("a network namespace of its own");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, asker)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = answer(&buffer[..length], address) {
                // Whoever asked has gone, then.
                drop(socket.send_to(&answer, asker));
            }
        }
    });
    let status = Command::new(program).args(words).status().expect("the command starts");
    ExitCode::from(u8::try_from(status.code().unwrap_or(255)).unwrap_or(255))
}

/// The question again, and the address if that is what was asked for.
fn answer(query: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let name = query.get(HEADER..)?.iter().position(|byte| *byte == 0)?;
    let end = HEADER + name + 5;
    let question = query.get(HEADER..end)?;
    let asks_for_address = question.get(name + 1..name + 3)? == [0, 1];
    let mut answer = query.get(..2)?.to_vec();
    // A response without error to a query that wanted recursion; one question, no or one answer.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(asks_for_address), 0, 0, 0, 0]);
    answer.extend(question);
    if asks_for_address {
        // The name of the question, address, internet, a minute, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

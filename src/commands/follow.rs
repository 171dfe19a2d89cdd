//! `headwater follow URL`: an object to standard output while it grows, as with httpfstream-follow.
//! `main` calls [`run`]; everything else is `client`'s.

use std::io::{self, ErrorKind, Read, Write};

use super::append::{ConnectionArgs, options, start_log};

const READ_BYTES: usize = 64 << 10;

#[derive(Debug, clap::Args)]
pub struct FollowArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

pub fn run(args: &FollowArgs) -> anyhow::Result<()> {
    let _log = start_log(&args.connection)?;
    let mut follower = options(&args.connection).follow(&args.connection.url)?;
    let mut out = io::stdout().lock();
    let mut block = vec![0; READ_BYTES];
    let mut bytes = 0;
    loop {
        let count = follower.read(&mut block)?;
        if count == 0 {
            break;
        }
        // At once: who looks on wants to see each message when it comes.
        let written = out.write_all(&block[..count]).and_then(|()| out.flush());
        match written {
            Ok(()) => bytes += count as u64,
            // Whoever read this has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    tracing::info!(bytes, "followed to the end");
    Ok(())
}

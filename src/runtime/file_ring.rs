//! Reads of files into registered buffers, and syncs, on the core's second ring. Without io_uring they
//! are ordinary calls on the offload threads.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;

use io_uring::{opcode, types};

use super::buffers::{BufferPool, DATA_BYTES, FixedBuffer};
use super::offload::Offload;
use super::ring::Ring;

pub struct FileRing {
    ring: Option<Rc<Ring>>,
    offload: Arc<Offload>,
    pool: Rc<BufferPool>,
}

impl FileRing {
    pub fn new(
        ring: Option<Rc<Ring>>,
        offload: Arc<Offload>,
        pool: Rc<BufferPool>,
    ) -> Rc<FileRing> {
        Rc::new(FileRing { ring, offload, pool })
    }

    /// Read up to `len` bytes (at most a buffer's worth) at `offset`. A short read is the end of the
    /// file.
    pub async fn read(&self, file: Arc<File>, offset: u64, len: usize) -> io::Result<FixedBuffer> {
        let len = len.min(DATA_BYTES);
        let mut buffer = self.pool.take().await;
        let Some(ring) = &self.ring else {
            let read = move || {
                let mut data = vec![0; len];
                let got = file.read_at(&mut data, offset)?;
                data.truncate(got);
                Ok::<_, io::Error>(data)
            };
            let data = self.offload.run(read).await?;
            buffer.set_data(0);
            buffer.put_behind(&data);
            return Ok(buffer);
        };
        let fd = types::Fd(file.as_raw_fd());
        let entry = if ring.has_fixed_buffers {
            opcode::ReadFixed::new(fd, buffer.data_ptr(), len as u32, buffer.index())
                .offset(offset)
                .build()
        } else {
            opcode::Read::new(fd, buffer.data_ptr(), len as u32).offset(offset).build()
        };
        let (result, buffer) = ring.run(entry, file, Some(buffer)).await;
        let got = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))?;
        let mut buffer = buffer.ok_or(io::ErrorKind::Other)?;
        buffer.set_data(got);
        Ok(buffer)
    }

    /// Data, length and attributes of the file are on disk when this returns. An error is final:
    /// the kernel reports it once, so the caller must give the file up.
    pub async fn sync(&self, file: Arc<File>) -> io::Result<()> {
        let Some(ring) = &self.ring else {
            return self.offload.run(move || file.sync_all()).await;
        };
        let entry = opcode::Fsync::new(types::Fd(file.as_raw_fd())).build();
        let (result, _) = ring.run(entry, file, None).await;
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
    }
}

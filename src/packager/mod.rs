//! Live presentations as views of objects. So far: `marks`, which finds the boundaries in media bytes.

pub mod marks;

//! Reading lines of bounded length from a child's pipes.

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Lines of at most `limit` bytes.
pub struct Lines<R> {
    input: BufReader<R>,
    limit: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of `input`.
    pub fn new(input: R, limit: usize) -> Self {
        Self {
            input: BufReader::new(input),
            limit,
        }
    }

    /// The next line without its end, or none at the end of input. A longer line is an error.
    pub async fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let most = self.limit as u64 + 1;
        let bytes = (&mut self.input).take(most).read_until(b'\n', &mut line).await?;
        if bytes == 0 {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.len() > self.limit {
            return Err(std::io::Error::other(format!(
                "a line is longer than {} bytes",
                self.limit
            )));
        }
        Ok(Some(line))
    }
}

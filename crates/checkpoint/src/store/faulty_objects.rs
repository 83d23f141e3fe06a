//! The `object_store` side of [`super::Faulty`]: puts, reads and multipart uploads that fail as ordered.

use std::fmt;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::faulty::{Op, Script, object_error};

#[derive(Debug)]
pub(super) struct FaultyObjects {
    pub inner: Arc<dyn ObjectStore>,
    pub script: Arc<Script>,
}

impl fmt::Display for FaultyObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

impl FaultyObjects {
    async fn call<T>(
        &self,
        op: Op,
        path: &Path,
        bytes: usize,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let fail = |kind| object_error(kind, path.as_ref());
        self.script.call(op, path.as_ref(), bytes, work, fail).await
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyObjects {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let op = if options.mode == PutMode::Create {
            Op::PutNew
        } else {
            Op::Put
        };
        let bytes = payload.content_length();
        self.call(op, path, bytes, self.inner.put_opts(path, payload, options))
            .await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let work = self.inner.put_multipart_opts(path, options);
        let inner = self.call(Op::StartUpload, path, 0, work).await?;
        Ok(Box::new(FaultyUpload {
            inner,
            path: path.clone(),
            script: Arc::clone(&self.script),
        }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let op = if options.range.is_some() {
            Op::Read
        } else {
            Op::Get
        };
        self.call(op, path, 0, self.inner.get_opts(path, options)).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    path: Path,
    script: Arc<Script>,
}

impl fmt::Debug for FaultyUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyUpload")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let bytes = data.content_length();
        let work = self.inner.put_part(data);
        let (path, script) = (self.path.clone(), Arc::clone(&self.script));
        Box::pin(async move {
            let fail = |kind| object_error(kind, path.as_ref());
            script.call(Op::PutPart, path.as_ref(), bytes, work, fail).await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let Self { inner, path, script } = self;
        let fail = |kind| object_error(kind, path.as_ref());
        script
            .call(Op::Complete, path.as_ref(), 0, inner.complete(), fail)
            .await
    }

    async fn abort(&mut self) -> Result<()> {
        let Self { inner, path, script } = self;
        let fail = |kind| object_error(kind, path.as_ref());
        script
            .call(Op::Abort, path.as_ref(), 0, inner.abort(), fail)
            .await
    }
}

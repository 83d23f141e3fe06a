//! The real NCCL is found, and its calls that need no GPU say what they should.
//!
//! NCCL comes from `scripts/nccl.sh`, which prints the folder for REKINDLE_CUDA_LIBRARIES. Where it is absent this
//! says so; with REKINDLE_REQUIRE_NCCL=1 that is a failure. What moves bytes is tested in `rekindle-transport`.
#![allow(clippy::unwrap_used, clippy::panic)]

use rekindle_compute::cuda::library::{Kind, find};
use rekindle_compute::cuda::nccl::{Code, Library, Nccl, OLDEST, Since};

fn library() -> Option<Library> {
    match Library::find() {
        Ok(library) => Some(library),
        Err(error) => {
            let error = error.to_string();
            assert!(std::env::var_os("REKINDLE_REQUIRE_NCCL").is_none(), "{error}");
            assert!(
                error.contains("libnccl.so.2") && error.contains("pip install nvidia-nccl"),
                "{error}"
            );
            eprintln!("did not run: {error}");
            None
        }
    }
}

#[test]
fn the_library_has_what_its_version_promises() {
    let Some(library) = library() else { return };
    assert!(library.version() >= OLDEST, "{}", library.version());
    // Looking it up would have failed, had a function been absent.
    let newer = [Since::Shrink, Since::Grow].map(|since| since.in_version(library.version()));
    println!("NCCL {}: shrink and grow {newer:?}", library.version());
}

#[test]
fn ids_differ() {
    let Some(library) = library() else { return };
    assert!(library.unique_id().unwrap() != library.unique_id().unwrap());
}

#[test]
fn codes_are_explained_also_those_that_nobody_knows() {
    let Some(library) = library() else { return };
    let remote = library.explain(Code::REMOTE);
    assert!(remote.starts_with("6 (") && remote.contains("remote"), "{remote}");
    for code in [-1, 9, 12_345] {
        let unknown = library.explain(Code(code));
        assert!(
            unknown.starts_with(&format!("{code} (")) && unknown.contains("unknown"),
            "{unknown}"
        );
    }
}

#[test]
fn without_a_driver_the_error_says_what_is_missing() {
    if library().is_none() || find(Kind::Driver).is_some() {
        return;
    }
    let Err(error) = Nccl::open(0) else {
        panic!("a device without a driver")
    };
    assert!(error.to_string().contains("no CUDA driver"), "{error}");
}

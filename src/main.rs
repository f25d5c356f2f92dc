//! The `weighbridge` program: everything is in the library.

use std::process::ExitCode;

/// A proxy allocates and frees small pieces on every request, which mimalloc does faster than the C
/// library, above all than musl's.
///
/// Its habit of giving unused memory back to the system soon hurts large bodies, because the pages
/// are faulted in again. `MIMALLOC_PURGE_DELAY=-1` in the environment turns that off, at the price
/// of memory that stays at its peak. Only the environment can say so: the setting is read before
/// `main`, and the calls that change it later are unsafe. The container image sets it.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    weighbridge::cli::main()
}

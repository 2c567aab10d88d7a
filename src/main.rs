//! The respmux program: the library runs it and says with which exit code it ends.

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    respmux::main(env::args_os())
}

//! A password from a person or a pipe.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// The terminal shows nothing of what is typed; as it was when this goes.
struct Silence(Termios);

impl Silence {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that has gone needs none.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// On a terminal a line, asked for; otherwise everything that comes. One line end behind it is no part of it.
///
/// # Errors
/// Of the terminal or the pipe; also when there is nothing.
pub(super) fn read() -> io::Result<Vec<u8>> {
    let mut password = Vec::new();
    if io::stdin().is_terminal() {
        // Before anybody is told to type: what was typed earlier, with an echo, is thrown away.
        let _silence = Silence::begin()?;
        write!(io::stderr(), "Password: ")?;
        io::stdin().lock().read_until(b'\n', &mut password)?;
    } else {
        io::stdin().lock().read_to_end(&mut password)?;
    }
    if password.last() == Some(&b'\n') {
        password.pop();
        if password.last() == Some(&b'\r') {
            password.pop();
        }
    }
    Ok(password)
}

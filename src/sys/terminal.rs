//! The size of a terminal (ioctl_tty(2)).

use std::os::fd::{AsRawFd, BorrowedFd};

/// Columns and rows; `None` if it is no terminal, or does not know.
pub(crate) fn size(terminal: BorrowedFd<'_>) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open, and TIOCGWINSZ writes one winsize, for which there is room.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    #[test]
    fn a_file_has_no_size_of_a_terminal() {
        let file = std::fs::File::open("/dev/null").expect("open");
        assert_eq!(super::size(file.as_fd()), None);
    }
}

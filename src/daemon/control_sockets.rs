//! The sockets of the control process. The guardian opens and keeps them, so they can be reached while one control process
//! follows another.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::stat::{Mode, umask};

use crate::config::Config;
use crate::config::control::{ControlSettings, ControlSocket, MetricsAddress};
use crate::error::Error;
use crate::sys::files::FileId;
use crate::sys::sockopt::{self, PortSharing};

/// How long a daemon that listens at the path of a socket may take to say how it is.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often it is looked whether somebody still listens there, and the time between two looks.
const TRIES: u8 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// A Unix socket and its path, which is removed with it unless another socket is there by then.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    pub listener: UnixListener,
    pub path: PathBuf,
    pub id: FileId,
    /// The next program of this process has it.
    pub stays: bool,
}

/// Where metrics are asked for.
#[derive(Debug)]
pub(crate) enum MetricsSocket {
    Tcp(TcpListener),
    Unix(BoundSocket),
}

/// The sockets of an instance.
#[derive(Debug)]
pub(crate) struct ControlSockets {
    pub settings: ControlSettings,
    pub control: Option<BoundSocket>,
    pub metrics: Option<MetricsSocket>,
}

impl ControlSockets {
    /// Opens those that the configuration asks for.
    pub(crate) fn open(config: &Config) -> Result<ControlSockets, Error> {
        let settings = config.process.control.clone();
        let control = match config.control_path() {
            Some(path) => control(&path, &settings)?,
            None => None,
        };
        let metrics = match &settings.metrics {
            None => None,
            Some(MetricsAddress::Tcp(address)) => {
                let listener = sockopt::listener(*address, PortSharing::Shared);
                Some(MetricsSocket::Tcp(listener.map_err(|error| Error::sys(format!("--metrics {address}"), error))?))
            }
            Some(MetricsAddress::Unix(path)) => {
                Some(MetricsSocket::Unix(BoundSocket::bind("--metrics", path, &settings)?))
            }
        };
        Ok(ControlSockets { settings, control, metrics })
    }

    /// They are there for somebody.
    pub(crate) fn any(&self) -> bool {
        self.control.is_some() || self.metrics.is_some()
    }

    /// The next program of this process has them.
    pub(crate) fn leave(&mut self, stays: bool) {
        let unix = self.metrics.iter_mut().filter_map(|metrics| match metrics {
            MetricsSocket::Unix(socket) => Some(socket),
            MetricsSocket::Tcp(_) => None,
        });
        self.control.iter_mut().chain(unix).for_each(|socket| socket.stays = stays);
    }
}

impl AsFd for MetricsSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            MetricsSocket::Tcp(listener) => listener.as_fd(),
            MetricsSocket::Unix(socket) => socket.listener.as_fd(),
        }
    }
}

/// The control socket. One that nobody has asked for is done without if it cannot be had.
fn control(path: &Path, settings: &ControlSettings) -> Result<Option<BoundSocket>, Error> {
    match BoundSocket::bind("--control", path, settings) {
        Err(error) if settings.socket == ControlSocket::Usual => {
            log::info!("no control socket: {error}");
            Ok(None)
        }
        bound => bound.map(Some),
    }
}

impl BoundSocket {
    /// Listens at a path, in place of a socket that nobody listens at any more, or of an instance that drains.
    fn bind(option: &str, path: &Path, settings: &ControlSettings) -> Result<BoundSocket, Error> {
        let shown = || format!("{option}: {}", path.display());
        let failed = |error| Error::file(shown(), error);
        match fs::symlink_metadata(path) {
            Ok(about) if !about.file_type().is_socket() => {
                return Err(Error::value(option, path.display().to_string(), "the path of a socket, or of nothing"));
            }
            Ok(_) if is_served_for_long(path) => {
                return Err(Error::Taken(format!("{}: another process listens there", shown())));
            }
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        let listener = listen(&fresh, settings.group).and_then(|listener| {
            fs::rename(&fresh, path)?;
            Ok(listener)
        });
        let listener = listener.inspect_err(|_| drop(fs::remove_file(&fresh))).map_err(failed)?;
        let id = FileId::of(&fs::symlink_metadata(path).map_err(failed)?);
        Ok(BoundSocket { listener, path: path.to_owned(), id, stays: false })
    }

    /// A socket that the former program of this process has left. Others may have removed it from its path meanwhile, or
    /// put something else there.
    pub(crate) fn adopt(descriptor: OwnedFd, path: PathBuf, id: FileId) -> BoundSocket {
        BoundSocket { listener: UnixListener::from(descriptor), path, id, stays: false }
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|about| FileId::of(&about) == self.id);
        if is_ours
            && !self.stays
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("{}: {error}", self.path.display());
        }
    }
}

/// Makes a socket that root and the group may use.
fn listen(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    // Nobody connects before it has its mode.
    let before = umask(Mode::from_bits_truncate(0o777));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound?;
    listener.set_nonblocking(true)?;
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group))?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        if directory == Path::new("/run/tproxy") {
            // The group may pass, and read nothing of what is there.
            let mode = fs::metadata(directory)?.mode() & 0o777;
            fs::set_permissions(directory, Permissions::from_mode(mode | 0o011))?;
        }
    }
    fs::set_permissions(path, Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Whether somebody keeps listening there. The control process of a daemon that was killed ends a little later.
fn is_served_for_long(path: &Path) -> bool {
    (0..TRIES).all(|number| {
        if number > 0 {
            thread::sleep(PAUSE);
        }
        is_served(path)
    })
}

/// Whether somebody listens there who does not drain.
fn is_served(path: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(path) else { return false };
    let timeouts = stream.set_read_timeout(Some(PATIENCE)).and(stream.set_write_timeout(Some(PATIENCE)));
    let mut answer = [0; 8];
    let asked = timeouts.and_then(|()| stream.write_all(b"health\n")).and_then(|()| stream.read_exact(&mut answer));
    !(asked.is_ok() && &answer == b"draining")
}

//! nginx as the origin: a web server that nobody here wrote. It sends its objects with sendfile(2), in pages of 4 KiB.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::contestant::{Lab, ORIGIN};
use crate::protocol::{Request, WEB_PORT, head_length};

/// It ends with this value.
#[derive(Debug)]
pub struct WebServer {
    child: Child,
    objects: PathBuf,
}

impl WebServer {
    /// Starts it in the namespace of the server.
    pub fn start(lab: &Lab) -> Result<WebServer, String> {
        let directory = lab.directory.join("origin");
        let objects = directory.join("object");
        fs::create_dir_all(&objects).map_err(|error| format!("{}: {error}", objects.display()))?;
        let config = directory.join("nginx.conf");
        let root = directory.display();
        let text = format!(
            "daemon off;
user root;
worker_processes 1;
pid {root}/nginx.pid;
error_log {root}/nginx.log;
events {{ worker_connections 16000; }}
http {{
    access_log off;
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    open_file_cache max=1000;
    server {{ listen {WEB_PORT} backlog=4096; root {root}; }}
}}
"
        );
        fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &lab.server, "nginx", "-e", &format!("{root}/nginx.log"), "-c"]).arg(&config);
        let child = command.stdin(Stdio::null()).spawn().map_err(|error| format!("nginx: {error}"))?;
        let server = WebServer { child, objects };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address()).is_err() {
            if Instant::now() > deadline {
                return Err("nginx as the origin does not answer".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Makes an object of each size, unless there is one.
    pub fn offer(&self, sizes: impl Iterator<Item = usize>) -> Result<(), String> {
        for size in sizes {
            let path = self.objects.join(size.to_string());
            if !path.exists() {
                fs::write(&path, vec![b'x'; size]).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        Ok(())
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        // Its one child ends with it.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn address() -> SocketAddr {
    SocketAddr::new(ORIGIN, WEB_PORT)
}

/// The length of the head before an object, as the server behind the proxies writes it.
pub fn head_of(request: Request) -> Result<usize, String> {
    let mut answer = Vec::new();
    let mut fetch = || {
        let mut stream = TcpStream::connect(address())?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(&request.bytes())?;
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer)?;
            answer.extend_from_slice(&buffer[..count]);
            if let Some(length) = head_length(&answer) {
                return Ok(length);
            }
            if count == 0 {
                return Err(std::io::Error::other("the answer has no head"));
            }
        }
    };
    let length = fetch().map_err(|error: std::io::Error| format!("the origin: {error}"))?;
    match answer.starts_with(b"HTTP/1.1 200 ") {
        true => Ok(length),
        false => Err(format!("the origin answers: {}", String::from_utf8_lossy(&answer))),
    }
}

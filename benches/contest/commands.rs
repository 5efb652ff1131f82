//! Configuration files and command lines of the contestants, set for throughput as their own documentation advises.

use std::fs;
use std::io;
use std::path::Path;

use crate::contestant::{CONNECTIONS, ORIGIN};
use crate::protocol::{HTTP_PROXY_PORT, SOCKS_PORT, WEB_PORT};

pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

pub fn tproxy(directory: &Path, program: &Path, port: u16, options: &[&str]) -> io::Result<Vec<String>> {
    let program = program.display();
    if options.contains(&"--kernel") {
        // Two builds need two names for their rules, and the name comes from the file: they have no port for it.
        let text = format!("--kernel -R '-d {ORIGIN} --dport {port}' {ORIGIN} {WEB_PORT}\n");
        return configured(directory, &format!("kernel-{port}.conf"), &format!("{program} -d -c"), &text);
    }
    let upstream = match options {
        ["--via", "socks5"] => SOCKS_PORT,
        ["--via", _] => HTTP_PROXY_PORT,
        _ => WEB_PORT,
    };
    let log = directory.join(format!("access-{port}.log"));
    let mut command =
        words(&format!("{program} -d --drain 0 -s {port} -r nobody -m {CONNECTIONS} -l {}", log.display()));
    command.extend(options.iter().map(|option| option.to_string()));
    command.extend(["-R".to_owned(), format!("-d {ORIGIN} --dport {port}"), ORIGIN.to_string(), upstream.to_string()]);
    Ok(command)
}

/// Writes a configuration file, and returns the command with the file's path at its end.
fn configured(directory: &Path, name: &str, command: &str, text: &str) -> io::Result<Vec<String>> {
    let path = directory.join(name);
    fs::write(&path, text)?;
    Ok(words(&format!("{command} {}", path.display())))
}

pub fn haproxy_splicing(directory: &Path, port: u16) -> io::Result<Vec<String>> {
    haproxy(directory, port, "mode tcp\n    option splice-request\n    option splice-response", WEB_PORT)
}

/// The upstream sees the client's address.
pub fn haproxy_as_client(directory: &Path, port: u16) -> io::Result<Vec<String>> {
    let mode = "mode tcp\n    option splice-request\n    option splice-response\n    source 0.0.0.0 usesrc clientip";
    haproxy(directory, port, mode, WEB_PORT)
}

pub fn haproxy_copying(directory: &Path, port: u16) -> io::Result<Vec<String>> {
    haproxy(directory, port, "mode tcp", WEB_PORT)
}

/// An HTTP proxy expects the absolute form of the URI.
pub fn haproxy_http(directory: &Path, port: u16) -> io::Result<Vec<String>> {
    let mode = "mode http\n    http-request set-uri http://%[req.hdr(host)]%[pathq]";
    haproxy(directory, port, mode, HTTP_PROXY_PORT)
}

fn haproxy(directory: &Path, port: u16, mode: &str, upstream: u16) -> io::Result<Vec<String>> {
    let text = format!(
        "global
    nbthread 1
    maxconn {CONNECTIONS}
defaults
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen contest
    bind 0.0.0.0:{port}
    {mode}
    server origin {ORIGIN}:{upstream}
"
    );
    configured(directory, &format!("haproxy-{port}.cfg"), "haproxy -db -f", &text)
}

pub fn nginx(directory: &Path, port: u16) -> io::Result<Vec<String>> {
    nginx_with(directory, port, "")
}

/// The upstream sees the client's address.
pub fn nginx_as_client(directory: &Path, port: u16) -> io::Result<Vec<String>> {
    nginx_with(directory, port, "proxy_bind $remote_addr transparent;")
}

fn nginx_with(directory: &Path, port: u16, option: &str) -> io::Result<Vec<String>> {
    let directory_text = directory.display();
    let text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
worker_processes 1;
pid {directory_text}/nginx-{port}.pid;
error_log {directory_text}/nginx-{port}.log;
events {{ worker_connections {descriptors}; }}
stream {{
    server {{
        listen {port} backlog=4096;
        proxy_timeout 1h;
        proxy_pass {ORIGIN}:{WEB_PORT};
        {option}
    }}
}}
",
        descriptors = 2 * CONNECTIONS,
    );
    let command = format!("nginx -e {directory_text}/nginx-{port}.log -c");
    configured(directory, &format!("nginx-{port}.conf"), &command, &text)
}

pub fn rinetd(directory: &Path, port: u16) -> io::Result<Vec<String>> {
    configured(directory, "rinetd.conf", "rinetd -f -c", &format!("0.0.0.0 {port} {ORIGIN} {WEB_PORT}\n"))
}

/// redsocks always relays through a proxy, so each connection begins with a SOCKS5 handshake.
pub fn redsocks_socks5(directory: &Path, port: u16) -> io::Result<Vec<String>> {
    redsocks(directory, port, "socks5", SOCKS_PORT)
}

pub fn redsocks_connect(directory: &Path, port: u16) -> io::Result<Vec<String>> {
    redsocks(directory, port, "http-connect", HTTP_PROXY_PORT)
}

pub fn redsocks_http(directory: &Path, port: u16) -> io::Result<Vec<String>> {
    redsocks(directory, port, "http-relay", HTTP_PROXY_PORT)
}

fn redsocks(directory: &Path, port: u16, kind: &str, upstream: u16) -> io::Result<Vec<String>> {
    let text = format!(
        "base {{ log_debug = off; log_info = off; daemon = off; redirector = iptables; }}
redsocks {{
    local_ip = 0.0.0.0; local_port = {port}; listenq = 4096;
    ip = {ORIGIN}; port = {upstream}; type = {kind};
}}
"
    );
    configured(directory, &format!("redsocks-{port}.conf"), "redsocks -c", &text)
}

pub fn socat(_: &Path, port: u16) -> io::Result<Vec<String>> {
    let listen = format!("TCP4-LISTEN:{port},fork,reuseaddr,backlog=4096,nodelay");
    Ok(words(&format!("socat -b 65536 {listen} TCP4:{ORIGIN}:{WEB_PORT},nodelay")))
}

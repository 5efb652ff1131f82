//! The proxies, balancers and web servers that people run, as real processes inside a namespace.
//!
//! Each has a directory of its own for its configuration and its logs, is waited for until it listens, and is ended by
//! its process id when it is dropped, panic or not.

use crate::journal::Journal;
use crate::netns::Net;
use crate::process::Family;
use crate::tempdir::TempDir;
use crate::wait;
use std::fs;
use std::net::IpAddr;
use std::process::{Child, Command, Output, Stdio};

/// Who may use the proxies that ask for a name and a password.
pub const USER: &str = "tproxy-test";
/// The password. The colon is part of it: only the first one in `name:password` divides.
pub const PASSWORD: &str = "open:Sesame";

/// A program that serves inside a namespace.
pub struct Peer {
    directory: TempDir,
    child: Child,
    family: Family,
    said: Journal,
    name: String,
}

impl Peer {
    /// Squid on an ordinary `http_port` 3128, which serves everybody but does not fetch `refused.example` nor connect
    /// to port 99. A line of its log is `METHOD URL STATUS USER`.
    pub fn squid(net: &Net) -> Peer {
        Peer::squid_for(net, TempDir::open_to_all(), "")
    }

    /// The same, for those who know the password.
    pub fn squid_with_password(net: &Net) -> Peer {
        let directory = TempDir::open_to_all();
        fs::write(directory.file("users"), format!("{USER}:{}\n", hashed("-apr1"))).expect("users");
        let access = "auth_param basic program /usr/lib/squid/basic_ncsa_auth DIRECTORY/users\n\
                      acl known proxy_auth REQUIRED\n\
                      http_access deny !known\n";
        Peer::squid_for(net, directory, access)
    }

    /// The same, and a line of its log is `witness METHOD URL STATUS` with the values of X-Forwarded-For and X-Number.
    pub fn squid_witness(net: &Net) -> Peer {
        let format = "witness %rm %ru %>Hs %{X-Forwarded-For}>h %{X-Number}>h";
        Peer::squid_that_logs(net, TempDir::open_to_all(), "", format)
    }

    fn squid_for(net: &Net, directory: TempDir, access: &str) -> Peer {
        Peer::squid_that_logs(net, directory, access, "%rm %ru %>Hs %un")
    }

    fn squid_that_logs(net: &Net, directory: TempDir, access: &str, format: &str) -> Peer {
        // An address is not to be looked up for a name, which would take a name server. And Squid 5.7 takes a buffer
        // that is just full for the end of the client: with a large one that does not happen.
        let text = format!(
            "http_port 3128\n\
             visible_hostname squid\n\
             {access}\
             acl refused_name dstdomain -n refused.example\n\
             acl refused_port port 99\n\
             http_access deny refused_name\n\
             http_access deny refused_port\n\
             http_access allow all\n\
             http_upgrade_request_protocols websocket allow all\n\
             client_request_buffer_max_size 256 MB\n\
             cache deny all\n\
             strip_query_terms off\n\
             logformat seen {format}\n\
             access_log stdio:DIRECTORY/log seen\n\
             cache_log DIRECTORY/cache.log\n\
             coredump_dir DIRECTORY\n\
             pid_filename none\n\
             pinger_enable off\n\
             max_filedescriptors 1024\n"
        );
        // Squids of one name fight over one shared memory.
        let name: String = net.name.chars().filter(char::is_ascii_alphanumeric).collect();
        Peer::configured(net, directory, &["squid", "-N", "-n", &name, "-f"], &text, &["3128"])
    }

    /// tinyproxy on port 3128, which connects to the ports of the tests but not to 99. Its log holds the first line of
    /// each request.
    pub fn tinyproxy(net: &Net) -> Peer {
        let ports: String = [7, 25, 80, 443].map(|port| format!("ConnectPort {port}\n")).concat();
        let text =
            format!("Port 3128\nTimeout 20\nMaxClients 50\nLogFile \"DIRECTORY/log\"\nLogLevel Connect\n{ports}");
        Peer::configured(net, TempDir::open_to_all(), &["tinyproxy", "-d", "-c"], &text, &["3128"])
    }

    /// Dante's SOCKS server on port 1080.
    pub fn danted(net: &Net) -> Peer {
        Peer::danted_by(net, "none")
    }

    /// The same, for those who know the password.
    pub fn danted_with_password(net: &Net) -> Peer {
        // It asks the system, whose files ip-netns(8) replaces by these for whoever runs inside.
        let inside = std::path::Path::new("/etc/netns").join(&net.name);
        let account = |file: &str, entry: &str| {
            let known = fs::read_to_string(format!("/etc/{file}")).expect("accounts");
            fs::write(inside.join(file), format!("{known}{entry}\n")).expect("accounts");
        };
        account("passwd", &format!("{USER}:x:4711:4711::/:/bin/false"));
        account("shadow", &format!("{USER}:{}:19000:0:99999:7:::", hashed("-6")));
        Peer::danted_by(net, "username")
    }

    fn danted_by(net: &Net, method: &str) -> Peer {
        let text = format!(
            "logoutput: DIRECTORY/log\n\
             internal: 0.0.0.0 port = 1080\n\
             internal: :: port = 1080\n\
             external: eth0\n\
             clientmethod: none\n\
             socksmethod: {method}\n\
             user.privileged: root\n\
             user.unprivileged: nobody\n\
             client pass {{ from: 0/0 to: 0/0 }}\n\
             socks pass {{ from: 0/0 to: 0/0 log: connect }}\n"
        );
        Peer::configured(net, TempDir::open_to_all(), &["danted", "-f"], &text, &["1080"])
    }

    /// microsocks on port 1080. What it says on its standard error is its log.
    pub fn microsocks(net: &Net) -> Peer {
        Peer::start(net, TempDir::open_to_all(), &["microsocks", "-i", "::", "-p", "1080"], &["1080"])
    }

    /// The same, for those who know the password.
    pub fn microsocks_with_password(net: &Net) -> Peer {
        let words = ["microsocks", "-i", "::", "-p", "1080", "-u", USER, "-P", PASSWORD];
        Peer::start(net, TempDir::open_to_all(), &words, &["1080"])
    }

    /// HAProxy behind a PROXY header, on port 8080. It answers each request with `SOURCE PORT DESTINATION PORT`.
    pub fn haproxy_echo(net: &Net) -> Peer {
        let page = "%[src] %[src_port] %[dst] %[dst_port]";
        let text = format!(
            "defaults\n mode http\n timeout client 20s\n timeout connect 20s\n timeout server 20s\n\
             frontend echo\n bind :::8080 v4v6 accept-proxy\n\
             \x20http-request return status 200 content-type text/plain lf-string \"{page}\"\n"
        );
        Peer::configured(net, TempDir::open_to_all(), &["haproxy", "-db", "-f"], &text, &["8080"])
    }

    /// HAProxy on port 3128, as a proxy for moose alone. A line of its log is like one of [`Peer::squid_witness`].
    pub fn haproxy_witness(net: &Net) -> Peer {
        let text = "global\n log stdout format raw local0\n\
             defaults\n mode http\n timeout client 20s\n timeout connect 20s\n timeout server 20s\n timeout tunnel 20s\n\
             frontend proxy\n bind :::3128 v4v6\n log global\n\
             \x20option accept-invalid-http-request\n option dontlognull\n option http-ignore-probes\n\
             \x20http-request capture req.hdr(X-Forwarded-For) len 256\n\
             \x20http-request capture req.hdr(X-Number) len 32\n\
             \x20http-request set-header Via \"1.1 haproxy\"\n\
             \x20log-format \"witness %HM %HU %ST %[capture.req.hdr(0)] %[capture.req.hdr(1)]\"\n\
             \x20default_backend moose\n\
             backend moose\n server moose 10.2.0.5:80\n";
        Peer::configured(net, TempDir::open_to_all(), &["haproxy", "-db", "-f"], text, &["3128"])
    }

    /// HAProxy as a balancer on port 80, which sends everything on with a header: `send-proxy` or `send-proxy-v2`.
    pub fn haproxy_balancer(net: &Net, to: &str, header: &str) -> Peer {
        let text = format!(
            "defaults\n mode tcp\n timeout client 20s\n timeout connect 20s\n timeout server 20s\n\
             listen balancer\n bind :::80 v4v6\n server next {to} {header}\n"
        );
        Peer::configured(net, TempDir::open_to_all(), &["haproxy", "-db", "-f"], &text, &["80"])
    }

    /// nginx behind a PROXY header, on port 8080. It answers like [`Peer::haproxy_echo`].
    pub fn nginx_echo(net: &Net) -> Peer {
        let page = "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port";
        Peer::nginx(
            net,
            TempDir::open_to_all(),
            &format!("listen [::]:8080 ipv6only=off proxy_protocol; return 200 \"{page}\";"),
        )
    }

    /// nginx on port 8080. A line of its log is the address of a client, and so is its page.
    pub fn nginx_witness(net: &Net) -> Peer {
        let directory = TempDir::open_to_all();
        let log = directory.file("clients");
        Peer::nginx(
            net,
            directory,
            &format!(
                "listen [::]:8080 ipv6only=off backlog=4096; access_log {log} seen; keepalive_timeout 0; return 200 \"$remote_addr\";"
            ),
        )
    }

    /// HAProxy on port 8080. Its page is the address of the client.
    pub fn haproxy_client_witness(net: &Net) -> Peer {
        let text = "global\n maxconn 4000\n\
             defaults\n mode http\n timeout client 20s\n timeout connect 20s\n timeout server 20s\n\
             frontend witness\n bind :::8080 v4v6 backlog 4096\n option http-server-close\n\
             \x20http-request return status 200 content-type text/plain lf-string \"%[src]\"\n";
        Peer::configured(net, TempDir::open_to_all(), &["haproxy", "-db", "-f"], text, &["8080"])
    }

    /// The addresses of clients in the log of [`Peer::nginx_witness`], IPv4 as IPv4.
    pub fn clients(&self) -> Vec<IpAddr> {
        let text = fs::read_to_string(self.file("clients")).unwrap_or_default();
        let addresses = text.lines().filter_map(|line| line.trim().parse::<IpAddr>().ok());
        addresses.map(|ip| ip.to_canonical()).collect()
    }

    /// nginx with TLS on port 443 and a certificate of its own for these names, as openssl(1) writes them:
    /// `DNS:name,IP:address`. Its page holds the name that was asked for by SNI, and the `Host`.
    pub fn nginx_tls(net: &Net, names: &str) -> Peer {
        let directory = TempDir::open_to_all();
        let [key, certificate] = certified(net, &directory, names);
        let server = format!(
            "listen [::]:443 ipv6only=off ssl; ssl_certificate {certificate}; ssl_certificate_key {key};\n\
             return 200 \"secret of $ssl_server_name $host\";"
        );
        Peer::nginx(net, directory, &server)
    }

    /// The server of openssl(1), which speaks TLS on this port.
    pub fn openssl(net: &Net, port: &str) -> Peer {
        let directory = TempDir::open_to_all();
        let [key, certificate] = certified(net, &directory, "DNS:test");
        let words = ["openssl", "s_server", "-accept", port, "-key", &key, "-cert", &certificate, "-quiet"];
        Peer::start(net, directory, &words, &[port])
    }

    fn nginx(net: &Net, directory: TempDir, server: &str) -> Peer {
        let port = if server.contains(":443") { "443" } else { "8080" };
        let text = format!(
            "daemon off;\nmaster_process off;\npid DIRECTORY/pid;\nerror_log DIRECTORY/log;\nevents {{ }}\n\
             http {{\n log_format seen \"$remote_addr\";\n access_log off;\n default_type text/plain;\n\
             client_body_temp_path DIRECTORY; proxy_temp_path DIRECTORY; fastcgi_temp_path DIRECTORY;\n\
             uwsgi_temp_path DIRECTORY; scgi_temp_path DIRECTORY;\n\
             server {{ {server} }}\n}}\n"
        );
        let errors = directory.file("log");
        Peer::configured(net, directory, &["nginx", "-e", &errors, "-c"], &text, &[port])
    }

    /// The path of a file in its directory.
    pub fn file(&self, name: &str) -> String {
        self.directory.file(name)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.file("log")).unwrap_or_default()).into_owned() + &self.said.text()
    }

    /// How many lines of its log hold this text.
    pub fn count(&self, needle: &str) -> usize {
        self.log().lines().filter(|line| line.contains(needle)).count()
    }

    /// Waits for a line of its log that holds this text.
    pub fn wait_for(&self, needle: &str) -> String {
        let find = || self.log().lines().find(|line| line.contains(needle)).map(str::to_string);
        wait::try_until(wait::PATIENCE, find)
            .unwrap_or_else(|| panic!("no line with {needle:?} in the log of {}:\n{}", self.name, self.log()))
    }

    /// Starts it with a configuration, which follows the words, and in which DIRECTORY stands for its directory.
    fn configured(net: &Net, directory: TempDir, words: &[&str], text: &str, ports: &[&str]) -> Peer {
        let file = directory.file("configuration");
        fs::write(&file, text.replace("DIRECTORY", &directory.path.display().to_string())).expect("configuration");
        Peer::start(net, directory, &[words, &[file.as_str()]].concat(), ports)
    }

    fn start(net: &Net, directory: TempDir, words: &[&str], ports: &[&str]) -> Peer {
        let family = Family::new();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &net.name]).args(words).envs([family.entry()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let said = Journal::default();
        said.follow(child.stdout.take().expect("stdout"));
        said.follow(child.stderr.take().expect("stderr"));
        let mut peer = Peer { directory, child, family, said, name: words[0].to_string() };
        ports.iter().for_each(|port| peer.wait_listening(net, port));
        peer
    }

    fn wait_listening(&mut self, net: &Net, port: &str) {
        let there = wait::try_until(wait::PATIENCE, || {
            let ended = self.child.try_wait().expect("wait").is_some();
            let listens = !net.run(&["ss", "-Hltn", "sport", "=", &format!(":{port}")]).is_empty();
            (ended || listens).then_some(!ended)
        });
        assert_eq!(there, Some(true), "{} does not listen on port {port}:\n{}", self.name, self.everything());
    }

    /// All that can tell what went wrong.
    fn everything(&self) -> String {
        self.log() + &fs::read_to_string(self.file("cache.log")).unwrap_or_default()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            crate::report(&format!("the log of {}:\n{}", self.name, self.everything()));
        }
        self.family.end();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a key and a certificate for these names, and returns their files.
fn certified(net: &Net, directory: &TempDir, names: &str) -> [String; 2] {
    let [key, certificate] = ["key.pem", "certificate.pem"].map(|name| directory.file(name));
    let names = format!("subjectAltName={names}");
    let words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test";
    let words: Vec<&str> = words.split(' ').collect();
    net.run(&[&words[..], &["-addext", &names, "-keyout", &key, "-out", &certificate]].concat());
    [key, certificate]
}

/// The password as the proxies keep it.
fn hashed(method: &str) -> String {
    let done = Command::new("openssl").args(["passwd", method, PASSWORD]).output().expect("openssl");
    assert!(done.status.success(), "openssl passwd {method}");
    String::from_utf8(done.stdout).expect("a hash").trim_end().to_string()
}

/// Runs a command inside, which may fail. It knows of no proxy, whatever the environment says.
pub fn attempt(net: &Net, words: &[&str]) -> Output {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &net.name]).args(words).stdin(Stdio::null());
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.output().unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// A headless browser's view of a page, as the text of its document. It trusts every certificate.
pub fn browse(net: &Net, profile: &str, url: &str) -> Output {
    // It gives a page up when an address of the machine changes meanwhile.
    wait::until_true("settled addresses", || net.run(&["ip", "-6", "address", "show", "tentative"]).is_empty());
    let profile = format!("--user-data-dir={profile}");
    let words = "timeout -k 5 60 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage \
                 --ignore-certificate-errors --disable-background-networking --no-first-run --dump-dom";
    attempt(net, &[&words.split_whitespace().collect::<Vec<_>>()[..], &[&profile, url]].concat())
}

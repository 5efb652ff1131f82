# make            builds tproxy and tproxyctl
# make demo       shows it at work in network namespaces that exist only during the demo (root); FIREWALL=nft shows it with
#                 nft also where there is iptables
# make demo-proxy shows in the same way how it enforces the use of a proxy, a real Squid (root)
# make demo-transparent shows in the same way how the upstream sees the client's own address (root)
# make demo-ha    shows two gateways that stand in for each other, and how long a failover takes (root)
# make bench      measures it beside HAProxy, nginx, rinetd, redsocks and socat in the same way (root); scripts/bench
#                 lists the settings, for example 'make bench ONLY=small ROUNDS=3'
# make bench-rules measures what redirections cost with iptables and with nft, in the same way (root)
# make test       installs what the tests need and runs them all (root)
# make test-nft   runs the tests of rules and traffic again, with --firewall nft (root)
# make soak       runs loads and faults of every kind for ten minutes, and checks every byte (root); SECONDS= sets another
#                 time, and SEED= repeats a run that printed its seed
# make fuzz       makes up requests for an hour and has real proxies tell which of them have come past tproxy (root);
#                 SECONDS= and SEED= as for soak
# make check      checks format, lints, documentation, manual pages and shell scripts
# make supply     checks the crates with cargo-deny, if it is installed
# make deb        builds the Debian package under target/deb/; REVISION= sets its revision
# make rpm        builds the package for rpm under target/rpm/
# make tarball    packs programs that need no library of the system (musl) into target/tproxy-VERSION-ARCHITECTURE.tar.gz
# make test-boot  tries the Debian package on a machine that boots (root); make test-upgrades upgrades it fifty times
# make install    installs into $(DESTDIR)$(PREFIX); make uninstall removes it

PREFIX     = /usr/local
SBINDIR    = $(PREFIX)/sbin
MANDIR     = $(PREFIX)/share/man
UNITDIR    = $(PREFIX)/lib/systemd/system
SYSCONFDIR = /etc
LOGDIR     = /var/log/tproxy
LIBEXECDIR = $(PREFIX)/libexec/tproxy
BASHDIR    = $(PREFIX)/share/bash-completion/completions
ZSHDIR     = $(PREFIX)/share/zsh/site-functions
FISHDIR    = $(PREFIX)/share/fish/vendor_completions.d

CARGO      = cargo
TARGET_DIR = $(or $(CARGO_TARGET_DIR),target)
BINARY     = $(TARGET_DIR)/release/tproxy
CONTROLLER = $(BINARY)ctl

# A shell knows rustup's directory only after the next login. This finds a toolchain that was installed just now.
export PATH := $(PATH):$(HOME)/.cargo/bin

all:
	$(CARGO) build --release --locked

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items
	lint=$$(mandoc -T lint -W warning man/*.[58]) || { echo "$$lint"; exit 1; }
	shellcheck -x tests/suites/nginx/run scripts/setup scripts/demo scripts/demo-proxy scripts/demo-transparent \
		scripts/demo-ha scripts/bench scripts/bench-rules scripts/screenshots scripts/tproxy-alive scripts/lib/*.sh \
		scripts/deb scripts/rpm scripts/tarball scripts/upgrade-running debian/postinst debian/prerm debian/postrm \
		scripts/tproxy.init scripts/tproxy.default scripts/completions/*.bash .ci/run

# tests/supply.rs checks most of this on every machine. A check that is impossible here is no failure, because not every
# machine has the tool or reaches the database of vulnerabilities.
supply:
	@if ! $(CARGO) deny --version >/dev/null 2>&1; then \
		echo 'supply: NOT CHECKED: deny.toml; cargo-deny is not installed (cargo install --locked cargo-deny)'; \
	elif ! $(CARGO) deny --offline check --hide-inclusion-graph bans licenses sources; then \
		exit 1; \
	elif ! $(CARGO) deny fetch db >/dev/null 2>&1; then \
		echo 'supply: NOT CHECKED: vulnerabilities; https://github.com/RustSec/advisory-db cannot be reached'; \
	else \
		$(CARGO) deny check advisories; \
	fi

# An optimised build, because some tests measure. With TPROXY_MUST_NETNS a test fails if it cannot make its namespaces. Most
# tests wait most of the time, so more of them run at once than there are CPUs.
test: root
	scripts/setup
	TPROXY_MUST_NETNS=1 RUST_TEST_THREADS=$${RUST_TEST_THREADS:-4} $(CARGO) test --profile tested --locked -- \
		--skip shortages::
	TPROXY_MUST_NETNS=1 $(CARGO) test --profile tested --locked --test faults -- --test-threads 1 shortages::

# With nft in place of iptables. What is left out looks at iptables itself, does not depend on the rules, or takes long.
NFT_TESTS = scenarios:: rule_ownership:: traffic:: forwarding:: table::all_scenarios table::unreachable \
	table::a_reload_changes processes::without_a_worker processes::after_a_crash names::every_address_of_a \
	tools::an_unknown tools::a_daemon confinement::the_programs warnings::a_condition
test-nft: root
	scripts/setup
	TPROXY_MUST_NETNS=1 TPROXY_TEST_FIREWALL=nft RUST_TEST_THREADS=$${RUST_TEST_THREADS:-4} \
		$(CARGO) test --profile tested --locked --test netns --test firewall -- $(NFT_TESTS)

demo demo-proxy demo-transparent: root
	scripts/setup $@
	$(CARGO) build --release --locked
	scripts/$@ $(BINARY)

demo-ha: root
	scripts/setup $@
	$(CARGO) build --release --locked --bin tproxy --bin tproxyctl
	$(CARGO) build --release --locked -p contest --bin outages
	scripts/$@ $(dir $(BINARY))

# The shell has a variable SECONDS itself, so the script takes SECONDS_EACH.
bench: root
	scripts/setup $@
	$(CARGO) build --release --locked
	SECONDS_EACH=$(or $(SECONDS_EACH),$(SECONDS)) scripts/bench $(BINARY)

bench-rules: root
	scripts/setup $@
	$(CARGO) build --release --locked
	$(CARGO) build --release --locked -p contest --bin firewalls
	scripts/$@ $(dir $(BINARY))

# 'make test' runs one minute of this.
soak: root
	scripts/setup
	TPROXY_MUST_NETNS=1 SOAK_SECONDS=$(or $(SECONDS),600) $(if $(SEED),SOAK_SEED=$(SEED)) \
		$(CARGO) test --profile tested --locked --test faults -- --nocapture --exact soak::soak

# 'make test' runs 12 seconds of this.
fuzz: root
	scripts/setup
	TPROXY_MUST_NETNS=1 FUZZ_SECONDS=$(or $(SECONDS),3600) $(if $(SEED),FUZZ_SEED=$(SEED)) \
		$(CARGO) test --profile tested --locked --test netns -- --nocapture no_request_reaches_a_proxy

# What is made from the table of options: the lists in the manual pages, and the completions for shells.
man:
	TPROXY_BLESS=1 $(CARGO) test --locked -q --test cli generated_files

# A package from the programs of this machine's libc, and one from programs that need none.
deb: all
	scripts/deb $(TARGET_DIR) $(REVISION)

rpm: all
	scripts/rpm $(TARGET_DIR)

MUSL = $(shell uname -m)-unknown-linux-musl

tarball:
	@test -d "$$(rustc --print sysroot)/lib/rustlib/$(MUSL)" || \
		{ echo "Rust's $(MUSL) is not installed: rustup target add $(MUSL)" >&2; exit 1; }
	$(CARGO) build --release --locked --target $(MUSL)
	scripts/tarball $(TARGET_DIR) $(MUSL)

# The root directory of the machine is made once, below target/boot/. A skip is a failure.
test-boot test-upgrades: root
	scripts/setup boot
	$(MAKE) deb REVISION=1
	TPROXY_DEB="$$(realpath $(TARGET_DIR)/deb/*.deb)" TPROXY_MUST_NETNS=1 \
		$(if $(filter test-upgrades,$@),TPROXY_UPGRADES=50) $(CARGO) test --release --locked --test boot -- --ignored \
		$(if $(filter test-upgrades,$@),upgrades_of_the_package)

WITH_PATH = sed -e 's|/usr/local/sbin/tproxy|$(SBINDIR)/tproxy|g'

# The unit of one instance for each /etc/tproxy/NAME.conf is the other one, with that file in place of DAEMON_OPTS.
INSTANCE = -e 's|^\(Description=.*\)|\1 (%i)|' -e 's|^\(Documentation=.*\)|\1 man:tproxy.conf(5)|' \
	-e '/^EnvironmentFile=/d' -e 's|\$$DAEMON_OPTS|-c $(SYSCONFDIR)/tproxy/%i.conf|'

# Builds nothing, because root may have no toolchain.
install:
	@for program in $(BINARY) $(CONTROLLER); do \
		test -x $$program || { echo "there is no $$program yet: run 'make' first" >&2; exit 1; }; \
	done
	install -D -m 755 $(BINARY) $(DESTDIR)$(SBINDIR)/tproxy
	install -D -m 755 $(CONTROLLER) $(DESTDIR)$(SBINDIR)/tproxyctl
	install -D -m 644 man/tproxy.8 $(DESTDIR)$(MANDIR)/man8/tproxy.8
	install -D -m 644 man/tproxyctl.8 $(DESTDIR)$(MANDIR)/man8/tproxyctl.8
	install -D -m 644 man/tproxy.conf.5 $(DESTDIR)$(MANDIR)/man5/tproxy.conf.5
	install -D -m 644 scripts/completions/tproxy.bash $(DESTDIR)$(BASHDIR)/tproxy
	install -D -m 644 scripts/completions/_tproxy $(DESTDIR)$(ZSHDIR)/_tproxy
	install -D -m 644 scripts/completions/tproxy.fish $(DESTDIR)$(FISHDIR)/tproxy.fish
	install -D -m 644 scripts/completions/tproxyctl.bash $(DESTDIR)$(BASHDIR)/tproxyctl
	install -D -m 644 scripts/completions/_tproxyctl $(DESTDIR)$(ZSHDIR)/_tproxyctl
	install -D -m 644 scripts/completions/tproxyctl.fish $(DESTDIR)$(FISHDIR)/tproxyctl.fish
	install -D -m 644 scripts/monitoring/tproxy-alerts.yml $(DESTDIR)$(PREFIX)/share/doc/tproxy/tproxy-alerts.yml
	install -D -m 644 scripts/monitoring/tproxy-dashboard.json $(DESTDIR)$(PREFIX)/share/doc/tproxy/tproxy-dashboard.json
	install -D -m 644 scripts/tproxy.conf $(DESTDIR)$(PREFIX)/share/doc/tproxy/tproxy.conf
	install -d $(DESTDIR)$(SYSCONFDIR)/init.d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(LIBEXECDIR)
	install -d -m 755 $(DESTDIR)$(SYSCONFDIR)/tproxy $(DESTDIR)$(LOGDIR)
	$(WITH_PATH) scripts/tproxy.init > $(DESTDIR)$(SYSCONFDIR)/init.d/tproxy
	$(WITH_PATH) scripts/upgrade-running > $(DESTDIR)$(LIBEXECDIR)/upgrade-running
	chmod 755 $(DESTDIR)$(SYSCONFDIR)/init.d/tproxy $(DESTDIR)$(LIBEXECDIR)/upgrade-running
	$(WITH_PATH) scripts/tproxy.service > $(DESTDIR)$(UNITDIR)/tproxy.service
	$(WITH_PATH) $(INSTANCE) scripts/tproxy.service > $(DESTDIR)$(UNITDIR)/tproxy@.service
	chmod 644 $(DESTDIR)$(UNITDIR)/tproxy.service $(DESTDIR)$(UNITDIR)/tproxy@.service
	install -D -m 644 scripts/tproxy.logrotate $(DESTDIR)$(SYSCONFDIR)/logrotate.d/tproxy
	install -D -m 755 scripts/tproxy-alive $(DESTDIR)$(LIBEXECDIR)/tproxy-alive
	test -e $(DESTDIR)$(SYSCONFDIR)/default/tproxy || \
		install -D -m 644 scripts/tproxy.default $(DESTDIR)$(SYSCONFDIR)/default/tproxy

# Stop the daemon before, so that it removes its rules. A default file that was edited stays, and so do logs and the files
# of instances.
uninstall:
	rm -f $(DESTDIR)$(SBINDIR)/tproxy $(DESTDIR)$(MANDIR)/man8/tproxy.8 \
		$(DESTDIR)$(MANDIR)/man5/tproxy.conf.5 $(DESTDIR)$(PREFIX)/share/doc/tproxy/tproxy.conf \
		$(DESTDIR)$(LIBEXECDIR)/tproxy-alive $(DESTDIR)$(PREFIX)/share/doc/tproxy/tproxy-alerts.yml \
		$(DESTDIR)$(PREFIX)/share/doc/tproxy/tproxy-dashboard.json \
		$(DESTDIR)$(BASHDIR)/tproxy $(DESTDIR)$(ZSHDIR)/_tproxy $(DESTDIR)$(FISHDIR)/tproxy.fish \
		$(DESTDIR)$(SBINDIR)/tproxyctl $(DESTDIR)$(MANDIR)/man8/tproxyctl.8 $(DESTDIR)$(BASHDIR)/tproxyctl \
		$(DESTDIR)$(ZSHDIR)/_tproxyctl $(DESTDIR)$(FISHDIR)/tproxyctl.fish \
		$(DESTDIR)$(SYSCONFDIR)/init.d/tproxy $(DESTDIR)$(UNITDIR)/tproxy.service \
		$(DESTDIR)$(UNITDIR)/tproxy@.service $(DESTDIR)$(SYSCONFDIR)/logrotate.d/tproxy \
		$(DESTDIR)$(LIBEXECDIR)/upgrade-running
	rmdir --ignore-fail-on-non-empty $(DESTDIR)$(LIBEXECDIR) $(DESTDIR)$(PREFIX)/share/doc/tproxy \
		$(DESTDIR)$(SYSCONFDIR)/tproxy $(DESTDIR)$(LOGDIR) 2>/dev/null || :
	! cmp -s scripts/tproxy.default $(DESTDIR)$(SYSCONFDIR)/default/tproxy || \
		rm -f $(DESTDIR)$(SYSCONFDIR)/default/tproxy

clean:
	$(CARGO) clean

root:
	@test "$$(id -u)" = 0 || { \
		echo "This needs root, because it makes network namespaces and firewall rules in them:" >&2; \
		echo "    sudo env PATH=\"\$$PATH\" HOME=\"\$$HOME\" make $(MAKECMDGOALS)" >&2; \
		echo "Without root, 'cargo test' runs the tests that need no root, and prints what it skips." >&2; \
		exit 1; }

.PHONY: all deb rpm tarball test-boot test-upgrades check supply test test-nft demo demo-proxy demo-transparent demo-ha bench bench-rules soak fuzz man install uninstall clean root

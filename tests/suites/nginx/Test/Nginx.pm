package Test::Nginx;

# Stands in for the module of this name in the tests of nginx, and runs tproxy instead: one process for each server of
# the stream block. A test that needs what tproxy does not have is skipped, with the reason.

use warnings;
use strict;

use base qw/ Exporter /;
our @EXPORT = qw/ port /;

use File::Temp;
use IO::Socket::IP;
use Socket qw/ SOCK_STREAM /;
use Test::More qw//;

my %ports;

# What has no meaning here: processes, log formats, and buffers, of which a relay has none.
my %ignored = map { $_ => 1 } qw/
	access_log daemon error_log log_format master_process pid proxy_buffer_size proxy_next_upstream tcp_nodelay /;

sub new {
	die "TPROXY: not set; the program to be tested\n" unless -x ($ENV{TPROXY} || '');
	return bless { directory => File::Temp->newdir(), pid => $$, children => [], started => [] };
}

sub DESTROY {
	my ($self) = @_;
	local $?;
	$self->stop_all(@$self{qw/ children started /}) if $self->{pid} == $$;
}

sub has {
	my ($self, @features) = @_;
	for my $feature (@features) {
		Test::More::plan(skip_all => "no $feature in tproxy") unless $feature =~ /^stream(_access|_limit_conn)?$/;
	}
	return $self;
}

sub plan {
	my ($self, $count) = @_;
	Test::More::plan(tests => $count);
	return $self;
}

sub port {
	my ($number) = @_;
	$ports{$number} ||= IO::Socket::IP->new(LocalAddr => '127.0.0.1', Type => SOCK_STREAM, Listen => 1)->sockport();
	return $ports{$number};
}

sub write_file_expand {
	my ($self, $name, $text) = @_;
	$text =~ s/%%TEST_GLOBALS(_HTTP)?%%//g;
	$text =~ s/%%TESTDIR%%/$self->{directory}/g;
	$text =~ s/127\.0\.0\.1:(8\d\d\d)/'127.0.0.1:' . port($1)/ge;
	$text =~ s/%%PORT_(\d+)%%/port($1)/ge;
	return $self->write_file($name, $text);
}

sub write_file {
	my ($self, $name, $text) = @_;
	open my $file, '>', "$self->{directory}/$name" or die "$name: $!\n";
	print $file $text;
	close $file;
	return $self;
}

sub read_file {
	my ($self, $name) = @_;
	open my $file, '<', "$self->{directory}/$name" or return '';
	local $/;
	return scalar <$file>;
}

# The configuration as a list of directives: each a list of words, and perhaps a block.
sub directives {
	my ($words) = @_;
	my (@all, @one);
	while (defined(my $word = shift @$words)) {
		if ($word eq ';') { push @all, { words => [@one] }; @one = (); }
		elsif ($word eq '{') { push @all, { words => [@one], block => directives($words) }; @one = (); }
		elsif ($word eq '}') { last; }
		else { push @one, $word; }
	}
	return \@all;
}

sub skip { die "skipped: $_[0]\n"; }

# The upstreams of a group, in the order in which they are tried.
sub group {
	my ($block) = @_;
	my (@first, @backup);
	for (@$block) {
		my ($name, $address, @options) = @{ $_->{words} };
		skip("upstream: $name") unless $name eq 'server';
		next if grep { $_ eq 'down' } @options;
		# Who has a weight is named as often.
		my ($weight) = map { /^weight=(\d+)/ } @options;
		push @{ (grep { $_ eq 'backup' } @options) ? \@backup : \@first }, ($address) x ($weight || 1);
	}
	# With backups, all are tried in order: tproxy cannot have the first ones take turns then.
	return { balance => @backup ? 'first' : 'round-robin', addresses => [@first, @backup] };
}

# The command lines for one server.
sub commands {
	my ($server, $groups) = @_;
	my (%one, @listen);
	for (@$server) {
		my ($name, @values) = @{ $_->{words} };
		if ($name eq 'listen') { push @listen, $values[0]; skip("listen @values") if @values > 1; }
		else { $one{$name} = [@values]; }
	}
	my @options = qw/ -d --drain 1 /;
	my $pass = delete $one{proxy_pass} or skip('a server without proxy_pass');
	my $to = $groups->{ $pass->[0] } || { balance => 'first', addresses => [ $pass->[0] ] };
	my @addresses = @{ $to->{addresses} };
	my $next = delete $one{proxy_next_upstream};
	my $tries = delete $one{proxy_next_upstream_tries};
	my $most = $next && $next->[0] eq 'off' ? 1 : $tries ? $tries->[0] : @addresses;
	splice @addresses, $most if $most < @addresses;
	push @options, '--balance', $to->{balance} if @addresses > 1;
	push @options, '--connect-timeout', $1 if (delete $one{proxy_connect_timeout} || [''])->[0] =~ /^(\d+)s?$/;
	push @options, '--idle-timeout', $1 if (delete $one{proxy_timeout} || [''])->[0] =~ /^(\d+)s?$/;
	push @options, '--proxy-protocol', 'v1' if (delete $one{proxy_protocol} || ['off'])->[0] eq 'on';
	for (grep { !$ignored{$_} } sort keys %one) { skip($_); }
	my @upstreams = map { /^\[?([^\]]+)\]?:(\d+)$/ ? ($1, $2) : skip("proxy_pass $_") } @addresses;
	return map {
		my ($ip, $port) = /^\[?([^\]]+)\]?:(\d+)$/ or skip("listen $_");
		[ $ENV{TPROXY}, '-s', $port, '-b', $ip, @options, @upstreams ];
	} @listen;
}

sub plan_of {
	my ($text) = @_;
	$text =~ s/#.*$//mg;
	my $all = directives([ $text =~ /[{};]|[^\s{};]+/g ]);
	my ($stream) = map { $_->{block} } grep { $_->{words}[0] eq 'stream' } @$all;
	skip('http') if grep { $_->{words}[0] eq 'http' } @$all;
	my %groups = map { $_->{words}[1] => group($_->{block}) } grep { $_->{words}[0] eq 'upstream' } @$stream;
	my @common = grep { !$_->{block} } @$stream;
	return map { commands([ @common, @{ $_->{block} } ], \%groups) } grep { $_->{words}[0] eq 'server' } @$stream;
}

sub run {
	my ($self) = @_;
	my @commands = eval { plan_of($self->read_file('nginx.conf')) };
	if (my ($reason) = $@ =~ /^skipped: (.*)/) {
		Test::More->builder->has_plan ? Test::More::BAIL_OUT($reason) : Test::More::plan(skip_all => "no $reason in tproxy");
	}
	die $@ if $@;
	for my $command (@commands) {
		push @{ $self->{started} }, child(sub {
			open STDERR, '>>', "$self->{directory}/error.log";
			exec @$command;
		});
		$self->waitforsocket(($command->[4] =~ /:/ ? "[$command->[4]]" : $command->[4]) . ":$command->[2]");
	}
	return $self;
}

sub try_run { return $_[0]->run(); }

sub child {
	my ($code, @values) = @_;
	my $pid = fork();
	die "fork: $!\n" unless defined $pid;
	return $pid if $pid;
	$code->(@values);
	exit 0;
}

sub run_daemon {
	my ($self, $code, @values) = @_;
	push @{ $self->{children} }, child($code, @values);
	return $self;
}

sub waitforsocket {
	my ($self, $peer) = @_;
	for (1 .. 100) {
		return 1 if IO::Socket::IP->new(PeerAddr => $peer, Type => SOCK_STREAM);
		select undef, undef, undef, 0.05;
	}
	die "nobody listens on $peer\n";
}

sub stop { $_[0]->stop_all($_[0]{started}); return $_[0]; }

sub stop_all {
	my ($self, @lists) = @_;
	for my $pid (map { splice @$_ } @lists) {
		kill 'TERM', $pid;
		waitpid $pid, 0;
	}
}

sub log_core { }

1;

package Test::Nginx::Stream;

# A client of the stream tests: what their own module of this name does.

use warnings;
use strict;

use base qw/ Exporter /;
our @EXPORT_OK = qw/ stream /;

use IO::Select;
use IO::Socket::IP;
use Socket qw/ SOCK_STREAM /;

sub stream {
	my ($peer) = @_;
	my $socket = IO::Socket::IP->new(PeerAddr => $peer, Type => SOCK_STREAM)
		or die "cannot connect to $peer: $!\n";
	return bless { socket => $socket };
}

sub write {
	my ($self, $data) = @_;
	local $SIG{PIPE} = 'IGNORE';
	$self->{socket}->syswrite($data);
	return $data;
}

# One piece, or nothing at the end or after a while.
sub read {
	my ($self, %extra) = @_;
	my $piece = '';
	my $wait = $extra{read_timeout} || 8;
	$self->{socket}->sysread($piece, 65536) if IO::Select->new($self->{socket})->can_read($wait);
	return $piece;
}

sub io {
	my ($self, $data, %extra) = @_;
	$self->write($data);
	my $all = '';
	while (!defined $extra{length} || length $all < $extra{length}) {
		my $piece = $self->read(%extra);
		last unless defined $piece && length $piece;
		$all .= $piece;
	}
	return $all;
}

sub sockport { return $_[0]{socket}->sockport(); }

1;

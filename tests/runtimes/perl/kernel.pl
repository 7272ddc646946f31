#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# A kernel for Perl, as small as one can be: it keeps package variables from cell to cell, answers
# with the value of the last statement, and ends a cell, not itself, on die and on SIGINT.

# First, so that a cell sees none of our variables.
sub run_cell { no strict; no warnings; eval qq(#line 1 "cell $_[0]"\n$_[1]) }

use strict;
use warnings;
use Fcntl qw(F_SETFD FD_CLOEXEC);
use Scalar::Util qw(looks_like_number);

use constant { RUN => 2, READY => 16, DONE => 18 };
use constant { OK => 0, ERROR => 1, INTERRUPTED => 2 };
use constant { NONE => 0, INT => 3, FLOAT => 4, STR => 5, TEXT => 6 };
use constant FRAME_MAX => 16 * 1024 * 1024;

# The launcher made the socket descriptor 3; programs that a cell starts must not have it.
open my $agent, '+<&=', 3 or die "no socket: $!";
fcntl $agent, F_SETFD, FD_CLOEXEC;
binmode $agent;

sub read_exactly {
    my ($left, $data) = (shift, '');
    while ($left) {
        my $got = sysread $agent, $data, $left, length $data;
        next if !defined $got && $!{EINTR};
        exit 0 if !$got;    # the agent is gone, or lets us go
        $left -= $got;
    }
    return $data;
}

sub send_frame {
    my ($type, $payload) = @_;
    my $frame = pack('V C', length $payload, $type) . $payload;
    while (length $frame) {
        my $sent = syswrite $agent, $frame;
        next if !defined $sent && $!{EINTR};
        exit 1 if !$sent;
        substr $frame, 0, $sent, '';
    }
}

sub blob {
    my $text = shift;
    utf8::encode($text) if utf8::is_utf8($text);
    return pack('V', length $text) . $text;
}

# What kind of value it is, and how it is written.
sub describe {
    my $value = shift;
    return (NONE, '') if !defined $value;
    return (TEXT, "$value") if ref $value;
    return (INT, $value) if $value =~ /^-?(0|[1-9]\d{0,17})\z/;
    return (FLOAT, $value) if looks_like_number($value) && $value =~ /^-?\d/;
    return (STR, $value);
}

sub serve {
    my ($number, $code) = @_;
    my ($value, $error, $interrupted);
    {
        local $@;
        local $SIG{INT} = sub { $interrupted = 1; die "interrupted\n" };
        eval { $value = run_cell($number, $code); $error = $@; 1 } or $error = $@;
    }
    my ($status, $kind, $text) = (OK, describe($value));
    my ($name, $message) = ('', '');
    if ($interrupted || ref $error || length $error) {
        $status = $interrupted ? INTERRUPTED : ERROR;
        ($kind, $text) = (NONE, '');
        $name = $interrupted ? 'Interrupted' : ref $error || 'Died';
        ($message = "$error") =~ s/\s+\z//;
    }
    ($kind, $text) = (TEXT, '(a value of more than 15 MiB)') if length $text > 15 * 1024 * 1024;
    $message = substr $message, 0, 16384;
    send_frame(DONE, pack('C C', $status, $kind)
            . blob($text) . blob($name) . blob($message) . blob($message));
}

$SIG{INT} = 'IGNORE';    # between cells
$SIG{PIPE} = 'IGNORE';
$| = 1;                  # output is there before DONE, and at once for who watches
send_frame(READY, pack 'V', $$);
while (1) {
    my ($length, $type) = unpack 'V C', read_exactly(5);
    exit 76 if $type != RUN || $length < 9 || $length > FRAME_MAX;
    my ($number, $flags, $size, $code) = unpack 'V C V a*', read_exactly($length);
    exit 76 if $size != length $code;
    serve($number, $number ? $code : 'undef');    # cell 0 is ours: touch what a cell touches
}

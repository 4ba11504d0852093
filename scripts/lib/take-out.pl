# SPDX-License-Identifier: MIT OR Apache-2.0
#
# usage: perl take-out.pl NAME CHANGE [CHANGE]... < FILE > CHANGED
#
# Takes the guard NAME out of a source file, as scripts/guards says. With one CHANGE all marks of
# that name get it, with several the first mark gets the first and so on. Exits with 1 if a change
# does not fit, and says so.
use strict;
use warnings;

my ($name, @changes) = @ARGV;
local $/;
my $text = <STDIN>;

# The length of the statement at the head of a text: to the `;` or `,` that ends it, or to the
# bracket that closes what it stands in.
sub statement {
	my ($at, $depth) = (0, 0);
	for my $c (split //, $_[0]) {
		return $at if $depth == 0 && $c =~ /[\]})]/;
		$at++;
		$depth++ if $c =~ /[\[{(]/;
		$depth-- if $c =~ /[\]})]/;
		return $at if $depth == 0 && $c =~ /[;,]/;
	}
	return $at;
}

sub change {
	my ($how, $rest) = @_;
	if ($how =~ /^(drop|put)(?: (\d+))?(?: (.*))?$/s) {
		my ($n, $new) = ($2 // 1, $3 // '');
		$rest = substr $rest, statement($rest) for 1 .. $n;
		return "$new$rest";
	}
	return "$1$rest" if $how =~ /^before (.*)$/s;
	if ($how =~ /^(true|false)$/) {
		$rest =~ s/\A(.*?\b(?:if|while) )[^{}]*?( \{| =>)/$1$how$2/s or return;
		return $rest;
	}
	if ($how =~ /^value (.*)$/s) {
		my ($new, $length) = ($1, statement($rest));
		my $old = substr $rest, 0, $length;
		my ($head) = $old =~ /\A(\s*let [^=]*= |[^(]*?=> |\s*)/s;
		$head = $1 if $old =~ /\A(\s*\w+\(\w*\) => )/s;
		my ($tail) = $old =~ /([;,]?\s*)\z/s;
		return "$head$new$tail" . substr $rest, $length;
	}
	if ($how =~ /^sub (.*?) =>(?: (.*))?$/s) {
		my ($old, $new) = ($1, $2 // '');
		my $at = index substr($rest, 0, 400), $old;
		return if $at < 0;
		return substr($rest, 0, $at) . $new . substr $rest, $at + length $old;
	}
	die "take-out: no such change: $how\n";
}

my @parts = split /(\/\/ guard: \Q$name\E\n)/, $text;
my ($changed, $mark) = (shift @parts, 0);
while (my ($comment, $rest) = splice @parts, 0, 2) {
	my $how = $changes[@changes > 1 ? $mark : 0] // die "take-out: more marks of $name than changes\n";
	$rest = change($how, $rest) // die "take-out: '$how' does not fit the line under the mark $name\n";
	$changed .= "$comment$rest";
	$mark++;
}
$mark or die "take-out: no mark $name\n";
print $changed;

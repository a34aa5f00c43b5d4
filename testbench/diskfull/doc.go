// Package diskfull proves, on a real small filesystem, that a full disk is a normal state: writes are refused truthfully,
// what was acknowledged stays readable, deletes and administration go on, and space that was freed is used again without
// a restart.
package diskfull
